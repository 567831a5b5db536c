import { describe, inject } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import { storm } from './storm.ts';

describe.skipIf(!inject('mariaDbUrl'))('MariaDB', () => {
  storm(mariaDb, async (em) => {
    const [row] = await em.getConnection().execute<{ Value: string }[]>("show global status like 'Innodb_deadlocks'");
    return Number(row!.Value);
  });
});
