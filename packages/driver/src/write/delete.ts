/** The DELETEs of a flush: rows of one table in one statement, or a row by MikroORM's own. */
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { versionTable } from '../discovery.ts';
import { runStatement } from '../mikro-orm/driver.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import { type VersionedRow, locate } from './batch.ts';
import { dialectOf } from './dialects/index.ts';

/** Deletes all of the rows, or none when one of them is stale. Returns the row count. */
export async function deleteRows(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  options: PersistOptions,
): Promise<number> {
  const { meta } = rows[0]!.changeSet;
  const platform = driver.getPlatform();
  const table = driver.getTableName(versionTable(meta), options);
  const { sql, params } = dialectOf(platform)!.delete(locate(table, meta, rows, platform));
  return (await runStatement(driver, sql, params, options)).affectedRows;
}

/** Deletes a row, where it still has its version. Returns the row count. */
export async function deleteRow(
  driver: AbstractSqlDriver,
  { changeSet, expected }: VersionedRow,
  options: PersistOptions,
): Promise<number> {
  const { meta } = changeSet;
  const where = { ...(changeSet.getPrimaryKey(true) as object), [versionOf(meta)!.name]: expected };
  return (await driver.nativeDelete(versionTable(meta).class, where as never, options)).affectedRows;
}
