/** mergeOnConflict() and what else is in memory: other calls at the same time, other EntityManagers, and what it throws. */
import { type Collection, type Opt, type Ref, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, verify } from '@mikro-ool/core';
import { MergeConflict, flushEach, mergeOnConflict, rebase } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../../../driver/test/harness.ts';

class Buyer {
  id!: number;
  orders!: Collection<Order>;
}
class Tag {
  id!: number;
}
class Order {
  id!: number;
  note!: Opt<string>;
  total!: Opt<number>;
  data!: Opt<unknown>;
  place!: Opt<{ city: string; street: string }>;
  buyer!: Opt<Ref<Buyer>> | null;
  tags!: Collection<Tag>;
  version!: Opt<number>;
}
const BuyerSchema = defineEntity({
  class: Buyer,
  properties: { id: p.integer().primary(), orders: () => p.oneToMany(Order).mappedBy('buyer') },
});
const TagSchema = defineEntity({ class: Tag, properties: { id: p.integer().primary() } });
const Place = defineEntity({
  name: 'Place',
  embeddable: true,
  properties: { city: p.string().default('c'), street: p.string().default('s') },
});
const OrderSchema = defineEntity({
  class: Order,
  properties: {
    id: p.integer().primary(),
    note: p.string().default('n'),
    total: p.integer().default(0),
    data: p.json().nullable(),
    place: () => p.embedded(Place).object(),
    buyer: () => p.manyToOne(Buyer).ref().nullable(),
    tags: () => p.manyToMany(Tag),
    version: p.type(VersionField),
  } as never,
});
const entities = [BuyerSchema, TagSchema, Place, OrderSchema] as never;

type Em = ReturnType<Database['fork']>;

export function mergesInMemory(driver: TestDriver): void {
  describe('mergeOnConflict, memory', () => {
    const setUp = async () => {
      const db = await open(driver, entities);
      const seed = db.fork();
      const [buyers, tags] = [
        [1, 2],
        [1, 2, 3],
      ] as const;
      buyers.forEach((id) => seed.create(Buyer, { id } as never));
      tags.forEach((id) => seed.create(Tag, { id }));
      for (const id of [0, 1]) {
        const place = { city: 'c', street: 's' };
        seed.create(Order, { id: id + 1, data: { a: 1 }, place, buyer: 1, tags: [1, 2] } as never);
      }
      await seed.flush();
      const load = async (em: Em): Promise<[Order, Order]> =>
        (await em.find(Order, {}, { orderBy: { id: 1 }, populate: ['tags', 'buyer.orders'] as never })) as [
          Order,
          Order,
        ];
      const em = db.fork();
      const orders = await load(em);
      const rival = async (change: (orders: [Order, Order], em: Em) => void) => {
        const other = db.fork();
        change(await load(other), other);
        await other.flush();
      };
      return { ...db, em, orders, rival, rows: async () => load(db.fork()) };
    };
    const shown = (orders: Iterable<Order>) =>
      [...orders].map(({ note, total, version }) => ({ note, total, version }));
    /** Memory is what the database has, and nothing is pending. */
    const isSettled = async ({ em, orders, rows, sent }: Awaited<ReturnType<typeof setUp>>) => {
      expect(shown(orders)).toEqual(shown(await rows()));
      expect(await sent(() => em.flush())).toEqual([]);
    };

    for (const [name, second] of [
      ['mergeOnConflict()', mergeOnConflict],
      ['flushEach()', flushEach],
      ['em.flush()', (em: Em) => em.flush()],
    ] as const) {
      test(`at the same time as ${name}: nobody else has changed the note, so it is no clash`, async () => {
        const all = await setUp();
        const { em, orders, rival } = all;
        await rival((theirs) => theirs.forEach((one) => (one.total = 5)));
        orders[0].note = 'M';
        const one = mergeOnConflict(em);
        orders[1].note = 'M';
        const results = await Promise.allSettled([one, second(em)]);
        expect(results[0].status).toBe('fulfilled');
        const reasons = results.map((result) => (result as { reason?: Error }).reason?.name).filter(Boolean);
        expect(reasons).toEqual(name === 'em.flush()' ? ['ConcurrentUpdate'] : []);
        await mergeOnConflict(em);
        expect(shown(orders)).toEqual([1, 2].map(() => ({ note: 'M', total: 5, version: 3 })));
        await isSettled(all);
      });
    }

    test('after one that has thrown, the next one has its turn', async () => {
      const { em, orders, rival } = await setUp();
      await rival((theirs) => (theirs[0].note = 'theirs'));
      orders[0].note = 'mine';
      const resolve = (clash: { takeTheirs(): void }) => clash.takeTheirs();
      const results = await Promise.allSettled([mergeOnConflict(em), mergeOnConflict(em, { resolve })]);
      expect(results).toMatchObject([{ reason: { name: 'MergeConflict' } }, { status: 'fulfilled' }]);
      expect(orders[0]).toMatchObject({ note: 'theirs', version: 2 });
    });

    test('a flush that is called while resolve() decides does not write what is not decided', async () => {
      const { em, orders, rival, rows } = await setUp();
      await rival((theirs) => (theirs[0].note = 'theirs'));
      orders[0].note = 'mine';
      const { promise: isAsked, resolve: ask } = Promise.withResolvers<void>();
      const other = isAsked.then(() => em.flush());
      const notes: string[] = [];
      const resolve = async (clash: { takeTheirs(): void }) => {
        ask();
        for (let i = 0; i < 3; i++) {
          notes.push((await rows())[0].note);
        }
        clash.takeTheirs();
      };
      await Promise.all([mergeOnConflict(em, { resolve }), other]);
      expect([...notes, (await rows())[0].note]).toEqual(['theirs', 'theirs', 'theirs', 'theirs']);
    });

    test('inside of itself it is refused, by resolve() and by listeners, and does not wait for itself', async () => {
      const { em, orders, rival, orm, rows } = await setUp();
      const errors: string[] = [];
      const again = async () => {
        errors.push((await thrown(() => mergeOnConflict(em))).message);
      };
      await rival((theirs) => (theirs[0].note = 'theirs'));
      orders[0].note = 'mine';
      await mergeOnConflict(em, { resolve: again });
      expect(errors).toEqual([expect.stringMatching(/^You cannot call em\.flush\(\) from inside/)]);
      orm.em.getEventManager().registerSubscriber({ onFlush: again });
      orders[0].note = 'mine, too';
      // one more that waits for the flush, as the listener would for it
      await Promise.all([em.flush(), mergeOnConflict(em)]);
      expect(errors).toHaveLength(3);
      expect((await rows())[0]).toMatchObject({ note: 'mine, too', version: 4 });
    });

    for (const [name, inside] of [
      ['em.transactional()', (em, work) => em.transactional((tx) => work(tx as Em))],
      ['em.fork({ clear: false })', (em, work) => work(em.fork({ clear: false }) as Em)],
    ] as const satisfies [string, (em: Em, work: (em: Em) => Promise<void>) => Promise<void>][]) {
      test(`${name}, with rows that the EntityManager around it has loaded`, async () => {
        const all = await setUp();
        const { em, orders, rival, rows } = all;
        await rival((theirs) => theirs.forEach((one) => (one.total = 5)));
        await inside(em, async (own) => {
          orders.forEach((one) => (one.note = 'M'));
          await mergeOnConflict(own);
        });
        expect(shown(await rows())).toEqual([1, 2].map(() => ({ note: 'M', total: 5, version: 3 })));
        await isSettled(all);
      });

      test(`${name}: rebase() on either, also where another fork had the row last`, async () => {
        const { em, orders, rival, rows } = await setUp();
        em.fork({ clear: false });
        await rival((theirs) => (theirs[0].total = 5));
        orders[0].note = 'M';
        const error = await thrown(() => em.flush());
        expect(await rebase(em, error)).toEqual({ clashes: [], deleted: [], removed: [] });
        await rival((theirs) => (theirs[0].total = 6));
        await inside(em, async (own) => {
          const stale = await thrown(() => own.flush());
          await rebase(own, stale);
          await own.flush();
        });
        expect((await rows())[0]).toMatchObject({ note: 'M', total: 6, version: 4 });
      });

      test(`${name}: a row that is verified there is never merged`, async () => {
        const { em, orders, rival, rows } = await setUp();
        await rival((theirs) => theirs.forEach((one) => (one.total = 5)));
        const error = await thrown(() =>
          inside(em, async (own) => {
            verify(orders[0]);
            orders.forEach((one) => (one.note = 'M'));
            await mergeOnConflict(own);
          }),
        );
        expect(error).toMatchObject({ name: 'ConcurrentUpdate' });
        expect(shown(await rows())).toEqual([1, 2].map(() => ({ note: 'n', total: 5, version: 2 })));
      });

      test(`${name}: what both have removed is not inserted again by the EntityManager around it`, async () => {
        const { em, orders, rival, rows, sent } = await setUp();
        await rival((theirs, other) => other.remove(theirs[0]));
        await inside(em, async (own) => {
          own.remove(orders[0]);
          await mergeOnConflict(own);
        });
        expect(await sent(() => em.flush())).toEqual([]);
        expect(await rows()).toHaveLength(1);
      });
    }

    test('a MergeConflict leaves rows as they were: theirs is not counted as mine', async () => {
      const all = await setUp();
      const { em, orders, rival, rows } = all;
      const [, , gone] = [...orders, em.create(Order, { id: 3, place: { city: 'c', street: 's' } } as never)];
      await em.flush();
      const theirs = ([one, two, three]: Order[], other: Em) => {
        Object.assign(one!, { total: 5, data: { a: 2 }, buyer: other.getReference(Buyer, 2, { wrapped: true }) });
        one!.place.city = 'theirs';
        one!.tags.add(other.getReference(Tag, 3));
        two!.total = 5;
        other.remove(three!);
      };
      em.remove(orders[0]).remove(gone!);
      orders[1].note = 'mine';
      orders[1].tags.remove(orders[1].tags[0]!);
      const state = () => ({
        orders: shown([...orders, gone!]),
        rest: orders.map(({ data, place, buyer, tags }) => ({
          data,
          place: { ...place },
          buyer: buyer?.id,
          tags: tags.getItems().map(({ id }) => id),
          isDirty: tags.isDirty(),
        })),
        removed: [...em.getUnitOfWork(false).getRemoveStack()].map((one) => (one as Order).id),
        buyers: [...orders[1].buyer!.getEntity().orders].map(({ id }) => id).toSorted(),
      });
      const before = state();
      await rival(theirs);
      for (let round = 0; round < 2; round++) {
        const error = await thrown(() => mergeOnConflict(em, { resolve: () => {} }));
        expect(error).toBeInstanceOf(MergeConflict);
        expect(state()).toEqual(before);
      }
      em.persist(orders[0]);
      orders[0].note = 'mine';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      await mergeOnConflict(em);
      expect(await rows()).toMatchObject([
        { note: 'mine', total: 5, data: { a: 2 }, place: { city: 'theirs' }, buyer: { id: 2 }, version: 3 },
        { note: 'mine', total: 5, version: 3 },
      ]);
      for (const saved of [orders, await rows()]) {
        expect(
          saved.map(({ tags }) =>
            tags
              .getItems()
              .map(({ id }) => id)
              .toSorted(),
          ),
        ).toEqual([[1, 2, 3], [2]]);
      }
      await isSettled(all);
    });

    test('a MergeConflict leaves 1:m collections as they were: an item that only they have is not there', async () => {
      const Row = defineEntity({
        name: 'Row',
        properties: { id: p.integer().primary(), list: () => p.manyToOne(List) },
      });
      const List = defineEntity({
        name: 'List',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          rows: () => p.oneToMany(Row).mappedBy('list'),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [Row, List] as never);
      const seed = fork();
      seed.create(List, { id: 1, title: 'old', rows: [{ id: 1 }] } as never);
      await seed.flush();
      const [em, rival] = [fork(), fork()];
      const load = (from: Em) => from.findOneOrFail(List, 1, { populate: ['rows'] });
      const [mine, theirs] = [await load(em), await load(rival)];
      theirs.title = 'theirs';
      rival.create(Row, { id: 2, list: theirs });
      await rival.flush();
      mine.title = 'mine';
      expect(await thrown(() => mergeOnConflict(em))).toBeInstanceOf(MergeConflict);
      expect(mine.rows.getItems().map(({ id }) => id)).toEqual([1]);
      expect(mine.rows.isDirty()).toBe(false);
      await mergeOnConflict(em, { resolve: () => {} });
      expect(mine.rows.getItems().map(({ id }) => id)).toEqual([1, 2]);
    });

    test('an error of resolve(): no decision stays, also one of a round before', async () => {
      const all = await setUp();
      const { em, orders, rival } = all;
      orders.forEach((one) => Object.assign(one, { note: 'mine', total: 1 }));
      await rival((theirs) => theirs.forEach((one) => Object.assign(one, { note: 'theirs', total: 10 })));
      let asked = 0;
      const resolve = async (clash: {
        entity: object;
        property: string;
        mine: unknown;
        theirs: unknown;
        takeTheirs(): void;
      }) => {
        if (++asked > 4) {
          throw new Error('enough');
        }
        if (clash.property === 'note') {
          clash.takeTheirs();
        } else {
          (clash.entity as Order).total = Number(clash.mine) + Number(clash.theirs);
        }
        if (asked === 4) {
          await rival((theirs) => theirs.forEach((one) => (one.total += 10)));
        }
      };
      expect((await thrown(() => mergeOnConflict(em, { resolve }))).message).toBe('enough');
      expect(asked).toBe(5);
      expect(shown(orders)).toEqual([1, 2].map(() => ({ note: 'mine', total: 1, version: 1 })));
      asked = -100;
      await mergeOnConflict(em, { resolve });
      expect(shown(orders)).toEqual([1, 2].map(() => ({ note: 'theirs', total: 21, version: 4 })));
      await isSettled(all);
    });

    test('what is assigned while it merges stays, also when it throws', async () => {
      const { em, orders, rival } = await setUp();
      orders[0].note = 'mine';
      await rival((theirs) => Object.assign(theirs[0], { note: 'theirs', total: 5 }));
      const failure = new Error('no idea');
      const resolve = () => {
        orders[0].total = 7;
        throw failure;
      };
      expect(await thrown(() => mergeOnConflict(em, { resolve }))).toBe(failure);
      expect(shown(orders)[0]).toEqual({ note: 'mine', total: 7, version: 1 });
    });
  });
}
