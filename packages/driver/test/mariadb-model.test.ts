import { CompiledQuery, type DatabaseConnection } from 'kysely';
import { describe, inject } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import { model } from './model/model.ts';

describe.skipIf(!inject('mariaDbUrl'))('', () =>
  model(mariaDb, 200, {
    // a transaction sees what others commit, as the oracle says; a program that waits for itself fails instead of hanging
    onCreateConnection: (connection) =>
      (connection as DatabaseConnection).executeQuery(
        CompiledQuery.raw("set tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = 1"),
      ) as Promise<unknown> as Promise<void>,
  }),
);
