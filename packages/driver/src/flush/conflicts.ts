/**
 * From a row count to the error: who is stale, and what the database has instead. So this is where rows are read again, for
 * whoever compares them without a statement of its own.
 */
import { type ChangeSet, type Dictionary, type EntityMetadata, LockMode, Utils, helper } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { ConcurrentUpdate, type Operation, maximumVersion, versionOf } from '@mikro-ool/core';
import { tableClasses, versionTable } from '../discovery.ts';
import { noteReadFailure, publish } from '../errors.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import { runStatement } from '../mikro-orm/driver.ts';
import {
  type CheckedRow,
  type Row,
  type VersionedRow,
  isComparable,
  keyHash,
  keyHashIn,
  keyOf,
  keyValues,
  locate,
} from '../write/batch.ts';
import { type RowLock, dialectOf } from '../write/dialects/index.ts';
import { specialTablesOf } from '../write/special-tables.ts';
import { partsOf } from '../covers/aggregate/roots.ts';
import { exhausted, invalidVersion } from '../versions.ts';

/**
 * A statement has written fewer rows than were meant, and which ones cannot be told yet: a row that a rival has bumped
 * once looks like one that was written. It is seen when the flush is rolled back.
 */
export class StaleRows extends Error {
  readonly rows: readonly VersionedRow[];
  readonly operation: Operation;
  readonly options: PersistOptions;

  constructor(rows: readonly VersionedRow[], operation: Operation, options: PersistOptions) {
    super('Some rows of a batch are stale.');
    this.rows = rows;
    this.operation = operation;
    this.options = options;
  }
}

/** A statement that was sent without a transaction has written nothing, and no row is stale: it may go in one. */
export class NothingWritten extends Error {}

/** What the database has now, `null` for a row that is gone. */
type Actual = (row: Row) => number | null;

/** A row whose version is not compared is stale when it is gone. */
function isStale(row: VersionedRow, actual: number | null): boolean {
  return row.kind === 'uncovered' ? actual === null : actual !== row.expected;
}

/** A statement has not written one of its rows. */
export async function describeOne(
  driver: AbstractSqlDriver,
  row: VersionedRow,
  operation: 'update' | 'delete',
  options: PersistOptions,
): Promise<ConcurrentUpdate | StaleRows> {
  return isDescribedAtOnce(driver, row)
    ? describeConflict(driver, [row], operation, options)
    : new StaleRows([row], operation, options);
}

/**
 * What is there is read when the flush is rolled back where reading takes a lock, because who describes conflicts while
 * it keeps others waiting ends in deadlocks with them; and where a rule or trigger may have written although nothing was
 * counted, because that is not what stays.
 */
function isDescribedAtOnce(driver: AbstractSqlDriver, { changeSet }: Row): boolean {
  return readsFreely(driver) && tableClasses(changeSet.meta).every((table) => specialTablesOf(driver).isPlain(table));
}

function readsFreely(driver: AbstractSqlDriver): boolean {
  return dialectOf(driver.getPlatform())?.readsCurrent ?? true;
}

/**
 * Reads the versions that the database has now and describes the rows whose version is another one: one SELECT, on the
 * write connection.
 */
export async function describeConflict(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  operation: Operation,
  options: PersistOptions,
): Promise<ConcurrentUpdate> {
  const actual = await currentVersions(driver, rows, options);
  const stale = rows.filter((row) => isStale(row, actual(row)));
  // every row is as expected, and yet they were not written: a trigger or a row policy
  return conflictOf(stale.length > 0 ? stale : rows, operation, actual);
}

/** Describes a statement without a transaction around it, which wrote none of its rows. */
export async function describeAlone(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  operation: 'update' | 'delete',
  options: PersistOptions,
): Promise<ConcurrentUpdate | NothingWritten> {
  const conflict = await describeConflict(driver, rows, operation, options);
  // `expected` is null where the version is not compared: such a row is stale when it is gone
  const areStale = conflict.conflicts.some(
    ({ expected, actual }) => actual === null || actual !== (expected ?? actual),
  );
  const hasFurtherConditions = rows.length > 1 || dialectOf(driver.getPlatform())?.aloneWhen !== undefined;
  return areStale || !hasFurtherConditions ? conflict : new NothingWritten();
}

/** Describes a statement that wrote fewer rows than were meant, and which is about to be rolled back. */
export async function describeBatch(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  operation: 'update' | 'delete',
  options: PersistOptions,
  written: number,
): Promise<ConcurrentUpdate | StaleRows> {
  // which rows a trigger has kept back among others is seen only before the rollback
  if (!(written > 0 ? readsFreely(driver) : isDescribedAtOnce(driver, rows[0]!))) {
    return new StaleRows(rows, operation, options);
  }
  if (written === 0) {
    return describeConflict(driver, rows, operation, options);
  }
  const actual = await currentVersions(driver, rows, options);
  const wasWritten = (row: VersionedRow) =>
    row.kind === 'uncovered'
      ? actual(row) !== null
      : actual(row) === (operation === 'update' ? row.expected + 1 : null);
  const left = rows.filter((row) => !wasWritten(row));
  const isClear = rows.length - left.length === written;
  return isClear ? conflictOf(left, operation, actual) : new StaleRows(rows, operation, options);
}

/**
 * Rows with the last version that the column can hold cannot be bumped: databases raise an error, cut the version, or
 * let it grow. So they are not written at all; it is a conflict where that version was claimed and is not the row's.
 */
export async function refuseExhausted(
  driver: AbstractSqlDriver,
  rows: readonly CheckedRow[],
  options: PersistOptions,
): Promise<void> {
  const { meta } = rows[0]!.changeSet;
  const maximum = maximumVersion(versionOf(meta)!);
  const last = rows.filter(({ expected }) => expected === maximum);
  if (last.length > 0) {
    const actual = await currentVersions(driver, last, options);
    const stale = last.filter((row) => actual(row) !== maximum);
    throw stale.length > 0 ? conflictOf(stale, 'update', actual) : exhausted(last[0]!.changeSet.entity, meta);
  }
}

export function conflictOf(rows: readonly VersionedRow[], operation: Operation, actual: Actual): ConcurrentUpdate {
  return new ConcurrentUpdate(
    rows.map((row) => ({
      entity: row.changeSet.entity,
      entityName: helper(row.changeSet.entity).__meta.className,
      primaryKey: primaryKeyOf(row.changeSet.entity, row.changeSet.meta, row.changeSet),
      operation,
      expected: row.expected ?? null,
      actual: actual(row),
      parts: partsOf(row.changeSet),
    })),
  );
}

/**
 * Reads the version of every row: what a write would see, not a snapshot.
 *
 * @param lock keeps the rows as they are until COMMIT
 */
export async function currentVersions(
  driver: AbstractSqlDriver,
  rows: readonly Row[],
  options: PersistOptions,
  lock?: RowLock,
): Promise<Actual> {
  const { meta } = rows[0]!.changeSet;
  const table = versionTable(meta);
  const platform = driver.getPlatform();
  const dialect = isComparable(meta) && !specialTablesOf(driver).isRewritten(table) ? dialectOf(platform) : undefined;
  if (!dialect) {
    const { name } = versionOf(meta)!;
    const changeSets = rows.map((row) => row.changeSet);
    // not the class of a row: its discriminator would hide the siblings of single-table inheritance
    const find = await findRows(driver, table, changeSets, [name], options, lock);
    return ({ changeSet }) => {
      const row = find(changeSet);
      return row ? Number(row[name]) : null;
    };
  }
  const { sql, params } = dialect.read(
    locate(driver.getTableName(table, options), meta, rows, platform),
    options.ctx && (lock ?? (dialect.readsCurrent ? undefined : 'share')),
  );
  const { rows: found = [] } = await runStatement(driver, sql, params, options).catch(failRead);
  const versions = new Map(found.map(({ i, version }) => [rows[Number(i)], Number(version)]));
  return (row) => versions.get(row) ?? null;
}

const LOCK_MODES = {
  share: LockMode.PESSIMISTIC_READ,
  'no key update': LockMode.PESSIMISTIC_WRITE,
  update: LockMode.PESSIMISTIC_WRITE,
};

function failRead(error: unknown): never {
  noteReadFailure(error);
  throw error;
}

/** Reads the rows of change sets, as far as they are of this class: what a write would see, not a snapshot. */
export async function findRows(
  driver: AbstractSqlDriver,
  meta: EntityMetadata,
  changeSets: readonly ChangeSet<object>[],
  fields: readonly string[],
  options: PersistOptions,
  lock?: RowLock,
): Promise<(changeSet: ChangeSet<object>) => Dictionary | undefined> {
  const platform = driver.getPlatform();
  const mode = lock ?? (readsFreely(driver) ? undefined : 'share');
  const read = async (sets: readonly ChangeSet<object>[]): Promise<Dictionary[]> => {
    const reading = driver.find(
      meta.class,
      { [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: sets.map(keyOf) } } as never,
      {
        fields: [...meta.primaryKeys, ...fields] as never,
        ctx: options.ctx,
        schema: options.schema,
        connectionType: 'write',
        lockMode: options.ctx && mode && LOCK_MODES[mode],
        logging: options.loggerContext as never,
      },
    );
    return reading.catch(failRead);
  };
  const keyIn = (row: Dictionary) => keyHashIn(row, meta, platform);
  const rows = new Map((await read(changeSets)).map((row) => [keyIn(row), row]));
  const bySpelling = new Map(
    changeSets.map((changeSet) => [changeSet, rows.get(keyHash(keyValues(changeSet), platform))]),
  );
  bySpelling.forEach((row) => row && rows.delete(keyIn(row)));
  // what is left has its key spelled otherwise (by case, padding, zeros), and only the database knows whose it is
  for (const [changeSet] of [...bySpelling].filter(([, row]) => !row)) {
    const [row] = rows.size > 0 ? await read([changeSet]) : [];
    if (row) {
      bySpelling.set(changeSet, row);
      rows.delete(keyIn(row));
    }
  }
  return (changeSet) => bySpelling.get(changeSet);
}

/** The conflict of `em.lock(entity, LockMode.OPTIMISTIC, version)`, which compares with the loaded version. */
export function lockFailed(entity: object, meta: EntityMetadata, version: unknown, actual: number | undefined): Error {
  const invalid = invalidVersion(entity, meta, version);
  if (invalid) {
    return invalid;
  }
  const { className: entityName } = meta;
  const primaryKey = primaryKeyOf(entity, meta);
  const expected = version as number;
  const conflict = { entity, entityName, primaryKey, operation: 'check', expected, actual: actual ?? null } as const;
  return publish(new ConcurrentUpdate([conflict]));
}

/** The key of a row as the entity has it; where the flush would change it, the one that is in the database. */
function primaryKeyOf(entity: object, meta: EntityMetadata, changeSet?: ChangeSet<object>): unknown {
  const { payload = {}, originalEntity = {} } = changeSet ?? {};
  const keys = meta.getPrimaryProps().map(({ name: key, customType }) => {
    const stored = (originalEntity as Record<string, unknown>)[key];
    const value =
      key in payload && stored !== undefined
        ? (customType?.convertToJSValue(stored, customType.platform!) ?? stored)
        : (entity as Record<string, unknown>)[key];
    return [key, Utils.isEntity(value, true) ? helper(value).getPrimaryKey() : value] as const;
  });
  return keys.length === 1 ? keys[0]![1] : Object.fromEntries(keys);
}
