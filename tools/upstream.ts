/**
 * Runs MikroORM's own tests, plain and with every driver wrapped, and tells what only fails wrapped:
 * `npx pnpm upstream <checkout of mikro-orm>`.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startMariaDb } from './mariadb.ts';
import { startPostgres } from './postgres.ts';
import { SAME_WITH_ITS_OWN_LOCK, reasonOf } from './upstream/expected.ts';
import { GROUPS, type Group, testFiles } from './upstream/files.ts';
import type { Results } from './upstream/reporter.ts';
import type { Run } from './upstream/runs.ts';
import { runFiles } from './upstream/vitest.ts';

const HELP = `Usage: npx pnpm upstream <checkout of mikro-orm> [options]

Runs MikroORM's own tests plain and wrapped by versioned(), and prints what only fails wrapped.

The checkout needs its dependencies: \`corepack yarn install\` in it.

  --mode wrapped    the drivers are wrapped, and nothing else changes
  --mode versions   wrapped, and every entity without a version gets a hidden one; what is said about SQL text passes
                    (without --mode: one after the other)
  --driver <name>   ${GROUPS.join(', ')}; may be repeated (without: all of them)
  --only <pattern>  only test files whose path matches this regular expression
  --help            this text

Servers: those that POSTGRES_URL and MARIADB_URL name, else ones that are started and thrown away. MikroORM's tests
create and drop databases as they like, so name no server that has anything of yours.
`;

const { values, positionals } = arguments_();
const checkout = resolve(positionals[0]!);
const modes = values.mode ? [values.mode as Run] : (['wrapped', 'versions'] as const);
const groups = (values.driver as Group[] | undefined) ?? GROUPS;
const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-upstream-'));
const table: string[] = [];
let unexpected = 0;
const servers = await startServers();

for (const group of groups) {
  const files = testFiles(checkout, group).filter((file) => new RegExp(values.only ?? '').test(file));
  if (files.length === 0) {
    continue;
  }
  const plain = await run('plain', group, files);
  for (const mode of modes) {
    await compare(mode, group, plain);
  }
}
await Promise.all(servers.map((server) => server.stop()));
rmSync(directory, { recursive: true, force: true });
const header = [
  '| driver | mode | files | pass plain | pass wrapped | expected to fail | unexpected |',
  '|---|---|--:|--:|--:|--:|--:|',
];
console.log(['', ...header, ...table].join('\n'));
process.exitCode = unexpected > 0 ? 1 : 0;

async function compare(mode: Run, group: Group, plain: Results): Promise<void> {
  const passing = Object.keys(plain).filter((test) => plain[test]!.passed);
  const wrapped = await run(mode, group, filesOf(passing));
  const failing = passing.filter((test) => !wrapped[test]?.passed);
  const control = mode === 'versions' ? await run('control', group, filesOf(failing)) : undefined;
  const reasons = Map.groupBy(failing, (test) =>
    control && !control[test]?.passed ? SAME_WITH_ITS_OWN_LOCK : reasonOf(mode, test, wrapped[test]?.error ?? ''),
  );
  const suspects = reasons.get(undefined) ?? [];
  reasons.delete(undefined);
  // it must be so again, in files of their own: some tests disturb each other
  const wrappedAgain = await run(mode, group, filesOf(suspects), 1);
  const plainAgain = await run('plain', group, filesOf(suspects), 1);
  const confirmed = suspects.filter((test) => plainAgain[test]?.passed && !wrappedAgain[test]?.passed);
  const expected = failing.length - suspects.length;

  console.log(`\n## ${group}, ${mode}\n`);
  for (const [reason, tests] of reasons) {
    console.log(`expected, ${tests.length}: ${reason}`);
  }
  for (const test of confirmed) {
    console.log(`\nUNEXPECTED ${test}\n${(wrappedAgain[test]?.error ?? 'did not run').replace(/^/gm, '    ')}`);
  }
  unexpected += confirmed.length;
  const passed = passing.length - expected - confirmed.length;
  table.push(
    `| ${[group, mode, filesOf(passing).length, passing.length, passed, expected, confirmed.length].join(' | ')} |`,
  );
}

function run(kind: Run, group: Group, files: string[], atOnce?: number): Promise<Results> {
  const note = (done: number) => process.stderr.write(`${group}, ${kind}: ${done} of ${files.length} files\n`);
  return runFiles({ checkout, run: kind, files, directory, atOnce, note });
}

function filesOf(tests: string[]): string[] {
  return [...new Set(tests.map((test) => test.split(' > ')[0]!))];
}

/** Starts the servers that the tests of these drivers need, and puts their URLs where the tests' set-up finds them. */
async function startServers(): Promise<{ stop(): Promise<void> }[]> {
  const servers: { stop(): Promise<void> }[] = [];
  const isNeeded = (...names: Group[]) => names.some((name) => groups.includes(name));
  // tests of several drivers are counted as MariaDB's
  if (isNeeded('postgresql', 'mariadb')) {
    const server = await startPostgres();
    servers.push(server);
    process.env.POSTGRES_URL = server.url;
  }
  if (isNeeded('mariadb')) {
    const server = await startMariaDb();
    if (!server) {
      throw new Error(
        'There is no mariadbd on this machine: install mariadb-server, set MARIADB_URL, or name other drivers.',
      );
    }
    servers.push(server);
    process.env.MARIADB_URL = server.url;
  }
  return servers;
}

function arguments_() {
  try {
    const parsed = parseArgs({
      allowPositionals: true,
      options: {
        mode: { type: 'string' },
        driver: { type: 'string', multiple: true },
        only: { type: 'string' },
        help: { type: 'boolean' },
      },
    });
    if (parsed.values.help) {
      console.log(HELP);
      process.exit();
    }
    const { mode, driver } = parsed.values;
    refuseUnless(parsed.positionals.length === 1, 'Name one checkout of mikro-orm.');
    refuseUnless(!mode || ['wrapped', 'versions'].includes(mode), `There is no mode "${mode}".`);
    const strange = driver?.find((name) => !GROUPS.includes(name as Group));
    refuseUnless(!strange, `There are no tests of a driver "${strange}".`);
    const { name } = JSON.parse(readFileSync(join(parsed.positionals[0]!, 'package.json'), 'utf8'));
    refuseUnless(name === '@mikro-orm/root', `${parsed.positionals[0]} is not a checkout of mikro-orm.`);
    return parsed;
  } catch (error) {
    console.error(`${(error as Error).message}\n\n${HELP}`);
    process.exit(2);
  }
}

function refuseUnless(condition: boolean, sentence: string): void {
  if (!condition) {
    throw new Error(sentence);
  }
}
