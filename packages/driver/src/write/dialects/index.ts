/**
 * Which dialect a database is written in. The platform is asked for the SQL that it writes: its class may be of another
 * copy of `@mikro-orm/sql`, or have lost its name in a bundle.
 */
import type { Platform } from '@mikro-orm/core';
import type { Dialect } from './dialect.ts';
import { mysql } from './mysql.ts';
import { postgresql } from './postgresql.ts';
import { sqlite } from './sqlite.ts';

export type { Dialect, DriverError, RowLock } from './dialect.ts';

const DIALECTS: readonly (readonly [speaks: (platform: Platform) => boolean, dialect: Dialect])[] = [
  [(platform) => platform.getBlobDeclarationSQL() === 'bytea', postgresql],
  [(platform) => platform.getDefaultCharset() === 'utf8mb4', mysql],
  [(platform) => platform.getCurrentTimestampSQL(0).includes('strftime('), sqlite],
];

const known = new WeakMap<Platform, Dialect | undefined>();

/** The dialect of a platform; none for a database that we do not know. */
export function dialectOf(platform: Platform): Dialect | undefined {
  if (!known.has(platform)) {
    known.set(platform, DIALECTS.find(([speaks]) => speaks(platform))?.[1]);
  }
  return known.get(platform);
}
