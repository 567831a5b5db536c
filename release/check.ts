/**
 * `npx pnpm release:check`: would what is published work for others?
 *
 * Packs every package, looks at the tarballs with publint and "Are the types wrong?", installs them into an empty project
 * and runs the README's program there, under every supported Node, with the types checked.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';

const NODES = ['22', '24'];
const root = new URL('..', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'mikro-ool-release-'));
let problems = 0;

function run(command: string, args: string[], cwd: string): string {
  return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

function report(name: string, found: readonly string[]): void {
  console.log(
    found.length === 0 ? `ok    ${name}` : `wrong ${name}\n${found.map((text) => `      ${text}`).join('\n')}`,
  );
  problems += found.length;
}

/** Packs a package; returns the tarball's path. */
function pack(directory: string): string {
  const [packed] = JSON.parse(`[${run('pnpm', ['pack', '--json', '--pack-destination', scratch], directory)}]`) as [
    { filename: string },
  ];
  return packed.filename;
}

async function inspect(name: string, tarball: string): Promise<void> {
  const data = readFileSync(tarball);
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  report(
    `${name}: publint`,
    messages.map((message) => formatMessage(message, pkg!) ?? message.code),
  );
  const analysis = await checkPackage(createPackageFromTarballData(new Uint8Array(data)));
  // the packages are ES modules, which Node's require() loads since 22.12
  const wrong = analysis.types ? analysis.problems.filter(({ kind }) => !IGNORED.has(kind)) : [{ kind: 'no types' }];
  report(
    `${name}: types`,
    wrong.map((problem) => JSON.stringify(problem)),
  );
}

/** `node10` knows no `exports`, and `require()` of an ES module is meant. */
const IGNORED = new Set<string>(['CJSResolvesToESM', 'NoResolution']);

/** The README's first program, in an empty project that has nothing but what npm installs. */
function runReadme(node: string, tarballs: string[]): void {
  const project = mkdtempSync(join(scratch, `node-${node}-`));
  const [, program, , expected] = readFileSync(join(root, 'README.md'), 'utf8').match(
    /```ts\n(.*?)```(.*?)```\n(.*?)```/s,
  )!;
  writeFileSync(join(project, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
  writeFileSync(join(project, 'program.ts'), program!);
  const { version } = JSON.parse(
    readFileSync(join(root, 'packages/driver/node_modules/@mikro-orm/core/package.json'), 'utf8'),
  ) as { version: string };
  const install = (...packages: string[]) =>
    run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', ...packages], project);
  install(
    `@mikro-orm/core@${version}`,
    `@mikro-orm/sqlite@${version}`,
    `node@${node}`,
    'typescript@6',
    '@types/node@22',
  );
  install(...tarballs);
  const printed = run(join(project, 'node_modules/.bin/node'), ['program.ts'], project);
  report(`README under Node ${node}`, printed === expected ? [] : [printed]);
  const flags = [
    '--noEmit',
    '--strict',
    '--module',
    'nodenext',
    '--target',
    'es2024',
    '--types',
    'node',
    '--skipLibCheck',
  ];
  run(join(project, 'node_modules/.bin/tsc'), [...flags, 'program.ts'], project);
  report(`README's types under Node ${node}`, []);
}

try {
  const names = readdirSync(join(root, 'packages'));
  const tarballs = new Map(names.map((name) => [name, pack(join(root, 'packages', name))]));
  for (const [name, tarball] of tarballs) {
    await inspect(name, tarball);
  }
  for (const node of NODES) {
    runReadme(node, [tarballs.get('core')!, tarballs.get('driver')!]);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.exitCode = problems > 0 ? 1 : 0;
