import { PGlite } from '@electric-sql/pglite';
import { PgliteDriver } from '@mikro-orm/pglite';
import { createPostgreSqlTypeParsers } from '@mikro-orm/sql';
import { versioned } from '@mikro-ool/driver';
import array from 'postgres-array';
import { onTestFinished } from 'vitest';
import type { TestDriver } from '../harness.ts';
import { EMPTY, postgresql } from './postgresql.ts';

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
  // each that is kept has an instance
  empty: undefined,
  async create(atEnd = onTestFinished) {
    const instance =
      idle.pop() ?? (await PGlite.create({ parsers: createPostgreSqlTypeParsers((text) => array.parse(text)) }));
    atEnd(async () => {
      await instance.exec(EMPTY);
      idle.push(instance);
    });
    return { driver: versioned(PgliteDriver), dbName: 'postgres', driverOptions: { pglite: instance } };
  },
};
