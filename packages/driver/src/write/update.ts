/** The UPDATEs of a flush: rows of one table in one statement of ours, a single one as well, or by MikroORM's own. */
import type { Dictionary, QueryResult } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { changesOnlyUncovered } from '../covers/exclude.ts';
import { isGuarded, ownVersionOf } from '../discovery.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import { type VersionedRow, batchUpdate } from './batch.ts';
import { dialectOf } from './dialects/index.ts';
import { updateOne } from './dialects/values.ts';
import { sendRows } from './send.ts';

/**
 * Updates the rows that still have their version, and bumps them. Returned rows have the columns of the key.
 *
 * @param alone no transaction is around it: all of the rows are written, or none
 */
export function updateRows(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  options: PersistOptions,
  alone: boolean,
): Promise<QueryResult<Dictionary>> {
  const { meta } = rows[0]!.changeSet;
  const platform = driver.getPlatform();
  const update = batchUpdate(driver.getTableName(meta, options), meta, rows, platform, (item, props) =>
    driver.mapDataToFieldNames(item, false, props, false),
  );
  const dialect = dialectOf(platform)!;
  const isOne = rows.length === 1;
  const statement = isOne ? updateOne(update, alone ? dialect.aloneWhen : undefined) : dialect.update(update, alone);
  return sendRows(driver, statement, options);
}

/**
 * Updates one row with the statement that MikroORM makes, where the row still has its version: that is in the condition
 * here. The bump is added by its query builder (`bumpUnless()` in `mikro-orm/query-builder.ts`) to data that do not name the
 * version. Where it would not, they name it.
 *
 * @param hasMoved the flush has bumped it already; a guard would bump it again by itself, so there we do
 * @param addConditions adds what MikroORM compares, too
 */
export function updateRow(
  driver: AbstractSqlDriver,
  row: VersionedRow,
  hasMoved: boolean,
  addConditions: (where: Dictionary) => void,
  options: PersistOptions,
): Promise<QueryResult<Dictionary>> {
  const { changeSet, kind, expected } = row;
  if (kind === 'uncovered') {
    const where = changeSet.getPrimaryKey(true) as Dictionary;
    addConditions(where);
    return driver.nativeUpdate<Dictionary>(changeSet.meta.class as never, where, changeSet.payload, options);
  }
  const { name } = ownVersionOf(changeSet.meta)!;
  const { [name]: _claim, ...payload } = changeSet.payload as Dictionary;
  if (hasMoved && !isGuarded(changeSet.meta)) {
    payload[name] = expected;
  } else if (hasMoved || Object.keys(payload).length === 0 || changesOnlyUncovered(driver, { ...changeSet, payload })) {
    payload[name] = expected + 1; // touched: MikroORM adds its own bump to other changes only
  }
  const where = { ...(changeSet.getPrimaryKey(true) as Dictionary), [name]: expected };
  addConditions(where);
  return driver.nativeUpdate<Dictionary>(changeSet.meta.class as never, where, payload, options);
}
