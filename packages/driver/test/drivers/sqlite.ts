import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { onTestFinished } from 'vitest';
import { dataDirectory } from '../../../../tools/data-directory.ts';
import type { TestDriver } from '../harness.ts';

export const temporary = (): string => dataDirectory('mikro-ool-sqlite-');

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
  async create(atEnd = onTestFinished) {
    const dir = temporary();
    atEnd(async () => rmSync(dir, { recursive: true }));
    return { driver: versioned(SqliteDriver), dbName: join(dir, 'test.db') };
  },
};
