/** A config for MikroORM's command line, as a user has it. */
import { join } from 'node:path';
import { Migrator } from '@mikro-orm/migrations';
import { SqliteDriver, defineConfig } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { Article } from './adoption.entities.ts';

const dir = process.env.ADOPTION_DIRECTORY!;

export default defineConfig({
  driver: process.env.ADOPTION_DRIVER === 'plain' ? SqliteDriver : versioned(SqliteDriver),
  dbName: join(dir, 'test.db'),
  entities: [Article],
  extensions: [Migrator],
  migrations: { path: dir, emit: 'ts' },
});
