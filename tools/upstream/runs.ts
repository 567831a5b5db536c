/** What is run: the names that the parts of `npx pnpm upstream` have in common. */

/** As MikroORM is; with every driver wrapped; wrapped, with a hidden version in every entity that has none. */
export type Run = 'plain' | 'wrapped' | 'versions';

/** MikroORM's driver packages, and the driver class that each exports. */
export const DRIVERS = {
  sql: 'SqliteDriver', // that of node:sqlite
  sqlite: 'SqliteDriver',
  libsql: 'LibSqlDriver',
  postgresql: 'PostgreSqlDriver',
  pglite: 'PgliteDriver',
  mysql: 'MySqlDriver',
  mariadb: 'MariaDbDriver',
};

export type DriverPackage = keyof typeof DRIVERS;
