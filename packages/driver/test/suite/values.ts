/** Whatever a row changes arrives exactly: in a batch as one by one, and as MikroORM alone stores it. */
import { type EntitySchema, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, stored, withoutLock } from '../harness.ts';

/** A kind of column, the value it starts with, and what it is changed to, each in a row of its own. */
export interface ValueColumn {
  readonly property: object;
  readonly old: unknown;
  readonly values: readonly unknown[];
  /** The database reads it back in its own form. */
  readonly normalised?: boolean;
}

export const texts = [
  "it's",
  '"quoted"',
  'back\\slash',
  "\\'",
  'a?b ??',
  '{a,b}',
  'NULL',
  'null',
  '',
  ' ',
  '  padded  ',
  'üñí 日本 😀 e\u0301',
  'line\nbreak\r\ttab\u0001\u007f',
  '$1 :x @y /* c */ -- d',
  '0123',
  '1e3',
];

const json = [
  [],
  {},
  [1, 'two', { three: 3 }],
  'a string',
  '',
  '5',
  5,
  -0.5,
  true,
  false,
  { nested: { quote: `'"\\? \n ü😀`, null: null, list: [null, [], [null]], date: '2024-02-29T23:59:59.123Z' } },
  { 'a.b': { "it's": '', '': 'empty' } },
  [null],
  'null',
  '{"looks":"like json"}',
  '[]',
];

const columns: Record<string, ValueColumn> = {
  text: { property: p.string().length(100), old: 'old', values: texts },
  long: { property: p.text(), old: 'old', values: [...texts, 'long '.repeat(5_000)] },
  letters: { property: p.character().length(5), old: 'old  ', values: ['ab', 'a    ', "'", 'é'], normalised: true },
  count: { property: p.integer(), old: 7, values: [0, -5, 2_147_483_647, -2_147_483_648] },
  small: { property: p.smallint(), old: 7, values: [0, -32_768, 32_767] },
  ratio: {
    property: p.double(),
    old: 7.5,
    values: [0, -0.1, 1.5e-10, 1e21, -1.7976931348623157e308, 2, 0.1 + 0.2, 2 ** 53 + 2],
  },
  real: { property: p.float(), old: 7.5, values: [0, -0.25, 1e20], normalised: true },
  price: { property: p.decimal('number').precision(12).scale(4), old: 7.5, values: [12345.6789, 0.0001, -1, 0] },
  exact: {
    property: p.decimal().precision(12).scale(4),
    old: '7.5',
    values: ['12345.6789', '-0.0001', '0', '1.50'],
    normalised: true,
  },
  big: { property: p.bigint(), old: 7n, values: [9_007_199_254_740_991n, -9_007_199_254_740_991n, -1n, 0n] },
  flag: { property: p.boolean(), old: true, values: [false] },
  day: { property: p.date(), old: '2020-01-01', values: ['2024-02-29', '1969-12-31', '9999-12-31'] },
  at: {
    property: p.datetime(),
    old: new Date('2020-01-01T00:00:00.000Z'),
    values: ['2024-02-29T23:59:59.000Z', '1969-12-31T23:59:59.000Z', '9999-12-31T00:00:00.000Z'].map(
      (s) => new Date(s),
    ),
  },
  moment: {
    property: p.datetime(3),
    old: new Date('2020-01-01T00:00:00.001Z'),
    values: ['2024-02-29T23:59:59.123Z', '1969-12-31T23:59:59.999Z', '1900-01-01T00:00:00.5Z'].map((s) => new Date(s)),
  },
  time: { property: p.time(), old: '12:00:00', values: ['00:00:00', '23:59:59'] },
  json: { property: p.json<unknown>(), old: { old: true }, values: json },
  blob: {
    property: p.blob(),
    old: Buffer.from('old'),
    values: [Buffer.from([1, 2, 255, 39, 92, 63, 34, 123, 10]), Buffer.from([0, 0]), Buffer.alloc(0)],
    normalised: true,
  },
  bytes: {
    property: p.uint8array(),
    old: new Uint8Array([7]),
    values: [new Uint8Array([0, 255, 39]), new Uint8Array()],
    normalised: true,
  },
  tags: { property: p.array(), old: ['old'], values: [['a', 'b c', 'd'], [], ['x']] },
  uuid: {
    property: p.uuid(),
    old: '00000000-0000-4000-8000-000000000000',
    values: ['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
  },
  color: { property: p.enum(['red', 'green', 'b"lue', '']), old: 'green', values: ['b"lue', 'red', ''] },
  level: { property: p.enum([1, 2, -3]), old: 1, values: [2, -3] },
  colors: { property: p.enum(['red', 'green']).array(), old: ['red'], values: [['green', 'red'], []] },
};

/** One entity with all these columns, and one with a row per value, a row per column that becomes null, and full rows. */
export function valueTests(driver: TestDriver, table: Record<string, ValueColumn>): void {
  const names = Object.keys(table);
  const optional = ([name, { property }]: [string, ValueColumn]) =>
    [name, (property as { nullable(): never }).nullable()] as const;
  const Sample: EntitySchema = defineEntity({
    name: 'Sample',
    properties: {
      id: p.integer().primary(),
      ...Object.fromEntries(Object.entries(table).map(optional)),
      version: p.type(VersionField),
    },
  });
  const initial = Object.fromEntries(names.map((name) => [name, table[name]!.old]));
  const longest = Math.max(...names.map((name) => table[name]!.values.length));
  const changes: Record<string, unknown>[] = [
    ...names.flatMap((name) => [...table[name]!.values, null].map((value) => ({ [name]: value }))),
    ...Array.from({ length: longest }, (_, i) =>
      Object.fromEntries(names.map((name) => [name, table[name]!.values[i % table[name]!.values.length]])),
    ),
    Object.fromEntries(names.map((name) => [name, null])),
  ];

  const roundTrip = async (how: 'in a batch' | 'one by one', more = {}): Promise<Database> => {
    const db = await open(driver, [Sample], more);
    const seed = db.fork();
    changes.forEach((_, i) => seed.create(Sample, { id: i + 1, ...initial } as never));
    await seed.flush();
    const em = db.fork();
    const samples = await em.find(Sample, {}, { orderBy: { id: 'asc' } as never });
    for (const [i, sample] of samples.entries()) {
      Object.assign(sample, changes[i]);
      if (how === 'one by one') {
        await em.flush();
      }
    }
    const log = await db.sent(() => em.flush());
    if (how === 'in a batch' && driver.batches) {
      expect(log.map((sql) => sql.match(/begin|update|commit/)?.[0])).toEqual(['update']);
    }
    expect(await db.sent(() => em.flush())).toEqual([]);
    return db;
  };

  test('a batch stores what single updates store, and MikroORM alone, which is what was assigned', async () => {
    const db = await roundTrip('in a batch');
    const [batched, single] = [await stored(driver, db), await stored(driver, await roundTrip('one by one'))];
    expect(batched).toEqual(single);
    expect(single).toEqual(await stored(driver, await roundTrip('one by one', withoutLock(driver))));
    const rows = await db.fork().find(Sample, {}, { orderBy: { id: 'asc' } as never });
    for (const [i, row] of (rows as Record<string, unknown>[]).entries()) {
      const assigned: Record<string, unknown> = { ...initial, ...changes[i] };
      expect(row.version).toBe(2);
      for (const name of names.filter((column) => !table[column]!.normalised)) {
        expect(row[name]).toEqual(assigned[name]);
      }
    }
  });
}

export function values(driver: TestDriver): void {
  describe('values', () => valueTests(driver, columns));
}
