/**
 * A newcomer's walk: README's install command in an empty directory, with every package manager that README names, then its
 * program under each Node that it is given, on SQLite and, changed as README says, on PostgreSQL.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { MikroORM } from '@mikro-orm/postgresql';

const root = new URL('..', import.meta.url).pathname;
const tool = (name: string) => join(root, 'release/node_modules/.bin', name);
/** On PostgreSQL they have connections of their own, so it is not known how many are too late. */
const SAVED_AND_TOLD = /^[1-8] saved, [0-7] told: .*\n8 favourites\n$/;
const DATABASE = `walk_${process.pid}`;

interface Manager {
  readonly name: string;
  readonly before?: readonly string[];
  readonly install: readonly string[];
  /** Starts Node in a project; without, it is Node itself. */
  readonly node?: readonly string[];
  readonly env?: Record<string, string>;
}

const MANAGERS: readonly Manager[] = [
  { name: 'npm', install: ['npm', 'install'] },
  { name: 'pnpm', install: ['pnpm', 'add'] },
  {
    name: 'yarn, node-modules',
    before: [tool('yarn'), 'init'],
    install: [tool('yarn'), 'add'],
    env: { YARN_NODE_LINKER: 'node-modules' },
  },
  {
    name: "yarn, Plug'n'Play",
    before: [tool('yarn'), 'init'],
    install: [tool('yarn'), 'add'],
    node: [tool('yarn'), 'node'],
    env: { YARN_NODE_LINKER: 'pnp' },
  },
  { name: 'bun', install: [tool('bun'), 'add'] },
];

export interface Surroundings {
  /** The registry that has our packages, and the one that has the others. */
  readonly registry: string;
  readonly others: string;
  /** Directories of the `node` to run with, by version. */
  readonly nodes: ReadonlyMap<string, string>;
  readonly postgres: string;
  readonly scratch: string;
  report(name: string, problems: readonly string[]): void;
}

export async function walk(surroundings: Surroundings): Promise<void> {
  const readme = readReadme();
  for (const manager of MANAGERS) {
    for (const database of ['sqlite', 'postgresql'] as const) {
      await step(manager, database, readme, surroundings);
    }
  }
  await checkTypes(join(surroundings.scratch, 'npm-sqlite'), readme, surroundings);
}

interface Readme {
  readonly packages: string;
  readonly file: string;
  readonly program: string;
  readonly output: string;
}

function readReadme(): Readme {
  const text = readFileSync(join(root, 'README.md'), 'utf8');
  const [, packages] = text.match(/^ {4}npm install (.*)$/m)!;
  const [, file, program] = text.match(/Save this as `(.*?)`.*?```ts\n(.*?)```/s)!;
  const [, output] = text.match(/prints:\n\n```\n(.*?)```/s)!;
  return { packages: packages!, file: file!, program: program!, output: output! };
}

async function step(manager: Manager, database: 'sqlite' | 'postgresql', readme: Readme, around: Surroundings) {
  const directory = join(around.scratch, `${manager.name.replaceAll(/\W+/g, '-')}-${database}`);
  mkdirSync(directory);
  writeFileSync(join(directory, '.npmrc'), `@mikro-ool:registry=${around.registry}\n`);
  writeFileSync(join(directory, '.yarnrc.yml'), JSON.stringify(yarnSettings(around)));
  const isPostgres = database === 'postgresql';
  const packages = isPostgres ? readme.packages.replace('@mikro-orm/sqlite', '@mikro-orm/postgresql') : readme.packages;
  const program = isPostgres ? onPostgres(readme.program, `${around.postgres}/${DATABASE}`) : readme.program;
  writeFileSync(join(directory, readme.file), program);
  const env = { ...manager.env, ...CACHES(around.scratch) };
  const commands = [...(manager.before ? [manager.before] : []), [...manager.install, ...packages.split(' ')]];
  for (const command of commands) {
    const { failed, all } = await run(command, directory, env);
    around.report(`${manager.name}: ${command[1]} for ${database}`, failed ? [all] : []);
  }
  for (const [version, bin] of around.nodes) {
    const path = { PATH: `${bin}${delimiter}${process.env.PATH}` };
    const start = () => run([...(manager.node ?? ['node']), readme.file], directory, { ...env, ...path });
    const { stdout, all } = await (isPostgres ? inDatabase(around.postgres, start) : start());
    around.report(
      `${manager.name}: README's program on ${database} under Node ${version}`,
      (isPostgres ? SAVED_AND_TOLD.test(stdout) : stdout === readme.output) ? [] : [all],
    );
  }
}

/** What README says to change for PostgreSQL. */
function onPostgres(program: string, url: string): string {
  return program
    .replace('@mikro-orm/sqlite', '@mikro-orm/postgresql')
    .replaceAll('SqliteDriver', 'PostgreSqlDriver')
    .replace("dbName: ':memory:'", `clientUrl: '${url}'`);
}

/** Yarn asks no `.npmrc`; and a registry on this machine has no certificate. */
function yarnSettings({ registry, others }: Surroundings) {
  return {
    npmRegistryServer: others,
    npmScopes: { 'mikro-ool': { npmRegistryServer: registry } },
    unsafeHttpWhitelist: ['127.0.0.1'],
    enableImmutableInstalls: false,
    enableTelemetry: false,
  };
}

/** Caches that go by the version of a package would find ours of the last run. */
const CACHES = (scratch: string) => ({
  YARN_GLOBAL_FOLDER: join(scratch, 'yarn'),
  BUN_INSTALL_CACHE_DIR: join(scratch, 'bun'),
});

/** Not by `spawnSync`: the registry is in this process, and has to answer. */
export async function run(command: readonly string[], cwd: string, env: Record<string, string>) {
  const [program, ...args] = command;
  const options = { cwd, env: { ...process.env, ...env } };
  const ended = await promisify(execFile)(program!, args, options).then(
    (streams) => ({ ...streams, failed: false }),
    ({ stdout, stderr, message }) => ({ stdout, stderr: `${stderr}${message}`, failed: true }),
  );
  return { ...ended, all: `${command.join(' ')}\n${ended.stdout}${ended.stderr}` };
}

async function inDatabase<T>(url: string, work: () => Promise<T>): Promise<T> {
  const orm = await MikroORM.init({
    clientUrl: url,
    dbName: DATABASE,
    entities: [],
    discovery: { warnWhenNoEntities: false },
  });
  await orm.schema.ensureDatabase();
  try {
    return await work();
  } finally {
    await orm.schema.dropDatabase();
    await orm.close();
  }
}

/** The types of what is installed, not of our sources. */
async function checkTypes(directory: string, readme: Readme, { report }: Surroundings): Promise<void> {
  const file = readme.file.replace(/\.mjs$/, '.mts');
  copyFileSync(join(directory, readme.file), join(directory, file));
  await run(['npm', 'install', '--no-save', '@types/node@22'], directory, {});
  for (const compiler of ['typescript', 'typescript-5']) {
    const tsc = join(root, 'docs/node_modules', compiler, 'bin/tsc');
    const flags = '--noEmit --strict --module nodenext --target es2024 --types node --skipLibCheck'.split(' ');
    const { failed, all } = await run([process.execPath, tsc, ...flags, file], directory, {});
    report(`README's types for ${compiler}`, failed ? [all] : []);
  }
}
