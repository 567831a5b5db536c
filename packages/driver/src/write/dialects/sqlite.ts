/**
 * SQLite: the rows as one JSON text, joined to the table.
 *
 *   update "article" as _t set "title" = (_v.value ->> 2), "version" = _t."version" + 1
 *   from json_each('[[1,3,"a"],[2,1,"b"]]') as _v
 *   where _t."id" = (_v.value ->> 0) and _t."version" = (_v.value ->> 1)
 *
 * A list of VALUES says the same and is parsed several times slower; it is taken for what JSON cannot carry.
 */
import { type BatchRows, type Column, type Dialect, GUARD } from './dialect.ts';
import { allFound, assignments, placesOf, sameVersion, valueColumns } from './values.ts';

/** Triggers that are none of ours. */
const OTHERS = ` and name not glob '*_${GUARD}_*'`;

export const sqlite: Dialect = {
  update(batch, alone) {
    const { source, params, cell } = listOf(batch, batch.columns);
    const set = assignments(batch, cell);
    const returning = batch.returning.length > 0 ? ` returning ${batch.returning.join(', ')}` : '';
    const update = `update ${batch.table} as _t set ${set} from ${source} where ${sameRow(batch, cell)}`;
    if (!alone) {
      return { sql: update + returning, params };
    }
    const found = `select 1 from ${source} cross join ${batch.table} as _t on ${sameRow(batch, cell)}`;
    return {
      sql: `with _l as materialized (${found}) ${update} and ${allFound(batch)} and ${hasNoTriggers(batch)}${returning}`,
      params: [...params, ...params],
    };
  },

  // a connection that writes holds the only write lock, so finding the rows and deleting them see the same state
  delete(rows, alone) {
    const { source, params, cell } = listOf(rows);
    const keys = rows.keys.map((column) => column.name).join(', ');
    const found = `select ${rows.keys.map((column) => `_t.${column.name}`).join(', ')} from ${source} cross join ${rows.table} as _t`;
    return {
      sql:
        `with _l as materialized (${found} on ${sameRow(rows, cell)}) ` +
        `delete from ${rows.table} where (${keys}) in (select * from _l) and ${allFound(rows)}` +
        (alone ? ` and ${hasNoTriggers(rows)}` : ''),
      params,
    };
  },

  read(rows) {
    const { source, params, cell } = listOf(placesOf(rows));
    return {
      sql:
        `select ${cell('v')} as i, _t.${rows.version.name} as version from ${source} ` +
        `cross join ${rows.table} as _t on ${sameKeys(rows, cell)}`,
      params,
    };
  },

  specialTables: `select distinct tbl_name as name, 0 as is_rewritten, 0 as writes_instead from sqlite_master where type = 'trigger'${OTHERS}`,

  // a connection that writes holds the only lock
  locksRows: false,

  proposed: (column) => `excluded.${column}`,

  readsCurrent: true,

  lostRaceCodes: ['SQLITE_BUSY_SNAPSHOT'],

  // https://www.sqlite.org/lang_transaction.html, "Response To Errors Within A Transaction"
  endsTransaction: ({ code }) => /^SQLITE_(?:FULL|IOERR|NOMEM|INTERRUPT)/.test(String(code)),

  losesAnswer: () => false,
};

type Cell = (name: string) => string;

/** A trigger may keep back a row (RAISE(IGNORE)), and a statement that has ended by itself cannot be taken back. */
function hasNoTriggers({ table, guarded }: BatchRows): string {
  const [, schema = '', name] = /^(?:([^.]+\.))?(.+)$/.exec(table)!;
  const text = `'${name!.slice(1, -1).replaceAll("'", "''")}'`;
  const others = guarded ? OTHERS : '';
  const none = (master: string) =>
    `not exists (select 1 from ${master} where type = 'trigger' and tbl_name = ${text} collate nocase${others})`;
  return `${none(`${schema}sqlite_master`)} and ${none('sqlite_temp_master')}`;
}

function sameRow(rows: BatchRows, cell: Cell): string {
  return sameKeys(rows, cell) + sameVersion(rows, '_t', cell('v'));
}

function sameKeys(rows: BatchRows, cell: Cell): string {
  return rows.keys.map((column, i) => `_t.${column.name} = ${cell(`k${i}`)}`).join(' and ');
}

function listOf(rows: BatchRows, changes?: readonly Column[]): { source: string; params: unknown[]; cell: Cell } {
  const list = valueColumns(rows, changes);
  const names = [...list.keys()];
  const columns = [...list.values()];
  const lines = columns[0]!.values.map((_, r) => columns.map((column) => column.values[r]));
  const json = jsonOf(lines);
  if (json !== undefined) {
    const cell = (name: string) => `(_v.value ->> ${names.indexOf(name)})`;
    return { source: 'json_each(?) as _v', params: [json], cell };
  }
  const row = `(${columns.map(() => '?').join(', ')})`;
  return {
    source: `(values ${lines.map(() => row).join(', ')}) as _v`,
    params: lines.flat(),
    cell: (name) => `_v.column${names.indexOf(name) + 1}`,
  };
}

/** The same values as MikroORM would write them into SQL; undefined when one of them has no form in JSON. */
function jsonOf(lines: readonly unknown[][]): string | undefined {
  const rows: string[] = [];
  for (const line of lines) {
    const cells: string[] = [];
    for (const value of line) {
      const cell = jsonCell(value);
      if (cell === undefined) {
        return undefined;
      }
      cells.push(cell);
    }
    rows.push(`[${cells.join(',')}]`);
  }
  return `[${rows.join(',')}]`;
}

function jsonCell(value: unknown): string | undefined {
  switch (typeof value) {
    case 'string':
      // SQLite ends a text at NUL, and knows no half of a surrogate pair
      return value.isWellFormed() && !value.includes('\0') ? JSON.stringify(value) : undefined;
    case 'number':
      return Number.isFinite(value) ? String(value) : undefined;
    case 'bigint':
    case 'boolean':
      return String(value);
    default:
      return value === null ? 'null' : value instanceof Date ? jsonCell(value.getTime()) : undefined;
  }
}
