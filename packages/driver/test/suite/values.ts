/** Whatever a row changes arrives exactly, in a batch as one by one. */
import { defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';

const Sample = defineEntity({
  name: 'Sample',
  properties: {
    id: p.integer().primary(),
    text: p.string().nullable(),
    long: p.text().nullable(),
    count: p.integer().nullable(),
    ratio: p.double().nullable(),
    price: p.decimal('number').precision(12).scale(4).nullable(),
    big: p.bigint().nullable(),
    flag: p.boolean().nullable(),
    day: p.date().nullable(),
    at: p.datetime().nullable(),
    json: p.json<unknown>().nullable(),
    blob: p.blob().nullable(),
    tags: p.array().nullable(),
    uuid: p.uuid().nullable(),
    color: p.enum(['red', 'green', "bl'ue"]).nullable(),
    version: p.type(VersionField),
  },
});

const texts = [
  "it's",
  '"quoted"',
  'back\\slash',
  'a?b ??',
  '{a,b}',
  'NULL',
  '',
  ' ',
  'üñí 日本 😀',
  'line\nbreak\ttab',
  '$1 :x',
];

const changes: Record<string, unknown>[] = [
  ...texts.map((text) => ({ text, long: text.repeat(3), json: { text, list: [text, 1, null] } })),
  { count: -5, ratio: 1.5e-10, price: 12345.6789, big: 9_007_199_254_740_991n, flag: true },
  { count: 0, ratio: -0.1, price: 0.0001, big: -1n, flag: false },
  { day: '2024-02-29', at: new Date('2024-02-29T23:59:59.123Z'), uuid: 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' },
  { json: [] },
  { json: [1, 'two', { three: 3 }] },
  { json: 'a string' },
  { json: 5 },
  { json: false },
  { json: { nested: { quote: `'"\\?` } } },
  { blob: Buffer.from([0, 1, 2, 255, 39, 92, 63]) },
  { blob: Buffer.alloc(0) },
  { tags: ['a', 'b c', 'd'] },
  { tags: [] },
  { color: "bl'ue" },
  { text: null, long: null, count: null, ratio: null, price: null, big: null, flag: null, day: null, at: null },
  { json: null, blob: null, tags: null, uuid: null, color: null },
  { text: 'all', count: 1, flag: true, at: new Date(0), json: {}, tags: ['x'], color: 'red' },
];

export function values(driver: TestDriver): void {
  const initial = {
    text: 'old',
    long: 'old',
    count: 7,
    ratio: 7.5,
    price: 7.5,
    big: 7n,
    flag: true,
    day: '2020-01-01',
    at: new Date('2020-01-01T00:00:00.000Z'),
    json: { old: true },
    blob: Buffer.from('old'),
    tags: ['old'],
    uuid: '00000000-0000-4000-8000-000000000000',
    color: 'green' as const,
  };

  const roundTrip = async (batch: boolean) => {
    const { fork } = await open(driver, [Sample]);
    const seed = fork();
    changes.forEach((_, id) =>
      seed.create(Sample, { id, ...structuredClone({ ...initial, blob: undefined }), blob: initial.blob }),
    );
    await seed.flush();
    const em = fork();
    const samples = await em.find(Sample, {}, { orderBy: { id: 'asc' } });
    for (const [i, sample] of samples.entries()) {
      Object.assign(sample, changes[i]);
      if (!batch) {
        await em.flush();
      }
    }
    await em.flush();
    const stored = await fork().find(Sample, {}, { orderBy: { id: 'asc' } });
    return stored.map((row) => ({ ...row, blob: row.blob && Buffer.from(row.blob).toString('hex') }));
  };

  describe('values', () => {
    test('a batch stores what single updates store, which is what was assigned', async () => {
      const [batched, single] = [await roundTrip(true), await roundTrip(false)];
      expect(batched).toEqual(single);
      for (const [i, row] of batched.entries()) {
        const expected = { ...initial, ...changes[i] } as typeof initial;
        const blob = expected.blob && Buffer.from(expected.blob).toString('hex');
        expect(row).toEqual({ id: i, ...expected, blob, version: 2 });
      }
    });
  });
}
