/** A database that we have no dialect for is written row by row, and every row is checked. */
import { SqlitePlatform } from '@mikro-orm/sql';
import { vi } from 'vitest';
import { sqliteMemory } from './drivers/sqlite.ts';
import { model } from './model/model.ts';
import { suite } from './suite/index.ts';

// The one thing taken away is our own knowledge of the dialect; the database is a real one.
vi.mock('../src/write/dialects/index.ts', () => ({
  dialectOf: (platform: unknown) => void (platform instanceof SqlitePlatform),
}));

const unknown = { ...sqliteMemory, name: 'a database without a dialect', batches: false, alone: 'nothing' } as const;
suite(unknown);
model(unknown, 500);
