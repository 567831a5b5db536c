/** Which dialect a database is written in. */
import type { Platform } from '@mikro-orm/core';
import { BaseMySqlPlatform, BasePostgreSqlPlatform, SqlitePlatform } from '@mikro-orm/sql';
import type { Dialect } from './dialect.ts';
import { mysql } from './mysql.ts';
import { postgresql } from './postgresql.ts';
import { sqlite } from './sqlite.ts';

export type { Dialect, DriverError } from './dialect.ts';

/** The dialect of a platform; none for a database that we do not know. */
export function dialectOf(platform: Platform): Dialect | undefined {
  if (platform instanceof BasePostgreSqlPlatform) {
    return postgresql;
  }
  if (platform instanceof BaseMySqlPlatform) {
    return mysql;
  }
  if (platform instanceof SqlitePlatform) {
    return sqlite;
  }
  return undefined;
}
