/** From a row count to the error: who is stale, what the database has instead, and which errors are lost races too. */
import diagnostics from 'node:diagnostics_channel';
import { type ChangeSet, type Dictionary, type EntityMetadata, LockMode, Utils, helper } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import {
  CommitOutcomeUnknown,
  ConcurrentUpdate,
  InvalidVersion,
  type Operation,
  maximumVersion,
  versionOf,
} from '@mikro-ool/core';
import { type VersionedRow, keyOf, keyValues } from './batch.ts';
import { type Dialect, type DriverError, dialectOf } from './dialect.ts';
import { versionTable } from './discovery.ts';
import type { PersistOptions } from './internals.ts';

/**
 * A statement has written fewer rows than were meant, and which ones cannot be told: a row that a rival has bumped once
 * looks like one that was written. It is seen when the flush is rolled back.
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

/** Where each `ConcurrentUpdate` that is thrown is published once, as `{ error }`. */
const channel = diagnostics.channel('mikro-ool:conflict');
const published = new WeakSet<object>();

/** Tells those who listen, counters and loggers, of a conflict that is about to be thrown. Returns it. */
export function publish<Failure>(error: Failure): Failure {
  if (channel.hasSubscribers && error instanceof ConcurrentUpdate && !published.has(error)) {
    published.add(error);
    channel.publish({ error });
  }
  return error;
}

/** What the database has now, `null` for a row that is gone. */
type Actual = (row: VersionedRow) => number | null;

/**
 * Reads the versions that the database has now and describes the rows whose version is another one: one SELECT, in the
 * flush's transaction, on the write connection.
 */
export async function describeConflict(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  operation: Operation,
  options: PersistOptions,
): Promise<ConcurrentUpdate> {
  const actual = await currentVersions(driver, rows, options);
  const stale = rows.filter((row) => actual(row) !== row.expected);
  // every row is as expected, and yet they were not written: a trigger or a row policy
  return conflictOf(stale.length > 0 ? stale : rows, operation, actual);
}

/** Describes a statement that wrote fewer rows than were meant, and which is about to be rolled back. */
export async function describeBatch(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  operation: 'update' | 'delete',
  options: PersistOptions,
  written: number,
): Promise<ConcurrentUpdate | StaleRows> {
  if (written === 0) {
    return describeConflict(driver, rows, operation, options);
  }
  const actual = await currentVersions(driver, rows, options);
  const left = rows.filter((row) => actual(row) !== (operation === 'update' ? row.expected + 1 : null));
  const isClear = rows.length - left.length === written;
  return isClear ? conflictOf(left, operation, actual) : new StaleRows(rows, operation, options);
}

function conflictOf(rows: readonly VersionedRow[], operation: Operation, actual: Actual): ConcurrentUpdate {
  return new ConcurrentUpdate(
    rows.map((row) => ({
      entity: row.changeSet.entity,
      entityName: helper(row.changeSet.entity).__meta.className,
      primaryKey: primaryKeyOf(row.changeSet.entity, row.changeSet.meta, row.changeSet),
      operation,
      expected: row.expected,
      actual: actual(row),
    })),
  );
}

/** Reads the version of every row. */
export async function currentVersions(
  driver: AbstractSqlDriver,
  rows: readonly VersionedRow[],
  options: PersistOptions,
): Promise<Actual> {
  const { meta } = rows[0]!.changeSet;
  const { name } = versionOf(meta)!;
  const changeSets = rows.map((row) => row.changeSet);
  // not the class of a row: its discriminator would hide the siblings of single-table inheritance
  const find = await findRows(driver, versionTable(meta), changeSets, [name], options);
  return ({ changeSet }) => {
    const row = find(changeSet);
    return row ? Number(row[name]) : null;
  };
}

/** Reads the rows of change sets, as far as they are of this class: what a write would see, not a snapshot. */
export async function findRows(
  driver: AbstractSqlDriver,
  meta: EntityMetadata,
  changeSets: readonly ChangeSet<object>[],
  fields: readonly string[],
  options: PersistOptions,
): Promise<(changeSet: ChangeSet<object>) => Dictionary | undefined> {
  const platform = driver.getPlatform();
  const readsCurrent = dialectOf(platform)?.readsCurrent ?? true;
  const reading = driver.find(
    meta.class,
    { [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: changeSets.map(keyOf) } } as never,
    {
      fields: [...meta.primaryKeys, ...fields] as never,
      ctx: options.ctx,
      schema: options.schema,
      connectionType: 'write',
      lockMode: options.ctx && !readsCurrent ? LockMode.PESSIMISTIC_READ : undefined,
      logging: options.loggerContext as never,
    },
  );
  const found = await reading.catch((error) => {
    readFailures.add(error);
    throw error;
  });
  // SQLite has dates as numbers in one place and as objects in the other
  const hash = (key: unknown[]) =>
    Utils.getPrimaryKeyHash(key.map((part) => platform.processDateProperty(part)) as string[]);
  const rows = new Map(
    found.map((row) => [hash(Utils.flatten(Utils.getCompositeKeyValue(row, meta) as unknown[][], true)), row]),
  );
  return (changeSet) => rows.get(hash(keyValues(changeSet)));
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

/** The error when a value is no integer that the version column can hold. */
export function invalidVersion(entity: object, meta: EntityMetadata, value: unknown): InvalidVersion | undefined {
  const prop = versionOf(meta)!;
  const maximum = maximumVersion(prop);
  const isVersion = Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maximum;
  return isVersion ? undefined : new InvalidVersion(entity, helper(entity).__meta.className, prop.name, value, maximum);
}

/** The same error, or a `ConcurrentUpdate` when the database decided a race between transactions by it. */
export function asLostRace(error: unknown, dialect: Dialect | undefined): unknown {
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === 'string' && dialect?.lostRaceCodes.includes(code) ? new ConcurrentUpdate([], error) : error;
}

/** Errors of our own SELECTs, whose answer nothing depends on. */
const readFailures = new WeakSet<object>();

/** The same error, or `CommitOutcomeUnknown` when a COMMIT, or a statement that is one, may have been carried out. */
export function asUnknown(error: unknown, dialect: Dialect | undefined): unknown {
  const isLost = dialect?.losesAnswer((error ?? {}) as DriverError) && !readFailures.has(error as object);
  return isLost ? new CommitOutcomeUnknown(error) : error;
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
