/**
 * Runs the shared suite on every database and writes the table of databases into the README from what ran:
 * `npx pnpm matrix`.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

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

interface Report {
  testResults: { assertionResults: { ancestorTitles: string[]; status: string }[] }[];
}

const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-matrix-'));
const file = join(directory, 'report.json');
// the files that run the shared suite, and nothing else
const files = [
  'sqlite',
  'sqlite-file',
  'unknown-dialect',
  'libsql',
  'postgresql',
  'pglite',
  'mariadb',
  'mariadb-mysql-driver',
];
const paths = files.map((name) => `packages/driver/test/${name}.test.ts`);
const args = ['run', ...paths, '--reporter=default', '--reporter=json', `--outputFile.json=${file}`];
spawnSync('vitest', args, { stdio: 'inherit' });
const report = JSON.parse(readFileSync(file, 'utf8')) as Report;
rmSync(directory, { recursive: true });

const counts = new Map<string, { passed: number; failed: number }>();
for (const { ancestorTitles, status } of report.testResults.flatMap((result) => result.assertionResults)) {
  const title = ancestorTitles.find(Boolean) ?? '';
  const count = counts.get(title) ?? { passed: 0, failed: 0 };
  count[status === 'passed' ? 'passed' : 'failed']++;
  counts.set(title, count);
}
const lines = DATABASES.flatMap(([pattern, driver, how]) =>
  [...counts.keys()]
    .filter((title) => DATABASES.find(([first]) => first.test(title))?.[0] === pattern)
    .toSorted()
    .map((title) => {
      const { passed, failed } = counts.get(title)!;
      return `| ${title} | \`${driver}\` | ${how} | ${passed} of ${passed + failed} |`;
    }),
);
const table = [
  '| database | MikroORM driver | how | tests of the shared suite passed |',
  '|---|---|---|--:|',
  ...lines,
];
const readme = new URL('../README.md', import.meta.url);
const text = readFileSync(readme, 'utf8');
writeFileSync(
  readme,
  text.replace(
    /(<!-- npx pnpm matrix -->\n\n)[^]*?(\n\n<!-- end -->)/,
    (_, before, after) => `${before}${table.join('\n')}${after}`,
  ),
);
