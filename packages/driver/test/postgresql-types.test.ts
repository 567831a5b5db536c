/** Column types that only PostgreSQL has. */
import { Type, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describeLocks } from '@mikro-ool/driver';
import { describe, expect, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { open } from './harness.ts';
import { schemas } from './suite/schemas.ts';
import { type ValueColumn, texts, valueTests } from './suite/values.ts';

const typed = (type: string, old: unknown, values: readonly unknown[]): ValueColumn => ({
  property: p.string().columnType(type),
  old,
  values,
  normalised: true,
});

// MikroORM quotes neither blanks nor NULL in an array
const words = texts.filter((text) => text === text.trim() && !/^null$/i.test(text));

const columns: Record<string, ValueColumn> = {
  letters: typed('char(5)', 'old', ['ab', 'a    ', '', "'"]),
  letter: typed('char', 'o', ['a', ' ']),
  one: typed('"char"', 'o', ['a', "'"]),
  short: typed('varchar(3)', 'old', ['', 'abc', 'ü😀x']),
  name: typed('name', 'old', ["it's"]),
  interval: {
    property: p.interval(),
    old: '1 day',
    values: ['-1 mon +2 days -03:04:05.678', '0', 'P1Y2M'],
    normalised: true,
  },
  span: typed('interval(0)', '1 day', ['1.6 seconds']),
  time: typed('time(3)', '12:00', ['23:59:59.1236', '24:00']),
  timetz: typed('timetz', '12:00+02', ['23:59:59.123456-08']),
  at: { property: p.datetime(6), old: new Date(0), values: [new Date(1.7e12 + 123), new Date(-1)] },
  local: { property: p.datetime(0).columnType('timestamp(0)'), old: new Date(0), values: [new Date(1.7e12)] },
  day: typed('date', '2024-01-01', ['-infinity', '0044-03-15 BC']),
  price: typed('numeric(12,4)', '7.5', ['12345678.12345', '-0.00005', '1e3']),
  any: typed('numeric', '7.5', ['12345678901234567890.123456789012345678901234567890', '-0.0', 'Infinity']),
  real: { property: p.float().columnType('real'), old: 7.5, values: [0.1, -1e38], normalised: true },
  double: typed('double precision', '7.5', ['0.30000000000000004', 'NaN', '5e-324']),
  big: { property: p.bigint('string'), old: '7', values: ['9223372036854775807', '-9223372036854775808'] },
  small: { property: p.smallint(), old: 7, values: [-32_768] },
  money: typed('money', '1', ['-12345.67']),
  bits: typed('bit(4)', '0000', ['1010']),
  bit: typed('bit', '0', ['1']),
  varbits: typed('bit varying(8)', '0', ['10101', '']),
  inet: typed('inet', '::1', ['10.0.0.1/8']),
  mac: typed('macaddr', '08:00:2b:01:02:03', ['08-00-2b-01-02-ff']),
  point: typed('point', '(0,0)', ['(1.5,-2e10)']),
  range: typed('int4range', '[1,2)', ['(5,9]', 'empty', '[,3]']),
  multirange: typed('nummultirange', '{}', ['{[1.5,2),(5,9]}']),
  xml: typed('xml', '<a/>', [`<a b="'">{x,"y"}</a>`]),
  path: typed('jsonpath', '$.a', ['$."b c"[*] ? (@ > 1)']),
  oid: typed('oid', '1', ['4294967295']),
  json: {
    property: p.json<unknown>().columnType('json'),
    old: {},
    values: [{ b: 1, a: [null, "it's"] }, [], 5, 'x', ''],
  },
  jsonb: { property: p.json<unknown>(), old: {}, values: [{ b: 1, a: [null, "it's"] }, [], 5, 'x', ''] },
  citext: typed('citext', 'Old', ["It's", '']),
  hstore: typed('hstore', 'a=>b', [`"it's"=>NULL, "b"=>"x,y\\"{}"`]),
  mood: {
    property: p.enum(['sad', "it's", 'a,b {}', '']).nativeEnumName('mood'),
    old: 'sad',
    values: ["it's", 'a,b {}', ''],
  },
  odd: { property: p.enum(['sad', 'ok']).nativeEnumName('Odd mood'), old: 'sad', values: ['ok'] },
  moods: { property: p.enum(['sad', 'ok']).array().nativeEnumName('moods'), old: ['sad'], values: [['ok', 'sad'], []] },
  tags: {
    property: p.array(),
    old: ['old'],
    values: [words, [], [''], [null], ['a,b', '{}', '"', '\\']],
    normalised: true,
  },
  numbers: { property: p.array((s) => Number(s)).columnType('int[]'), old: [1], values: [[], [-5, 0, 2_147_483_647]] },
  matrix: typed('int[]', '{1}', ['{{1,2},{3,4}}', '[0:1]={1,2}']),
  flags: typed('bool[]', '{t}', ['{f,t,NULL}', '{}']),
  ranges: typed('int4range[]', '{}', ['{"[1,3)",empty}']),
  codes: typed('varchar(3)[]', '{a}', ['{abc,"d e"}']),
  chars: typed('char(3)[]', '{a}', ['{abc,d}']),
  times: typed('time(3)[]', '{}', ['{23:59:59.123,NULL}']),
  documents: typed('jsonb[]', '{}', [`{"{\\"a\\": [1, null, \\"it's\\"]}",null}`]),
  blobs: typed('bytea[]', '{}', ['{"\\\\x00ff"}']),
  ids: typed('uuid[]', '{}', ['{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}']),
};

/** Conversions whose functions are found by the type of a bare literal. */
const converted = (columnType: string, sql: (key: string) => string, toDatabase = (value: string): unknown => value) =>
  class extends Type<string, unknown> {
    override convertToDatabaseValue(value: string): unknown {
      return value == null ? value : toDatabase(value);
    }
    override convertToDatabaseValueSQL(key: string): string {
      return sql(key);
    }
    override getColumnType(): string {
      return columnType;
    }
  };
const conversion = (type: ReturnType<typeof converted>, old: string, values: string[]): ValueColumn => ({
  property: p.type(type),
  old,
  values,
  normalised: true,
});

const conversions: Record<string, ValueColumn> = {
  seconds: conversion(
    converted('timestamptz', (key) => `to_timestamp(${key})`),
    '0',
    ['1700000000.5', '-1'],
  ),
  spaced: conversion(
    converted('varchar(20)', (key) => `concat('[', ${key}, ']')`),
    'a',
    ["it's", ''],
  ),
  tags: conversion(
    converted('text[]', (key) => `string_to_array(${key}, ',')`),
    'a',
    ['b,c', ''],
  ),
  bytes: conversion(
    converted(
      'bytea',
      (key) => `set_byte(${key}, 0, 255)`,
      (value) => Buffer.from(value),
    ),
    'a',
    ['bc', "'\\"],
  ),
  whole: conversion(
    converted('int', (key) => `round(${key})`, Number),
    '1',
    ['2.5', '-3.5'],
  ),
};

const setUp = 'create extension citext; create extension hstore';

describe('PostgreSQL types', () => {
  valueTests({ ...postgresql, setUp }, columns);
  describe('conversions by SQL', () => valueTests(postgresql, conversions));
  describe('enums that are where the table is', () =>
    schemas(postgresql, p.enum(['new', 'old']).nativeEnumName('State')));

  test('describeLocks() says that rows with a native enum as key are written one by one', async () => {
    const mood = p.enum(['sad', 'ok']).nativeEnumName('mood').primary();
    const Song = defineEntity({ name: 'Song', properties: { mood, version: p.type(VersionField) } });
    const { orm } = await open(postgresql, [Song]);
    const because = 'its key is converted by SQL, or a native enum';
    expect((await describeLocks(orm)).entities).toMatchObject([{ entity: 'Song', writes: 'row by row', because }]);
  });
});
