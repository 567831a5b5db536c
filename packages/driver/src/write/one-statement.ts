/**
 * Which rows of one table go into one statement. What is planned for a single statement (flush/alone.ts, order/keys.ts)
 * and what is sent (flush/updates.ts, flush/deletes.ts) ask the same functions, or a statement without a transaction
 * would become two.
 */
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import type { AnyChangeSet } from '../mikro-orm/entity.ts';
import { batchDialect, shareColumns } from './batch.ts';
import { specialTablesOf } from './special-tables.ts';
import { cascades } from './cascades.ts';

/** May a statement of ours write these rows? Else MikroORM's own writes each of them. */
export function canBatch(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
  const tables = specialTablesOf(driver);
  return batchDialect(driver.getPlatform(), sets) !== undefined && !sets.some(({ meta }) => tables.isRewritten(meta));
}

/** How many of these rows go into one UPDATE of ours. */
export function rowsPerUpdate(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): number {
  const { config } = driver;
  const isAllowed = config.get('useBatchUpdates', driver.getPlatform().usesBatchUpdates());
  return isAllowed && shareColumns(sets) ? config.get('batchSize') : 1;
}

/** How many go into one DELETE: all that may delete each other by a cascade, so that it sees them all before. */
export function rowsPerDelete(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): number {
  const { meta } = sets[0]!;
  return cascades(driver, meta, meta) ? sets.length : driver.config.get('batchSize');
}

/** Are these rows updated by one statement of ours? */
export function areOneUpdate(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
  return canBatch(driver, sets) && sets.length <= rowsPerUpdate(driver, sets);
}

/** Are these rows deleted by one statement of ours? */
export function areOneDelete(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
  return canBatch(driver, sets) && sets.length <= rowsPerDelete(driver, sets);
}
