/**
 * PostgreSQL: one array per column, the rows locked in primary key order before any of them is written.
 *
 *   with _l as materialized (
 *     select _v.* from "article" as _t join unnest('{1,2}'::int[], '{3,1}'::int[], '{a,b}'::varchar[]) as _v (k0, v, c0)
 *       on _t."id" = _v.k0 and _t."version" = _v.v
 *     where _t."id" = any('{1,2}'::int[]) order by _t."id" for no key update of _t)
 *   update "article" as _t set "title" = _l.c0, "version" = _t."version" + 1
 *   from _l where _t."id" = _l.k0
 *
 * Without the ordered lock two flushes of the same rows deadlock, because a join updates rows in whatever order the
 * planner finds them. The key list stands in the locking part only: in the outer join it would be searched per row.
 */
import { raw } from '@mikro-orm/core';
import type { BatchRows, Column, Dialect, DriverError, Statement } from './dialect.ts';
import { allFound, assignments, sameKey, valueColumns } from './values.ts';

export const postgresql: Dialect = {
  update(batch) {
    const locked = lockRows(batch, batch.columns, 'no key update');
    const returning = batch.returning.map((name) => `_t.${name}`).join(', ');
    return {
      sql:
        `${locked.sql} update ${batch.table} as _t set ${assignments(batch, (name) => `_l.${name}`, assign)} ` +
        `from _l where ${sameKey(batch, '_t', '_l')}${returning && ` returning ${returning}`}`,
      params: locked.params,
    };
  },

  delete(rows) {
    const locked = lockRows(rows, [], 'update');
    return {
      sql: `${locked.sql} delete from ${rows.table} as _t using _l where ${sameKey(rows, '_t', '_l')} and ${allFound(rows)}`,
      params: locked.params,
    };
  },

  proposed: (column) => `excluded.${column}`,

  autocommits: true,
  readsCurrent: true,

  // serialization_failure, deadlock_detected
  lostRaceCodes: ['40001', '40P01'],

  // statement_completion_unknown
  losesAnswer: (error) => error.code === '40003' || isCutOff(error) || error.message === 'Query read timeout',

  // a dead client refuses statements without sending them
  mayRelease: (error) => isCutOff(error) || error.message?.endsWith('is not queryable') === true,
};

/** The connection ended under a statement: connection exceptions, admin_shutdown, crash_shutdown, and what node-postgres says. */
function isCutOff({ code, message = '' }: DriverError): boolean {
  return (
    /^(?:08\w{3}|57P0[12]|ECONNRESET|EPIPE|ETIMEDOUT)$/.test(String(code)) ||
    /^Connection terminated(?: unexpectedly)?$/.test(message)
  );
}

/** Locks the rows that still have the expected version; waiting for a rival's commit re-checks the version. */
function lockRows(rows: BatchRows, columns: readonly Column[], lock: string): Statement {
  const list = valueColumns(rows, columns);
  const names = [...list.keys()].join(', ');
  const arrays = [...list.values()].map(arrayOf);
  const unnested = arrays.map((array) => array.sql).join(', ');
  const [first] = rows.keys;
  const keys = arrayOf(first!);
  const order = rows.keys.map((key) => `_t.${key.name}${isText(key) ? ' collate "C"' : ''}`).join(', ');
  return {
    sql:
      `with _l as materialized (select _v.* from ${rows.table} as _t ` +
      `join unnest(${unnested}) as _v (${names}) on ${sameKey(rows, '_t', '_v')} and _t.${rows.version.name} = _v.v ` +
      `where _t.${first!.name} = any(${keys.sql}) order by ${order} for ${lock} of _t)`,
    params: [...arrays, keys].flatMap((array) => array.params),
  };
}

/** One literal for the whole column where every value has a plain text form, else MikroORM's literal of each value. */
function arrayOf(column: Column): Statement {
  if (isConverted(column)) {
    return convertedArrayOf(column);
  }
  const { values } = column;
  const type = carrierType(column);
  const elements: string[] = [];
  for (const value of values) {
    if (value === null) {
      elements.push('NULL');
    } else if (typeof value === 'string') {
      elements.push(`"${value.replace(/["\\]/g, '\\$&')}"`);
    } else if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') {
      elements.push(String(value));
    } else {
      // dates and binary
      return { sql: `array[${values.map(() => '?').join(', ')}]::${type}[]`, params: [...values] };
    }
  }
  return { sql: `?::${type}[]`, params: [raw(literal(`{${elements.join(',')}}`))] };
}

/** MikroORM quotes a value character by character, which for these texts costs as much as sending them. */
function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''")}'`;
  return quoted.includes('\\') ? `E${quoted.replaceAll('\\', '\\\\')}` : quoted;
}

/** Conversion by SQL is written around each value: a function may be found by the type of a bare literal. */
function convertedArrayOf(column: Column): Statement {
  const { values, changed, convert, type } = column;
  const isChanged = (row: number) => changed?.[row] ?? true;
  const element = isArray(column) ? `(${convert!('?')})::${type}::text` : convert!('?');
  return {
    sql: `array[${values.map((_, row) => (isChanged(row) ? element : 'null')).join(', ')}]::${carrierType(column)}[]`,
    params: values.filter((_, row) => isChanged(row)),
  };
}

function isConverted(column: Column): boolean {
  // the conversion of JSON is nothing but a cast
  return column.convert !== undefined && !/^jsonb?$/i.test(column.type);
}

const SERIAL: Record<string, string> = {
  serial: 'int',
  bigserial: 'bigint',
  smallserial: 'smallint',
  // without their length these two mean a length of 1
  char: 'bpchar',
  character: 'bpchar',
  bit: 'varbit',
};

/**
 * The type without its length: an explicit cast to `varchar(3)` would cut a value that an assignment refuses.
 * Types that are not built in keep what stands in brackets (`geometry(Point, 4326)`).
 */
function bareType(type: string): string {
  const bare = /^(?:(?:n?var)?char|character|bpchar|numeric|decimal|(?:var)?bit|time|interval)/i.test(type)
    ? type.replace(/\s*\([^)]*\)/, '')
    : type;
  return SERIAL[bare.toLowerCase()] ?? bare;
}

/** `unnest` flattens arrays of arrays, JSON is cast, and a native enum may be in any schema: they travel as text. */
function carrierType(column: Column): string {
  return column.nativeEnum || isArray(column) || (column.convert && !isConverted(column))
    ? 'text'
    : bareType(column.type);
}

function assign(column: Column, value: string): string {
  if (column.nativeEnum) {
    // by the row type of the table; the key is the column's name without its quotes
    const key = column.name.slice(1, -1).replaceAll('""', '"').replaceAll("'", "''");
    const json = `jsonb_build_object('${key}', ${isArray(column) ? `${value}::text[]` : value})`;
    return `(jsonb_populate_record(_t, ${json})).${column.name}`;
  }
  if (column.convert && !isConverted(column)) {
    return column.convert(value);
  }
  return isArray(column) ? `${value}::${column.type}` : value;
}

function isArray(column: Column): boolean {
  return column.type.endsWith(']');
}

function isText(column: Column): boolean {
  return /^(?:varchar|character varying|text|bpchar|char)/i.test(column.type);
}
