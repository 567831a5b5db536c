/** Turns the change sets of one table into the columns of one statement, with the values as MikroORM would send them. */
import {
  type ChangeSet,
  type EntityMetadata,
  type EntityProperty,
  JsonProperty,
  type Platform,
  PolymorphicRef,
  ReferenceKind,
  Utils,
  isRaw,
} from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { type BatchRows, type BatchUpdate, type Column, type Dialect, dialectOf } from './dialect.ts';

/** A row that a flush writes, with the version that it must still have. */
export interface VersionedRow {
  readonly changeSet: ChangeSet<object>;
  readonly expected: number;
}

/** Converts the keys of an object embeddable to column names; MikroORM's drivers have it. */
type FieldNameMapper = (data: object, props: Record<string, EntityProperty>) => unknown;

/**
 * The dialect that writes all these rows by one statement; `undefined` where they go row by row.
 * Rows of a batch cannot hold expressions, and further concurrency columns are compared one row at a time; so are keys
 * that SQL converts, and those of a type whose schema we do not know.
 */
export function batchDialect(platform: Platform, sets: readonly ChangeSet<object>[]): Dialect | undefined {
  const fits =
    sets.length > 1 &&
    sets.every(
      ({ meta, payload }) =>
        meta.getOwnConcurrencyCheckKeys().length === 0 &&
        meta.getPrimaryProps().every((prop) => !prop.hasConvertToDatabaseValueSQL && !prop.nativeEnumName) &&
        !Object.values(payload).some(isRaw),
    );
  return fits ? dialectOf(platform) : undefined;
}

/** Where the rows are: table, primary key columns and version column. */
export function locate(
  table: string,
  meta: EntityMetadata,
  rows: readonly VersionedRow[],
  platform: Platform,
): BatchRows {
  const version = versionOf(meta)!;
  const keys = rows.map(({ changeSet }) => keyValues(changeSet));
  const columns = meta.getPrimaryProps().flatMap((prop) => prop.fieldNames.map((field, i) => ({ prop, field, i })));
  return {
    table,
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
  return Utils.flatten(Utils.asArray(keyOf(changeSet)) as unknown[][], true);
}

/** The same by column name. */
export function keyColumns(changeSet: ChangeSet<object>): Record<string, unknown> {
  const values = keyValues(changeSet);
  const fields = changeSet.meta.getPrimaryProps().flatMap((prop) => prop.fieldNames);
  return Object.fromEntries(fields.map((field, i) => [field, values[i]]));
}

/** The same, nested as the key's properties are, for a condition on them. */
export function keyOf(changeSet: ChangeSet<object>): unknown {
  const key: unknown = changeSet.getPrimaryKey();
  // change sets of removed rows have composite keys as an object
  return Utils.isPlainObject(key) ? Utils.getCompositeKeyValue(key, changeSet.meta) : key;
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
  const generated = props.filter((prop) => prop.generated && !prop.primary);
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
  const version = versionOf(meta)!.name;
  const payloads = rows.map(({ changeSet }) => changeSet.payload as Record<string, unknown>);
  const keys = new Set(payloads.flatMap((payload) => Object.keys(payload)));
  keys.delete(version);
  const columns = new Map<string, Column>();
  for (const key of keys) {
    const owner = rows.find((_, r) => key in payloads[r]!)!.changeSet.meta;
    const prop: EntityProperty = (owner.properties as Record<string, EntityProperty>)[key]!;
    const changed = payloads.map((payload) => key in payload);
    const values = payloads.map((payload) => columnValues(prop, payload[key], mapFieldNames));
    const { customType } = prop;
    prop.fieldNames.forEach((field, i) => {
      // composite keys may share a column
      if (columns.has(field) || (prop.ownColumns && !prop.ownColumns.includes(field))) {
        return;
      }
      columns.set(field, {
        name: platform.quoteIdentifier(field),
        type: prop.columnTypes[i]!,
        values: values.map((value) => plain(value[i])),
        changed: changed.every(Boolean) ? undefined : changed,
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

/** The values of a property, one for each of its columns. */
function columnValues(prop: EntityProperty, value: unknown, mapFieldNames: FieldNameMapper): unknown[] {
  if (value instanceof PolymorphicRef) {
    return value.toTuple();
  }
  if (prop.fieldNames.length > 1) {
    return Utils.flatten(Utils.asArray(value ?? []) as unknown[][], true);
  }
  if (prop.kind === ReferenceKind.EMBEDDED && prop.object && value) {
    const names = (item: unknown) => mapFieldNames(item as object, prop.embeddedProps);
    return [JSON.stringify(Array.isArray(value) ? value.map(names) : names(value))];
  }
  return [value];
}

/** A value without MikroORM's wrappers: JSON as its text, missing as null. */
function plain(value: unknown): unknown {
  if (Utils.isPlainObject(value) || (value as { [JsonProperty]?: boolean } | null)?.[JsonProperty]) {
    return JSON.stringify(value);
  }
  return value ?? null;
}
