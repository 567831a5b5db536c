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
    const { source, params, cell, names } = listOf(batch, batch.columns);
    const returning = batch.returning.length > 0 ? ` returning ${batch.returning.join(', ')}` : '';
    const update = (from: string, at: Cell) =>
      `update ${batch.table} as _t set ${assignments(batch, at)} from ${from} where ${sameRow(batch, at)}`;
    if (!alone) {
      return { sql: update(source, cell) + returning, params };
    }
    // looked through twice, but parsed once
    const list = `with _v (${names.join(', ')}) as materialized (select ${names.map(cell).join(', ')} from ${source}) `;
    const at: Cell = (name) => `_v.${name}`;
    const found = `(select count(*) from _v cross join ${batch.table} as _t on ${sameRow(batch, at)})`;
    const isAll = `${found} = ${batch.version.values.length} and ${hasNoTriggers(batch)}`;
    return { sql: `${list}${update('_v', at)} and ${isAll}${returning}`, params };
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
  const triggers = (master: string) =>
    `select 1 from ${master} where type = 'trigger' and tbl_name = ${text} collate nocase${others}`;
  return `not exists (${triggers(`${schema}sqlite_master`)} union all ${triggers('sqlite_temp_master')})`;
}

function sameRow(rows: BatchRows, cell: Cell): string {
  return sameKeys(rows, cell) + sameVersion(rows, '_t', cell('v'));
}

function sameKeys(rows: BatchRows, cell: Cell): string {
  return rows.keys.map((column, i) => `_t.${column.name} = ${cell(`k${i}`)}`).join(' and ');
}

interface List {
  readonly names: readonly string[];
  readonly source: string;
  readonly params: unknown[];
  readonly cell: Cell;
}

function listOf(rows: BatchRows, changes?: readonly Column[]): List {
  const list = valueColumns(rows, changes);
  const names = [...list.keys()];
  const columns = [...list.values()];
  const lines = columns[0]!.values.map((_, r) => columns.map((column) => column.values[r]));
  const json = jsonOf(lines);
  if (json !== undefined) {
    const cell = (name: string) => `(_v.value ->> ${names.indexOf(name)})`;
    return { names, source: 'json_each(?) as _v', params: [json], cell };
  }
  const row = `(${columns.map(() => '?').join(', ')})`;
  return {
    names,
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
