/**
 * SQLite: the rows as one JSON text, joined to the table.
 *
 *   update "article" as _t set "title" = (_v.value ->> 2), "version" = _t."version" + 1
 *   from json_each('[[1,3,"a"],[2,1,"b"]]') as _v
 *   where _t."id" = (_v.value ->> 0) and _t."version" = (_v.value ->> 1)
 *
 * A list of VALUES says the same and is parsed several times slower; it is taken for what JSON cannot carry, and for keys
 * and versions alone where rows are deleted: all of them, or none.
 *
 *   delete from "article" where "id" in (1, 2) and (select count(*)
 *     from (values (1, 3), (2, 1)) as _v cross join "article" as _t
 *     on _t."id" = _v.column1 and _t."version" = _v.column2) = 2
 */
import { type BatchRows, type Column, type Dialect, GUARD, type Statement } from './dialect.ts';
import { assignments, placesOf, sameVersion, valueColumns } from './values.ts';

/** Triggers that are none of ours. */
const OTHERS = ` and name not glob '*_${GUARD}_*'`;

const AT_END = 'the version has reached the end of its column';
const FAILED_AT_END = new RegExp(`JSON path[^']*'${AT_END}`);

export const sqlite: Dialect = {
  update(batch, alone) {
    const { source, params, cell } = listOf(batch, batch.columns);
    const update = `update ${batch.table} as _t set ${assignments(batch, cell)} from ${source} where ${sameRow(batch, cell)}`;
    const returning = batch.returning.length > 0 ? ` returning ${batch.returning.join(', ')}` : '';
    if (!alone) {
      return { sql: update + returning, params };
    }
    const all = areAllFound(batch, listOf(batch));
    return {
      sql: `${update} and ${all.sql} and ${hasNoTriggers(batch)}${returning}`,
      params: [...params, ...all.params],
    };
  },

  // a connection that writes holds the only write lock, so finding the rows and deleting them see the same state
  delete(rows, alone) {
    const keys = rows.keys.map((column) => column.name).join(', ');
    const places = rows.version.values.map((_, r) => rows.keys.map(({ values }) => values[r]));
    const isOne = rows.keys.length === 1;
    const { names, lines } = linesOf(rows);
    const all = areAllFound(rows, listOfValues(names, lines));
    return {
      sql:
        `delete from ${rows.table} where ${isOne ? `${keys} in (${places.map(() => '?').join(', ')})` : `(${keys}) in (${valuesOf(places)})`}` +
        ` and ${all.sql}${alone ? ` and ${hasNoTriggers(rows)}` : ''}`,
      params: [...places.flat(), ...all.params],
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

  locksRows: false,

  proposed: (column) => `excluded.${column}`,

  // an integer may be larger than any column says. Of what fails in an expression, only a path of JSON is quoted
  next: (current, maximum) =>
    `case when ${current} < ${maximum} then ${current} + 1 else json_extract('{}', '${AT_END}') end`,

  isAtEnd: ({ message }) => FAILED_AT_END.test(String(message)),

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

/** A condition: every row was found with the version that is expected. */
function areAllFound(rows: BatchRows, { source, params, cell }: List): Statement {
  const found = `select count(*) from ${source} cross join ${rows.table} as _t on ${sameRow(rows, cell)}`;
  return { sql: `(${found}) = ${rows.version.values.length}`, params };
}

interface List {
  readonly source: string;
  readonly params: unknown[];
  readonly cell: Cell;
}

function linesOf(rows: BatchRows, changes?: readonly Column[]) {
  const list = valueColumns(rows, changes);
  const columns = [...list.values()];
  const lines = columns[0]!.values.map((_, r) => columns.map((column) => column.values[r]));
  return { names: [...list.keys()], lines };
}

function listOf(rows: BatchRows, changes?: readonly Column[]): List {
  const { names, lines } = linesOf(rows, changes);
  const json = jsonOf(lines);
  if (json !== undefined) {
    const cell = (name: string) => `(_v.value ->> ${names.indexOf(name)})`;
    return { source: 'json_each(?) as _v', params: [json], cell };
  }
  return listOfValues(names, lines);
}

function listOfValues(names: readonly string[], lines: readonly unknown[][]): List {
  return {
    source: `(${valuesOf(lines)}) as _v`,
    params: lines.flat(),
    cell: (name) => `_v.column${names.indexOf(name) + 1}`,
  };
}

function valuesOf(lines: readonly unknown[][]): string {
  const row = `(${lines[0]!.map(() => '?').join(', ')})`;
  return `values ${lines.map(() => row).join(', ')}`;
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
