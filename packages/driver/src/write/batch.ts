/**
 * Turns the change sets of one table into the columns of one statement, with the values as MikroORM would send them.
 */
import {
  type ChangeSet,
  type Dictionary,
  type EntityMetadata,
  type EntityProperty,
  type Platform,
  type PolymorphicRef,
  ReferenceKind,
  Utils,
  helper,
  isRaw,
} from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { isGuarded } from '../discovery.ts';
import type { BatchRows, BatchUpdate, Column, Dialect } from './dialects/dialect.ts';
import { dialectOf } from './dialects/index.ts';

/** A row that a statement finds by its key, and by its version where one is expected. */
export interface Row {
  readonly changeSet: ChangeSet<object>;
  readonly expected?: number;
}

/** It must still have this version; a write bumps it. */
export interface CheckedRow extends Row {
  readonly kind: 'checked';
  readonly expected: number;
}

/** Only columns change that the version does not cover, or another table has it: it is neither compared nor bumped. */
export interface UncoveredRow extends Row {
  readonly kind: 'uncovered';
  readonly expected?: undefined;
}

/** It is locked and no more, whatever version it has. */
export interface LockedRow extends Row {
  readonly kind: 'locked';
  readonly expected?: undefined;
}

/** A row with a version that a flush writes. */
export type VersionedRow = CheckedRow | UncoveredRow;

/** Converts the keys of an object embeddable to column names; MikroORM's drivers have it. */
type FieldNameMapper = (data: object, props: Record<string, EntityProperty>) => unknown;

/**
 * The dialect that writes these rows; `undefined` where MikroORM writes them one by one.
 * Expressions do not fit into a list of values, further concurrency columns are compared by MikroORM; and keys that SQL
 * converts, or that are of a type whose schema we do not know, cannot be compared with a list.
 */
export function batchDialect(platform: Platform, sets: readonly ChangeSet<object>[]): Dialect | undefined {
  let checked: EntityMetadata | undefined;
  for (const { meta, payload } of sets) {
    if (meta !== checked && !isComparable(meta)) {
      return undefined;
    }
    checked = meta;
    for (const key in payload) {
      if (isExpression((payload as Record<string, unknown>)[key])) {
        return undefined;
      }
    }
  }
  return dialectOf(platform);
}

/** With single-table inheritance, properties of one name may have a column per class. */
export function shareColumns(sets: readonly ChangeSet<object>[]): boolean {
  const { meta } = sets[0]!;
  return !meta.root.props.some((prop) => prop.renamedFrom) || sets.every((set) => set.meta === meta);
}

/** Can keys of this class be compared with a list? */
export function isComparable(meta: EntityMetadata): boolean {
  return (
    meta.getOwnConcurrencyCheckKeys().length === 0 &&
    meta.getPrimaryProps().every((prop) => !prop.hasConvertToDatabaseValueSQL && !prop.nativeEnumName)
  );
}

function isExpression(value: unknown): boolean {
  return typeof value === 'object' && value !== null && isRaw(value);
}

/**
 * Where the rows are: table, primary key columns and version column. With one of them, all expect a version, or none.
 */
export function locate(table: string, meta: EntityMetadata, rows: readonly Row[], platform: Platform): BatchRows {
  // a table of joined ones that is above the one with the version has none of its own, and none is compared there
  const version = versionOf(meta) ?? versionOf(helper(rows[0]!.changeSet.entity).__meta as EntityMetadata)!;
  const keys = rows.map(({ changeSet }) => keyValues(changeSet));
  const columns = meta.getPrimaryProps().flatMap((prop) => prop.fieldNames.map((field, i) => ({ prop, field, i })));
  return {
    table,
    uncovered: rows[0]!.expected === undefined,
    guarded: isGuarded(meta),
    keys: columns.map(({ prop, field, i }, k) => ({
      name: platform.quoteIdentifier(field),
      type: prop.columnTypes[i]!,
      values: keys.map((key) => plain(key[k])),
    })),
    version: {
      name: platform.quoteIdentifier(version.fieldNames[0]!),
      type: version.columnTypes[0]!,
      values: rows.map((row) => row.expected),
    },
  };
}

/** The primary key of a row as the database has it, a value per column. */
export function keyValues(changeSet: ChangeSet<object>): unknown[] {
  const key = keyOf(changeSet);
  return isPrimitive(key) ? [key] : Utils.flatten(Utils.asArray(key) as unknown[][], true);
}

/** A primary key as text, to find rows by. SQLite has dates as numbers in one place and as objects in the other. */
export function keyHash(key: unknown[], platform: Platform): string {
  return Utils.getPrimaryKeyHash(
    key.map((part) => textOfBytes(part) ?? platform.processDateProperty(part)) as string[],
  );
}

/** What drivers hand over as bytes, in whatever container; an `ArrayBuffer` has no text of its own. */
function textOfBytes(value: unknown): string | undefined {
  const bytes = value instanceof ArrayBuffer ? new Uint8Array(value) : value;
  return bytes instanceof Uint8Array ? `0x${Buffer.from(bytes).toString('hex')}` : undefined;
}

/** The same of a row that was read, by the names of its properties. */
export function keyHashIn(row: Dictionary, meta: EntityMetadata, platform: Platform): string {
  return keyHash(Utils.flatten(Utils.getCompositeKeyValue(row, meta) as unknown[][], true), platform);
}

function isPrimitive(value: unknown): boolean {
  return typeof value !== 'object' || value === null;
}

/** The same, nested as the key's properties are, for a condition on them. */
export function keyOf(changeSet: ChangeSet<object>): unknown {
  const key: unknown = changeSet.getPrimaryKey();
  // change sets of removed rows have composite keys as an object
  return !isPrimitive(key) && Utils.isPlainObject(key) ? Utils.getCompositeKeyValue(key, changeSet.meta) : key;
}

/** Everything that one UPDATE of these rows needs. */
export function batchUpdate(
  table: string,
  meta: EntityMetadata,
  rows: readonly VersionedRow[],
  platform: Platform,
  mapFieldNames: FieldNameMapper,
): BatchUpdate {
  const located = locate(table, meta, rows, platform);
  // single-table inheritance mixes classes in a batch, joined-table inheritance spreads a class over tables
  const props = meta.inheritanceType === 'tpt' ? meta.ownProps! : meta.root.props;
  const generated = platform.usesReturningStatement() ? props.filter((prop) => prop.generated && !prop.primary) : [];
  const returned = generated.length > 0 ? [...meta.getPrimaryProps(), ...generated] : [];
  return {
    ...located,
    columns: changedColumns(meta, rows, platform, mapFieldNames),
    returning: returned.flatMap((prop) => prop.fieldNames.map((field) => platform.quoteIdentifier(field))),
  };
}

function changedColumns(
  meta: EntityMetadata,
  rows: readonly VersionedRow[],
  platform: Platform,
  mapFieldNames: FieldNameMapper,
): Column[] {
  const payloads = rows.map(({ changeSet }) => changeSet.payload as Record<string, unknown>);
  const owners = new Map<string, EntityMetadata>();
  payloads.forEach((payload, r) => {
    for (const key in payload) {
      if (!owners.has(key)) {
        owners.set(key, rows[r]!.changeSet.meta);
      }
    }
  });
  owners.delete(versionOf(meta)?.name ?? '');
  const columns = new Map<string, Column>();
  for (const [key, owner] of owners) {
    const prop: EntityProperty = (owner.properties as Record<string, EntityProperty>)[key]!;
    const values = payloads.map((payload) => columnValues(prop, payload[key], mapFieldNames));
    const changed = payloads.every((payload) => key in payload) ? undefined : payloads.map((payload) => key in payload);
    const { customType, fieldNames } = prop;
    const own = ownFields(prop);
    fieldNames.forEach((field, i) => {
      if (columns.has(field) || !own.includes(field)) {
        return;
      }
      columns.set(field, {
        name: platform.quoteIdentifier(field),
        type: prop.columnTypes[i]!,
        values: fieldNames.length > 1 ? values.map((value) => plain((value as unknown[])[i])) : values.map(plain),
        changed,
        nativeEnum: prop.nativeEnumName !== undefined,
        convert:
          prop.hasConvertToDatabaseValueSQL && !prop.object
            ? (value) => customType!.convertToDatabaseValueSQL!(value, platform)
            : undefined,
      });
    });
  }
  return [...columns.values()];
}

/** Composite keys may share a column, which is another property's. With `targetKey` MikroORM has other names here. */
function ownFields({ fieldNames, ownColumns }: EntityProperty): string[] {
  const own = ownColumns ? fieldNames.filter((field) => ownColumns.includes(field)) : fieldNames;
  return own.length > 0 ? own : fieldNames;
}

/** The value of a property; the list of them where it has several columns. */
function columnValues(prop: EntityProperty, value: unknown, mapFieldNames: FieldNameMapper): unknown {
  if (isPrimitive(value) && prop.fieldNames.length === 1) {
    return value;
  }
  if (prop.polymorphic && typeof (value as PolymorphicRef | null)?.toTuple === 'function') {
    return (value as PolymorphicRef).toTuple();
  }
  if (prop.fieldNames.length > 1) {
    return Utils.flatten(Utils.asArray(value ?? []) as unknown[][], true);
  }
  if (prop.kind === ReferenceKind.EMBEDDED && prop.object) {
    const names = (item: unknown) => mapFieldNames(item as object, prop.embeddedProps);
    return JSON.stringify(Array.isArray(value) ? value.map(names) : names(value));
  }
  return value;
}

/** A value without MikroORM's wrappers: JSON as its text, missing as null. */
function plain(value: unknown): unknown {
  if (isPrimitive(value)) {
    return value ?? null;
  }
  return Utils.isPlainObject(value) || isMarkedAsJson(value as object) ? JSON.stringify(value) : value;
}

/** MikroORM's `JsonProperty` is another symbol in each copy of it. */
function isMarkedAsJson(value: object): boolean {
  return Object.getOwnPropertySymbols(value).some(({ description }) => description === 'JsonProperty');
}
