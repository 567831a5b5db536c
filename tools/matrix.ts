/**
 * Runs the shared suite on every database, with the oldest and the newest MikroORM that we claim, and writes the table of
 * databases into docs/databases.md from what ran: `npx pnpm matrix`.
 */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { TESTED } from '../packages/driver/src/mikro-orm/required.ts';
import { readOptions } from './command-line.ts';
import { type Versions, copyWorkspace, ownVersions, runTests, versionsUpTo } from './other-mikro-orm.ts';

/** How a database is written, by the title under which the suite ran on it. */
const DATABASES: [title: RegExp, driver: string, how: string][] = [
  [/^PostgreSQL/, 'PostgreSqlDriver', 'one statement per table and batch'],
  [/^PGlite/, 'PgliteDriver', 'one statement per table and batch'],
  [/^MariaDB.*MySqlDriver/, 'MySqlDriver', 'one statement per table and batch'],
  [/^MariaDB/, 'MariaDbDriver', 'one statement per table and batch'],
  [/^SQLite/, 'SqliteDriver', 'one statement per table and batch'],
  [/^libSQL/, 'LibSqlDriver', 'one statement per table and batch'],
  [/^a database without a dialect/, 'any other', 'row by row, always checked'],
];

/** The files that run the shared suite, by the package whose version decides what they are run on. */
const FILES: Record<string, string[]> = {
  '@mikro-orm/postgresql': ['postgresql'],
  '@mikro-orm/sqlite': ['sqlite', 'unknown-dialect'],
  '@mikro-orm/libsql': ['libsql'],
  '@mikro-orm/pglite': ['pglite'],
  '@mikro-orm/mariadb': ['mariadb', 'mariadb-mysql-driver'],
};

const USAGE = `Usage: npx pnpm matrix

Runs the shared suite on every database, with MikroORM ${TESTED.join(' and ')}, and writes the table in docs/databases.md.

  --help   this text

Servers: those that POSTGRES_URL and MARIADB_URL name, else ones that are started and thrown away.`;

readOptions(USAGE, {});

interface Line {
  readonly title: string;
  readonly mikroOrm: string;
  passed: number;
  run: number;
}

const NEWEST = TESTED[1];
const lines: Line[] = [];

function runOn(directory: string, versions: Versions, packages: string[]): void {
  const paths = packages.flatMap((name) => FILES[name]!).flatMap((name) => filesOf(directory, name));
  for (const { title, state } of runTests(directory, paths)) {
    const mikroOrm = versions.get('@mikro-orm/core')!;
    let line = lines.find((one) => one.title === title && one.mikroOrm === mikroOrm);
    if (!line) {
      line = { title, mikroOrm, passed: 0, run: 0 };
      lines.push(line);
    }
    line.run++;
    line.passed += Number(state === 'passed');
  }
}

/** `sqlite.test.ts`, and `sqlite-file.test.ts` where the suite is divided. */
function filesOf(directory: string, name: string): string[] {
  return [name, `${name}-file`]
    .map((one) => join('packages/driver/test', `${one}.test.ts`))
    .filter((file) => existsSync(join(directory, file)));
}

const own = ownVersions();
runOn(dirname(import.meta.dirname), own, Object.keys(FILES));
for (const [version, packages] of Map.groupBy(await newerThan(own), ([, one]) => one)) {
  const versions = await versionsUpTo(version);
  const directory = copyWorkspace(versions);
  runOn(
    directory,
    versions,
    packages.map(([name]) => name),
  );
  rmSync(directory, { recursive: true });
}

/** Drivers that have another version than this workspace, up to the newest that is claimed. */
async function newerThan(own: Versions): Promise<[name: string, version: string][]> {
  const newest = await versionsUpTo(NEWEST);
  return [...newest].filter(([name, version]) => name in FILES && version !== own.get(name));
}

const ordered = DATABASES.flatMap(([pattern, driver, how]) =>
  lines
    .filter(({ title }) => DATABASES.find(([first]) => first.test(title))?.[0] === pattern)
    .toSorted((a, b) => `${a.title} ${a.mikroOrm}`.localeCompare(`${b.title} ${b.mikroOrm}`))
    .map(
      ({ title, mikroOrm, passed, run }) => `| ${title} | \`${driver}\` | ${mikroOrm} | ${how} | ${passed} of ${run} |`,
    ),
);
const table = [
  '| database | MikroORM driver | MikroORM | how | tests of the shared suite passed |',
  '|---|---|---|---|--:|',
  ...ordered,
];
const page = new URL('../docs/databases.md', import.meta.url);
const text = readFileSync(page, 'utf8');
writeFileSync(
  page,
  text.replace(
    /(<!-- npx pnpm matrix -->\n\n)[^]*?(\n\n<!-- end -->)/,
    (_, before, after) => `${before}${table.join('\n')}${after}`,
  ),
);
