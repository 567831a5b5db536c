/** What a flush compares by a SELECT in its transaction, because none of its statements does. */
import type { Transaction } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { type Operation, VersionNotLoaded, versionOf } from '@mikro-ool/core';
import { versionTable } from '../discovery.ts';
import { type AnyChangeSet, type PersistOptions, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import type { CheckedRow, LockedRow, Row } from '../write/batch.ts';
import { type RowLock, dialectOf } from '../write/dialects/index.ts';
import { specialTablesOf } from '../write/special-tables.ts';
import { StaleRows, conflictOf, currentVersions, findRows } from './conflicts.ts';
import { type UnsureRow, checkedRow } from './expected.ts';
import { inTableOrder } from '../order/tables.ts';

/** Refuses rows that turn out to be of a class with a version. */
export async function checkClasses(
  driver: AbstractSqlDriver,
  unsure: readonly UnsureRow[],
  ctx: Transaction | undefined,
): Promise<void> {
  for (const rows of Map.groupBy(unsure, (row) => `${row.below._id} ${row.changeSet.schema}`).values()) {
    const { below, changeSet } = rows[0]!;
    const options = { ctx, schema: changeSet.schema ?? below.schema };
    const sets = rows.map((row) => row.changeSet);
    const find = await findRows(driver, below, sets, [], options);
    const blind = rows.find((row) => find(row.changeSet));
    if (blind) {
      throw new VersionNotLoaded(blind.changeSet.entity, below.className, versionOf(below)!.name, blind.operation);
    }
  }
}

/**
 * Compares the versions that were assigned to entities without another change, and those of verified ones.
 *
 * @param beside the rows that the flush writes: they are locked with the others, table by table and in key order, or
 *   two flushes of which each compares what the other one writes would wait for each other
 * @param isHeld nobody may change what is compared until COMMIT
 */
export async function checkClaims(
  driver: AbstractSqlDriver,
  claims: readonly CheckedRow[],
  beside: readonly LockedRow[],
  isHeld: boolean,
  ctx: Transaction | undefined,
): Promise<void> {
  if (claims.length === 0) {
    return;
  }
  const written = dialectOf(driver.getPlatform())?.locksRows ? beside : [];
  const lock = (rows: readonly (CheckedRow | LockedRow)[]) =>
    rows.some(({ kind }) => kind === 'locked') ? 'no key update' : isHeld ? 'share' : undefined;
  await compare(driver, inTables(driver, [...claims, ...written]), 'check', lock, ctx);
  // the claims held: from now on they are the state that changes are based on
  for (const { changeSet, expected } of claims) {
    const { entity, meta } = changeSet;
    restoreSnapshot(entity, { ...(snapshotOf(entity) as object), [versionOf(meta)!.name]: expected });
  }
}

/** Rows in the order of their tables. */
function inTables<Some extends Row>(driver: AbstractSqlDriver, rows: readonly Some[]): readonly Some[] {
  const byTable = Map.groupBy(rows, ({ changeSet }) => versionTable(changeSet.meta));
  const tables = inTableOrder([...byTable.keys()], driver.getMetadata(), 'written');
  return tables.flatMap((table) => byTable.get(table)!);
}

/** Reads the versions of rows that no statement of ours compares. With a lock they stay like that until COMMIT. */
export async function compare(
  driver: AbstractSqlDriver,
  all: readonly (CheckedRow | LockedRow)[],
  operation: Operation,
  lockOf: (rows: readonly (CheckedRow | LockedRow)[]) => RowLock | undefined,
  ctx: Transaction | undefined,
): Promise<void> {
  const tableOf = ({ changeSet: { meta, schema } }: Row) => `${versionTable(meta)._id} ${schema}`;
  for (const rows of Map.groupBy(all, tableOf).values()) {
    const { meta, schema } = rows[0]!.changeSet;
    const options = { ctx, schema: schema ?? meta.schema };
    const actual = await currentVersions(driver, rows, options, lockOf(rows));
    const stale = rows.filter((row) => row.kind === 'checked').filter((row) => actual(row) !== row.expected);
    if (stale.length > 0) {
      throw conflictOf(stale, operation, actual);
    }
  }
}

/** Of rows of one table: a trigger or rule that writes instead of us need not compare the version, so nobody may change it meanwhile. */
export async function compareBefore(
  driver: AbstractSqlDriver,
  changeSets: readonly AnyChangeSet[],
  operation: 'update' | 'delete',
  ctx: Transaction | undefined,
): Promise<void> {
  if (!specialTablesOf(driver).writesInstead(versionTable(changeSets[0]!.meta))) {
    return;
  }
  const rows = changeSets.map((changeSet) => checkedRow(changeSet, operation));
  await compare(driver, rows, operation, () => 'update', ctx);
}

/**
 * What writes instead of us has written some rows, perhaps of another table: a row that still has its version was not
 * written. A trigger may mark a row in place of deleting it; a rule that does so counts none.
 */
export async function compareAfter(
  driver: AbstractSqlDriver,
  rows: readonly CheckedRow[],
  operation: 'update' | 'delete',
  options: PersistOptions,
): Promise<void> {
  const tables = specialTablesOf(driver);
  const table = versionTable(rows[0]!.changeSet.meta);
  if (!tables.writesInstead(table) || (operation === 'delete' && !tables.isRewritten(table))) {
    return;
  }
  const actual = await currentVersions(driver, rows, options);
  const left = rows.filter((row) => actual(row) === row.expected);
  if (left.length > 0) {
    throw new StaleRows(left, operation, options);
  }
}
