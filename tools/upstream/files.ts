/** Which of MikroORM's test files belong to which driver. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Most demanding last: a test file belongs to the last of them that it names. MySQL's tests run on MariaDB too. */
const USES = {
  sqlite: /['/](sqlite|sql)'|initORMSqlite/,
  libsql: /['/]libsql'/,
  pglite: /['/]pglite'|initORMPglite/,
  postgresql: /['/]postgresql'|initORMPostgreSql/,
  mariadb: /['/](mariadb|mysql)'|initORMMySql/,
};

export type Group = keyof typeof USES;

export const GROUPS = Object.keys(USES) as Group[];

export function testFiles(checkout: string, group: Group): string[] {
  return globSync('tests/**/*.test.ts', { cwd: checkout, exclude: ['tests/deno'] })
    .filter((file) => groupOf(readFileSync(join(checkout, file), 'utf8')) === group)
    .toSorted();
}

function groupOf(code: string): Group | undefined {
  return GROUPS.findLast((group) => USES[group].test(code));
}
