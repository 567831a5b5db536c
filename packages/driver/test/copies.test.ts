/**
 * Two copies of a package in one process: a hoisting accident, a mixed workspace, a bundle. The lock is the same, and what
 * is not is said when the ORM starts.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { build } from 'esbuild';
import { expect, onTestFinished, test } from 'vitest';

const packages = join(import.meta.dirname, '../..');
const installed = (name: string) => realpathSync(join(packages, 'driver/node_modules', name));
const beside = (name: string, of: string) => realpathSync(join(dirname(dirname(installed(of))), '..', name));

/** An application that has copies of its own of some packages, and shares the rest with us. */
function application(own: readonly string[]): string {
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-copies-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const sources: Record<string, string> = {
    '@mikro-orm/core': installed('@mikro-orm/core'),
    '@mikro-orm/sql': installed('@mikro-orm/sql'),
    '@mikro-orm/sqlite': installed('@mikro-orm/sqlite'),
    'better-sqlite3': beside('better-sqlite3', '@mikro-orm/sqlite/package.json'),
    kysely: installed('kysely'),
    '@mikro-ool/core': join(packages, 'core'),
    '@mikro-ool/driver': join(packages, 'driver'),
  };
  const modules = join(directory, 'node_modules');
  for (const scope of ['@mikro-orm', '@mikro-ool']) {
    mkdirSync(join(modules, scope), { recursive: true });
  }
  for (const [name, source] of Object.entries(sources)) {
    if (!own.includes(name)) {
      symlinkSync(source, join(modules, name));
    } else if (name.startsWith('@mikro-orm/')) {
      cpSync(source, join(modules, name), { recursive: true });
    } else {
      // beside the modules, because below them Node strips no types
      const copy = join(directory, name);
      cpSync(join(source, 'src'), join(copy, 'src'), { recursive: true });
      cpSync(join(source, 'package.json'), join(copy, 'package.json'));
      mkdirSync(join(copy, 'node_modules/@mikro-orm'), { recursive: true });
      symlinkSync(sources['@mikro-orm/core']!, join(copy, 'node_modules/@mikro-orm/core'));
      symlinkSync(copy, join(modules, name));
    }
  }
  cpSync(join(import.meta.dirname, 'copies'), directory, { recursive: true });
  const dependencies = { '@mikro-orm/cli': '7' };
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ type: 'module', dependencies }));
  return directory;
}

const run = (file: string): unknown =>
  JSON.parse(execFileSync(process.execPath, ['--no-warnings', file], { encoding: 'utf8' }));

const right = {
  statements: 1,
  data: [[1, { a: [2] }], { b: [3] }, 'text'],
  of: [1, 1, false],
  versions: [2, 2, 2, 2, 2],
  conflict: 'ConcurrentUpdate',
  lock: 'ConcurrentUpdate',
  blind: 'VersionNotLoaded',
  nonsense: 'InvalidVersion',
  isOptimisticLockError: true,
  said: [],
  problems: [] as string[],
};

const twoCores = [
  expect.stringMatching(
    /There are two copies of @mikro-orm\/core: that of the ORM, and that of @mikro-ool .+ catch ConcurrentUpdate, or install one copy only\./,
  ),
];
const PROBLEM = {
  orm: 'There are two copies of @mikro-orm/core: a ConcurrentUpdate may be no OptimisticLockError.',
  ours: 'There are two copies of @mikro-ool/core. They lock like one; install one copy, of one version.',
};
const CORE = ['@mikro-orm/core', '@mikro-orm/sql', '@mikro-orm/sqlite'];
const twoOfOrm = { ...right, isOptimisticLockError: false, said: twoCores, problems: [PROBLEM.orm] };

test.each([
  { copies: [], expected: right },
  { copies: ['@mikro-orm/sql', '@mikro-orm/sqlite'], expected: right },
  { copies: ['@mikro-ool/core'], expected: { ...right, problems: [PROBLEM.ours] } },
  { copies: CORE, expected: twoOfOrm },
  { copies: [...CORE, '@mikro-ool/core'], expected: { ...twoOfOrm, problems: [PROBLEM.orm, PROBLEM.ours] } },
])('an application with its own copies of $copies', ({ copies, expected }) => {
  expect(run(join(application(copies), 'program.js'))).toEqual(expected);
});

test.each([
  { copies: [], problems: [] },
  { copies: ['@mikro-orm/sql', '@mikro-orm/sqlite'], problems: [] },
  { copies: ['@mikro-ool/core'], problems: [PROBLEM.ours] },
  { copies: CORE, problems: [PROBLEM.orm] },
  { copies: [...CORE, '@mikro-ool/core'], problems: [PROBLEM.orm, PROBLEM.ours] },
])('npx mikro-ool doctor in an application with its own copies of $copies', ({ copies, problems }) => {
  const directory = application(copies);
  const database = new DatabaseSync(join(directory, 'posts.db'));
  database.exec('create table post (id integer primary key, version integer not null default 1)');
  database.close();
  const command = join(directory, 'node_modules/@mikro-ool/driver/src/cli.ts');
  const { status, stdout } = spawnSync(process.execPath, ['--no-warnings', command, 'doctor'], {
    cwd: directory,
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1', MIKRO_ORM_CLI_PREFER_TS: '0' },
  });
  const found = stdout.match(/(?<=^wrong: ).*$/gm) ?? [];
  expect([status, found]).toEqual([problems.length > 0 ? 1 : 0, problems]);
});

test.each([
  { copies: [], expected: right },
  { copies: CORE, expected: twoOfOrm },
])('a bundle without class names, of an application with its own copies of $copies', async ({ copies, expected }) => {
  const directory = application(copies);
  const outfile = join(directory, 'bundle.js');
  await build({
    entryPoints: [join(directory, 'program.js')],
    outfile,
    bundle: true,
    minify: true,
    platform: 'node',
    format: 'esm',
    // as in MikroORM's guide: what is native, or loaded on demand, stays outside
    external: ['better-sqlite3', 'kysely', '@mikro-orm/migrations', '@mikro-orm/seeder', '@mikro-orm/entity-generator'],
    logLevel: 'error',
  });
  expect(readFileSync(outfile, 'utf8')).not.toContain('class SqlitePlatform');
  expect(run(outfile)).toEqual(expected);
});
