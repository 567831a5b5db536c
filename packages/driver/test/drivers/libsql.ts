import { LibSqlDriver } from '@mikro-orm/libsql';
import { versioned } from '@mikro-ool/driver';
import type { TestDriver } from '../harness.ts';
import { sqliteMemory } from './sqlite.ts';

export const libSql: TestDriver = {
  ...sqliteMemory,
  name: 'libSQL',
  plain: LibSqlDriver,
  create: async () => ({ driver: versioned(LibSqlDriver), dbName: ':memory:' }),
};
