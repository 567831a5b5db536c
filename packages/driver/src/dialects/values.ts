/** The list of values that a batch statement is joined to, as all dialects name it. */
import type { BatchRows, BatchUpdate, Column } from '../dialect.ts';

/** Its columns: `k0…` the key, `v` the version, `c0…` the new values, `f0…` whether a row has one. */
export function valueColumns(rows: BatchRows, changes: readonly Column[] = []): Map<string, Column> {
  const columns = new Map(rows.keys.map((key, i) => [`k${i}`, key]));
  columns.set('v', rows.version);
  changes.forEach((column, i) => {
    columns.set(`c${i}`, column);
    if (column.changed) {
      columns.set(`f${i}`, { name: column.name, type: 'bool', values: column.changed });
    }
  });
  return columns;
}

/** A row of the table has the key of a row in the list. */
export function sameKey(rows: BatchRows, table: string, list: string): string {
  return rows.keys.map((key, i) => `"${table}".${key.name} = "${list}"."k${i}"`).join(' and ');
}

/** … and the version that is expected. */
export function sameVersion(rows: BatchRows, table: string, list: string): string {
  return `${sameKey(rows, table, list)} and "${table}".${rows.version.name} = "${list}"."v"`;
}

/** The assignments of an UPDATE of `"_t"`: a row keeps what it has not changed. */
export function assignments(
  { columns, version }: BatchUpdate,
  list: string,
  convert: (column: Column, value: string) => string,
): string {
  const set = columns.map((column, i) => {
    const value = convert(column, `"${list}"."c${i}"`);
    return `${column.name} = ${column.changed ? `case when "${list}"."f${i}" then ${value} else "_t".${column.name} end` : value}`;
  });
  return [...set, `${version.name} = "${list}"."v" + 1`].join(', ');
}
