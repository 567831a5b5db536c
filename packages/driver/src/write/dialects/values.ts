/** The list of values that a batch statement is joined to, as all dialects name it. */
import type { BatchRows, BatchUpdate, Column, Statement } from './dialect.ts';

/** Its columns: `k0…` the key, `v` the version, `c0…` the new values, `f0…` whether a row has one. */
export function valueColumns(rows: BatchRows, changes: readonly Column[] = []): Map<string, Column> {
  const columns = new Map(rows.keys.map((key, i) => [`k${i}`, key]));
  if (!rows.uncovered) {
    columns.set('v', rows.version);
  }
  changes.forEach((column, i) => {
    columns.set(`c${i}`, column);
    if (column.changed) {
      columns.set(`f${i}`, { name: column.name, type: 'bool', values: column.changed });
    }
  });
  return columns;
}

/** The same rows, each with its place in the list where its version was. */
export function placesOf(rows: BatchRows): BatchRows {
  const { name, values } = rows.version;
  return { ...rows, uncovered: false, version: { name, type: 'int', values: [...values.keys()] } };
}

/** One changed row, as MikroORM writes it, with the version added, and a condition where one is needed. */
export function updateOne(update: BatchUpdate, when?: string): Statement {
  const { table, keys, version, columns, returning, uncovered } = update;
  const set = columns.map((column) => `${column.name} = ${column.convert?.('?') ?? '?'}`);
  const where = uncovered ? keys : [...keys, version];
  return {
    sql:
      `update ${table} set ${[...set, ...bump(update, version.name)].join(', ')} ` +
      `where ${where.map((column) => `${column.name} = ?`).join(' and ')}${when ? ` and ${when}` : ''}` +
      (returning.length > 0 ? ` returning ${returning.join(', ')}` : ''),
    params: [...columns, ...where].map((column) => column.values[0]),
  };
}

/** One removed row, where its version and a condition hold. */
export function deleteOne({ table, keys, version }: BatchRows, when: string): Statement {
  const where = [...keys, version];
  return {
    sql: `delete from ${table} where ${where.map((column) => `${column.name} = ?`).join(' and ')} and ${when}`,
    params: where.map((column) => column.values[0]),
  };
}

/** A row of the table has the key of a row in the list. */
export function sameKey(rows: BatchRows, table: string, list: string): string {
  return rows.keys.map((key, i) => `${table}.${key.name} = ${list}.k${i}`).join(' and ');
}

/** The assignment of the next version, where there is one. */
export function bump({ version: { name }, uncovered }: BatchRows, current: string, target = ''): string[] {
  return uncovered ? [] : [`${target}${name} = ${current} + 1`];
}

/** A condition, to be added: the row of the table has the version that is expected, where one is. */
export function sameVersion({ version, uncovered }: BatchRows, table: string, expected: string): string {
  return uncovered ? '' : ` and ${table}.${version.name} = ${expected}`;
}

/**
 * The assignments of an UPDATE of `_t`: a row keeps what it has not changed.
 *
 * @param cell where a column of the list is
 * @param target what stands before the columns that are written
 */
export function assignments(
  batch: BatchUpdate,
  cell: (name: string) => string,
  convert: (column: Column, value: string) => string = (column, value) => column.convert?.(value) ?? value,
  target = '',
): string {
  const set = batch.columns.map((column, i) => {
    const value = convert(column, cell(`c${i}`));
    return `${target}${column.name} = ${column.changed ? `case when ${cell(`f${i}`)} then ${value} else _t.${column.name} end` : value}`;
  });
  return [...set, ...bump(batch, `_t.${batch.version.name}`, target)].join(', ');
}
