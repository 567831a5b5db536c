import { PGlite } from '@electric-sql/pglite';
import { PgliteDriver } from '@mikro-orm/pglite';
import { createPostgreSqlTypeParsers } from '@mikro-orm/sql';
import { versioned } from '@mikro-ool/driver';
import array from 'postgres-array';
import type { TestDriver } from '../harness.ts';
import { postgresql } from './postgresql.ts';

/** Starting one takes seconds, emptying one does not. */
const idle: PGlite[] = [];

/** PostgreSQL in the same process, with a single connection. */
export const pglite: TestDriver = {
  ...postgresql,
  name: 'PGlite',
  concurrent: false,
  replicas: false,
  conditionalUpserts: true,
  gaps: ['streams'],
  plain: PgliteDriver,
  async create() {
    const instance =
      idle.pop() ?? (await PGlite.create({ parsers: createPostgreSqlTypeParsers((text) => array.parse(text)) }));
    return {
      options: { driver: versioned(PgliteDriver), dbName: 'postgres', driverOptions: { pglite: instance } },
      drop: async () => {
        const schemas = await instance.query<{ name: string }>(
          `select nspname as name from pg_namespace where nspname not like 'pg\\_%' and nspname <> 'information_schema'`,
        );
        await instance.exec(schemas.rows.map(({ name }) => `drop schema "${name}" cascade;`).join(' '));
        await instance.exec('create schema public');
        idle.push(instance);
      },
    };
  },
};
