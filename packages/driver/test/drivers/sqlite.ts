import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { onTestFinished } from 'vitest';
import type { TestDriver } from '../harness.ts';

/** A directory in memory, where there is one: whether a disk has written what it was told to is not under test. */
export const temporary = (): string =>
  mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'mikro-ool-sqlite-'));

const common = {
  concurrent: false,
  batches: true,
  alone: 'every statement' as const,
  replicas: true,
  conditionalUpserts: true,
  cascadeDepth: 350,
  plain: SqliteDriver,
  literal: (column: string) => `quote(${column})`,
  dropUnique: (_table: string, index: string) => `drop index ${index}`,
  keepsBack: {
    'a trigger': (table: string, operation: string, id: number) => [
      `create trigger keep_back before ${operation} on ${table} when old.id = ${id} begin select raise(ignore); end`,
    ],
  },
  schemas: (names: string[]) => {
    const dir = temporary();
    onTestFinished(() => rmSync(dir, { recursive: true }));
    return { attachDatabases: names.map((name) => ({ name, path: join(dir, name) })) };
  },
};

export const sqliteMemory: TestDriver = {
  name: 'SQLite, in memory',
  ...common,
  create: async () => ({ driver: versioned(SqliteDriver), dbName: ':memory:' }),
};

export const sqliteFile: TestDriver = {
  name: 'SQLite, file',
  ...common,
  async create() {
    const dir = temporary();
    onTestFinished(() => rmSync(dir, { recursive: true }));
    return { driver: versioned(SqliteDriver), dbName: join(dir, 'test.db') };
  },
};
