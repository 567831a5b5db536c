/** Excluded columns where MikroORM writes them otherwise: read back, in joined tables, and by a later statement. */
import { type EntitySchema, type Opt, defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch, verify } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Order = defineEntity({
  name: 'Order',
  tableName: 'orders',
  properties: {
    id: p.integer().primary(),
    price: p.integer().default(0),
    likes: p.integer().default(0),
    items: () => p.oneToMany(Item).mappedBy('order'),
    version: p.type(new VersionField({ exclude: ['likes'], aggregate: ['items'] })),
  },
});
const Item = defineEntity({
  name: 'Item',
  properties: {
    id: p.integer().primary(),
    seat: p.integer().nullable().unique(),
    row: p.integer().nullable().unique(),
    name: p.string().nullable(),
    order: () => p.manyToOne(Order).nullable(),
    version: p.type(new VersionField({ exclude: ['seat'] })),
  },
});
const Total = defineEntity({
  name: 'Total',
  tableName: 'totals',
  properties: {
    id: p.integer().primary(),
    n: p.integer().default(1),
    twice: p.integer().generated('(n * 2) stored').$type<Opt<number>>(),
    halves: () => p.oneToMany(Half).mappedBy('total'),
    version: p.type(new VersionField({ aggregate: ['halves'] })),
  },
});
const Half = defineEntity({
  name: 'Half',
  properties: { id: p.integer().primary(), total: () => p.manyToOne(Total) },
});

export function excludedShapes(driver: TestDriver): void {
  const setUp = async () => {
    const db = await open(driver, [Order, Item] as EntitySchema[]);
    const seed = db.fork();
    [1, 2].forEach((id) => seed.create(Order, { id, items: [{ id, seat: id, row: id }] }));
    seed.create(Item, { id: 3, order: 2 });
    await seed.flush();
    const em = db.fork();
    const orders = await em.find(Order, {}, { populate: ['items'], orderBy: { id: 1 } });
    const items = await em.find(Item, {}, { orderBy: { id: 1 } });
    const stored = async (table: 'orders' | 'item') =>
      (await db.fork().getConnection().execute<{ version: number }[]>(`select version from ${table} order by id`)).map(
        ({ version }) => version,
      );
    return { ...db, em, orders, items, stored };
  };

  describe('excluded columns that are read back', () => {
    for (const count of [1, 2]) {
      test(`${count} rows that others have changed: what is loaded beside stays as old as it is`, async () => {
        const { fork, em, orders } = await setUp();
        await fork().nativeUpdate(Order, {}, { price: 5 });
        const some = orders.slice(0, count);
        some.forEach((order) => (order.likes = raw('likes + 1') as never));
        await em.flush();
        expect(some.map(({ likes, price, version }) => [likes, price, version])).toEqual(some.map(() => [1, 0, 1]));
        some[0]!.price = 9;
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      });
    }

    test('of a reference, whose version stays unknown', async () => {
      const { fork, stored } = await setUp();
      const em = fork();
      const order = em.getReference(Order, 1);
      order.likes = raw('likes + 1') as never;
      await em.flush();
      expect(order).toMatchObject({ likes: 1 });
      expect(order.version).toBeUndefined();
      expect(await stored('orders')).toEqual([1, 1]);
    });
  });

  describe('a root that is written along with a part', () => {
    test('has in memory what the database made of an expression', async () => {
      const { em, orders, stored } = await setUp();
      const [a, b] = orders;
      Object.assign(a!, { price: raw('price + 5'), likes: raw('likes + 1') });
      b!.likes = raw('likes + 2') as never;
      [a!, b!].forEach((order, i) => em.create(Item, { id: 10 + i, order }));
      await em.flush();
      expect([a!.price, a!.likes, b!.likes]).toEqual([5, 1, 2]);
      expect([a!.version, b!.version]).toEqual([2, 2]);
      expect(await stored('orders')).toEqual([2, 2]);
    });

    test('and what it computes itself', async () => {
      const { fork } = await open(driver, [Total, Half] as EntitySchema[]);
      const em = fork();
      const total = em.create(Total, { id: 1 });
      await em.flush();
      total.n = 4;
      em.create(Half, { id: 1, total });
      await em.flush();
      expect([total.twice, total.version]).toEqual([8, 2]);
    });
  });

  describe('an excluded unique value that moves to another row', () => {
    test('bumps neither row, nor the roots that they are parts of', async () => {
      const { em, items, stored } = await setUp();
      const [a, , c] = items;
      a!.seat = 7;
      c!.seat = 1;
      await em.flush();
      expect(items.map(({ seat, version }) => [seat, version])).toEqual([
        [7, 1],
        [2, 1],
        [1, 1],
      ]);
      expect([await stored('item'), await stored('orders')]).toEqual([
        [1, 1, 1],
        [1, 1],
      ]);
    });

    test('needs no version, and is no conflict where others have changed the row, but where it is gone', async () => {
      const { fork, em, items } = await setUp();
      await fork().nativeUpdate(Item, {}, { name: 'theirs' });
      items[0]!.seat = null;
      items[2]!.seat = 1;
      await em.flush();
      expect(await fork().find(Item, { seat: 1 })).toMatchObject([{ id: 3, name: 'theirs', version: 2 }]);
      await fork().nativeDelete(Item, 3);
      items[2]!.seat = null;
      items[0]!.seat = 1;
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ primaryKey: 3, expected: null, actual: null }],
      });
      const late = fork();
      const [one] = await late.find(Item, { id: 2 });
      await fork().nativeDelete(Item, 1);
      one!.seat = 8;
      const other = late.getReference(Item, 1);
      other.seat = 2;
      expect(await thrown(() => late.flush())).toBeInstanceOf(ConcurrentUpdate);
    });

    test('together with another column, another unique value, touch() or verify(): as ever', async () => {
      const { em, items, stored } = await setUp();
      const [a, b, c] = items;
      const moves: [() => void, versions: number[]][] = [
        [() => Object.assign(c!, { seat: 1, name: 'x' }), [1, 1, 2]],
        [() => Object.assign(c!, { seat: 1, row: 1 }), [2, 1, 3]],
        [() => (touch(c!), (c!.seat = 1)), [2, 1, 4]],
        [() => (verify(c!), (c!.seat = 1)), [2, 1, 5]],
      ];
      for (const [move, versions] of moves) {
        Object.assign(a!, { seat: null, ...(versions[0]! > a!.version && { row: null }) });
        move();
        await em.flush();
        expect([a!.version, b!.version, c!.version]).toEqual(versions);
        expect(await stored('item')).toEqual(versions);
        a!.seat = 1;
        c!.seat = null;
        await em.flush();
        expect(await stored('item')).toEqual(versions);
      }
    });
  });

  describe('joined-table inheritance, the version below', () => {
    const Doc = defineEntity({
      name: 'Doc',
      inheritance: 'tpt',
      properties: { id: p.integer().primary(), title: p.string().nullable(), hits: p.integer().default(0) },
    });
    const Bill = defineEntity({
      name: 'Bill',
      extends: Doc,
      properties: {
        total: p.integer().default(0),
        seen: p.integer().default(0),
        lines: () => p.oneToMany(Line).mappedBy('bill'),
        version: p.type(new VersionField({ exclude: ['hits', 'seen'], aggregate: ['lines'] })),
      },
    } as never) as unknown as EntitySchema<BillRow>;
    const Memo = defineEntity({ name: 'Memo', extends: Doc, properties: { body: p.string().nullable() } } as never);
    const Line = defineEntity({
      name: 'Line',
      properties: { id: p.integer().primary(), text: p.string().nullable(), bill: () => p.manyToOne(Bill as never) },
    });
    interface BillRow {
      id: number;
      title?: string;
      hits: number;
      total: number;
      seen: number;
      lines: object;
      version: Opt<number>;
    }
    const bills = async () => {
      const db = await open(driver, [Doc, Bill, Memo, Line] as EntitySchema[]);
      const seed = db.fork();
      [1, 2].forEach((id) => seed.create(Bill, { id, lines: [{ id }] } as never));
      seed.create(Memo, { id: 3 } as never);
      await seed.flush();
      const em = db.fork();
      const rows = await em.find(Bill, {}, { populate: ['lines'] as never, orderBy: { id: 1 } });
      const expectAll = async (versions: number[]) => {
        await em.flush();
        expect(rows.map(({ version }) => version)).toEqual(versions);
        const stored = await db.fork().find(Bill, {}, { orderBy: { id: 1 } });
        const values = ({ title, hits, total, seen, version }: BillRow) => [title, hits, total, seen, version];
        expect(stored.map(values)).toEqual(rows.map(values));
      };
      return { ...db, em, rows, expectAll };
    };

    test('a column of the table above that is excluded does not count', async () => {
      const { fork, em, rows, expectAll } = await bills();
      const [a, b] = rows;
      const memo = (await em.findOneOrFail(Memo as never, { id: 3 } as never)) as { hits: number };
      a!.hits = 1;
      await expectAll([1, 1]);
      Object.assign(a!, { hits: 2, seen: 1 });
      b!.hits = 1;
      memo.hits = 1;
      await expectAll([1, 1]);
      Object.assign(a!, { hits: 3, title: 'x' });
      b!.hits = 2;
      await expectAll([2, 1]);
      Object.assign(a!, { hits: 4 });
      Object.assign(b!, { hits: 3, total: 1 });
      await expectAll([2, 2]);
      Object.assign(a!, { hits: 5 });
      em.create(Line, { id: 5, bill: a! as never });
      await expectAll([3, 2]);
      a!.version = 2 as never;
      a!.hits = 6;
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
      await em.refresh(a!);
      verify(b!);
      b!.hits = 7;
      await expectAll([3, 3]);
      await fork().nativeUpdate(Bill, 1, { total: 9 });
      a!.hits = 8;
      await em.flush();
      expect(a!.version).toBe(3);
      await fork().nativeDelete(Line, { bill: 1 } as never);
      await fork().nativeDelete(Doc, 1);
      a!.hits = 9;
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, actual: null }] });
    });
  });
}
