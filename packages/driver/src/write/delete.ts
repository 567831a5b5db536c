/** The DELETEs of a flush: rows of one table in one statement, or a row by MikroORM's own. */
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { versionTable } from '../discovery.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import { type CheckedRow, locate } from './batch.ts';
import { dialectOf } from './dialects/index.ts';
import { deleteOne } from './dialects/values.ts';
import { sendRows } from './send.ts';

/**
 * Deletes all of the rows, or none when one of them is stale. Returns the row count.
 *
 * @param alone no transaction is around it
 */
export async function deleteRows(
  driver: AbstractSqlDriver,
  rows: readonly CheckedRow[],
  options: PersistOptions,
  alone: boolean,
): Promise<number> {
  const { meta } = rows[0]!.changeSet;
  const platform = driver.getPlatform();
  const table = driver.getTableName(versionTable(meta), options);
  const statement = dialectOf(platform)!.delete(locate(table, meta, rows, platform), alone);
  return (await sendRows(driver, statement, options)).affectedRows;
}

/** Deletes a row, where it still has its version. Returns the row count. */
export async function deleteRow(
  driver: AbstractSqlDriver,
  row: CheckedRow,
  options: PersistOptions,
  alone: boolean,
): Promise<number> {
  const { changeSet, expected } = row;
  const { meta } = changeSet;
  const platform = driver.getPlatform();
  const when = alone ? dialectOf(platform)?.aloneWhen : undefined;
  if (when) {
    const table = driver.getTableName(versionTable(meta), options);
    return (await sendRows(driver, deleteOne(locate(table, meta, [row], platform), when), options)).affectedRows;
  }
  const where = { ...(changeSet.getPrimaryKey(true) as object), [versionOf(meta)!.name]: expected };
  return (await driver.nativeDelete(versionTable(meta).class, where as never, options)).affectedRows;
}
