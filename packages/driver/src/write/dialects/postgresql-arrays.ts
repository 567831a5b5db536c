/** Columns of values as arrays of PostgreSQL: their literals, and the types in which they travel. */
import { raw } from '@mikro-orm/core';
import type { Column, Statement } from './dialect.ts';

/** One literal for the whole column where every value has a plain text form, else MikroORM's literal of each value. */
export function arrayOf(column: Column): Statement {
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

export function isConverted(column: Column): boolean {
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
export function carrierType(column: Column): string {
  return column.nativeEnum || isArray(column) || (column.convert && !isConverted(column))
    ? 'text'
    : bareType(column.type);
}

/** The value of an array, as the column takes it. */
export function assign(column: Column, value: string): string {
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

export function isArray(column: Column): boolean {
  return column.type.endsWith(']');
}

export function isText({ type }: Pick<Column, 'type'>): boolean {
  return /^(?:varchar|character varying|text|bpchar|char)/i.test(type);
}
