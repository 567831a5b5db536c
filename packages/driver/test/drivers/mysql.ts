import { randomUUID } from 'node:crypto';
import { MariaDbDriver } from '@mikro-orm/mariadb';
import { MySqlDriver } from '@mikro-orm/mysql';
import { versioned } from '@mikro-ool/driver';
import { inject, onTestFinished } from 'vitest';
import type { Gap, TestDriver } from '../harness.ts';
import { session } from './server.ts';

const onServer = session({ driver: MySqlDriver, clientUrl: inject('mariaDbUrl')!, dbName: 'mysql' });

async function forDatabases(what: 'create database' | 'drop database if exists', names: string[]): Promise<void> {
  await onServer(...names.map((name) => `${what} \`${name}\``));
}

/** Both MikroORM drivers of the family, on the same MariaDB server. */
const onMariaDb = (name: string, Driver: typeof MariaDbDriver | typeof MySqlDriver, gaps: Gap[] = []): TestDriver => ({
  name,
  concurrent: true,
  keepsLocks: true,
  batches: true,
  alone: 'updates and deletes',
  replicas: true,
  conditionalUpserts: false,
  cascadeDepth: 10,
  gaps: ['upsert of single-table inheritance', 'nullable generated columns', ...gaps],
  plain: Driver,
  literal: (column) => `hex(${column})`,
  // a foreign key needs an index all the same
  dropUnique: (table, index, column) => `alter table ${table} drop index ${index}, add index (${column})`,
  widens: (table, column) => [`alter table ${table} modify ${column} bigint not null`],
  schemas: async (names) => {
    await forDatabases('create database', names);
    onTestFinished(() => forDatabases('drop database if exists', names));
    return {};
  },
  async create(atEnd = onTestFinished) {
    const dbName = `mikro_ool_${randomUUID().replaceAll('-', '')}`;
    const clientUrl = inject('mariaDbUrl')!;
    atEnd(() => forDatabases('drop database if exists', [dbName]));
    return { driver: versioned(Driver), clientUrl, dbName };
  },
});

export const mariaDb = onMariaDb(`MariaDB ${inject('mariaDbVersion')}`, MariaDbDriver);
export const mySqlDriver = onMariaDb(`MariaDB ${inject('mariaDbVersion')} through MySqlDriver`, MySqlDriver, [
  'comparison of single-table schemas',
]);
