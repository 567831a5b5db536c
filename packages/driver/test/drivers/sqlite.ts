import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import type { TestDriver } from '../harness.ts';

export const sqliteMemory: TestDriver = {
  name: 'SQLite, in memory',
  concurrent: false,
  batches: true,
  create: async () => ({ options: { driver: versioned(SqliteDriver), dbName: ':memory:' } }),
};

export const sqliteFile: TestDriver = {
  name: 'SQLite, file',
  concurrent: false,
  batches: true,
  async create() {
    const dir = mkdtempSync(join(tmpdir(), 'mikro-ool-sqlite-'));
    return {
      options: { driver: versioned(SqliteDriver), dbName: join(dir, 'test.db') },
      drop: async () => rmSync(dir, { recursive: true }),
    };
  },
};
