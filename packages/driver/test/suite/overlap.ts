/** Flushes of one EntityManager that overlap, and what is changed while a flush is on its way: nothing is lost. */
import { type Collection, type EntityManager, type EventSubscriber, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Item {
  id!: number;
  n!: number;
  label!: string | null;
  meta!: unknown;
  parts!: Collection<Part>;
  tags!: Collection<Tag>;
  version!: Opt<number>;
}
class Part {
  id!: number;
  item!: Item;
}
class Tag {
  id!: number;
}
/** Has no version. */
class Plain {
  id!: number;
  n!: number;
  label!: string | null;
  version?: number;
}
class Base {
  id!: number;
  n!: number;
  version!: Opt<number>;
}
class Leaf extends Base {
  label!: string | null;
}

const columns = { id: p.integer().primary().autoincrement(), n: p.integer(), label: p.string().nullable() };
const entities = [
  defineEntity({
    class: Item,
    properties: {
      ...columns,
      meta: p.json().nullable(),
      parts: () => p.oneToMany(Part).mappedBy('item').orphanRemoval(),
      tags: () => p.manyToMany(Tag),
      version: p.type(VersionField),
    },
  }),
  defineEntity({
    class: Part,
    properties: { id: p.integer().primary().autoincrement(), item: () => p.manyToOne(Item).deleteRule('cascade') },
  }),
  defineEntity({ class: Tag, properties: { id: p.integer().primary().autoincrement(false) } }),
  defineEntity({ class: Plain, properties: columns }),
  defineEntity({
    class: Base,
    inheritance: 'tpt',
    properties: { id: p.integer().primary().autoincrement(), n: p.integer(), version: p.type(VersionField) },
  }),
  defineEntity({ class: Leaf, extends: Base, properties: { label: p.string().nullable() } }),
] as never[];

/** Moments in the course of a flush. */
const moments = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55].map((ticks) => async () => {
  for (let i = 0; i < ticks; i++) {
    await (i % 8 === 7 ? new Promise((done) => setImmediate(done)) : undefined);
  }
});

export function overlaps(driver: TestDriver): void {
  const setUp = async () => {
    const db = await open(driver, entities);
    const seed = db.fork();
    const tags = [1, 2].map((id) => seed.create(Tag, { id }));
    for (let n = 1; n <= 4; n++) {
      const item = seed.create(Item, { n, label: null } as never);
      item.tags.add(tags[0]!);
      seed.create(Part, { item } as never);
      seed.create(Plain, { n, label: null } as never);
      seed.create(Leaf, { n, label: null } as never);
      await seed.flush();
    }
    const rows = async (entity: typeof Item | typeof Plain) =>
      (await db.fork().find(entity, {}, { orderBy: { id: 'asc' } })) as Item[];
    return { ...db, rows };
  };

  describe('flushes of one EntityManager that overlap', () => {
    for (const entity of [Item, Plain] as const) {
      const { name } = entity;

      test(`${name}: what was created, changed or removed before a flush() is written when it resolves`, async () => {
        const { fork, rows } = await setUp();
        const em = fork();
        const found = (await em.find(entity, {}, { orderBy: { id: 'asc' } })) as Item[];
        const work = [
          async () => em.create(entity, { n: 100, label: 'new' } as never) as Item,
          async () => {
            found[0]!.n = 10;
            return found[0]!;
          },
          async () => {
            em.remove(found[1]!);
            return found[1]!;
          },
          async () => em.create(entity, { n: 101, label: 'new' } as never) as Item,
          async () => {
            em.remove(await em.findOneOrFail(entity, found[2]!.id));
            return found[2]!;
          },
        ];
        await Promise.all(
          work.map(async (change, i) => {
            const one = await change();
            await em.flush();
            const row = await fork().findOne(entity, { n: one.n });
            expect(row === null).toBe(i === 2 || i === 4);
          }),
        );
        expect((await rows(entity)).map((row) => row.n)).toEqual([10, 4, 100, 101]);
      });

      test(`${name}: four that are created, and four that are removed`, async () => {
        const { fork, rows } = await setUp();
        for (const wait of moments) {
          const em = fork();
          const created = await Promise.all(
            [1, 2, 3, 4].map(async (n) => {
              for (let i = 1; i < n; i++) {
                await wait();
              }
              const one = em.create(entity, { n: n * 100, label: 'new' } as never) as Item;
              await em.flush();
              expect(one.id).toBeTypeOf('number');
              return one;
            }),
          );
          expect(await fork().count(entity, { label: 'new' })).toBe(4);
          await Promise.all(
            created.map(async ({ id }) => {
              em.remove(await em.findOneOrFail(entity, id));
              await em.flush();
            }),
          );
          expect(await fork().count(entity, { label: 'new' })).toBe(0);
        }
        expect(await rows(entity)).toHaveLength(4);
      });
    }

    for (const place of [0, 1, 2, 3]) {
      test(`a conflict in place ${place + 1} of 4: all settle, and what was not written is pending`, async () => {
        const { fork, rows } = await setUp();
        const em = fork();
        const items = await em.find(Item, {}, { orderBy: { id: 'asc' } });
        await fork().nativeUpdate(Item, items[place]!.id, { label: 'theirs' });
        const created: Item[] = [];
        const results = await Promise.allSettled(
          items.map(async (item, i) => {
            for (let tick = 0; tick < i * 3; tick++) {
              await undefined;
            }
            item.n += 10;
            created.push(em.create(Item, { n: 50 + i } as never));
            em.create(Plain, { n: 50 + i } as never);
            await em.flush();
          }),
        );
        expect(results.some(({ status }) => status === 'rejected')).toBe(true);
        for (const result of results) {
          expect(result.status === 'fulfilled' || result.reason instanceof ConcurrentUpdate).toBe(true);
        }
        await em.refresh(items[place]!);
        items[place]!.n += 10;
        await Promise.all([em.flush(), em.flush()]);
        const after = (await rows(Item)).toSorted((a, b) => a.n - b.n);
        expect(after.map(({ n }) => n)).toEqual([11, 12, 13, 14, 50, 51, 52, 53]);
        const versions = [0, 1, 2, 3].map((i) => (i === place ? 3 : 2));
        expect(after.map(({ version }) => version)).toEqual([...versions, 1, 1, 1, 1]);
        expect((await rows(Plain)).map(({ n }) => n).toSorted((a, b) => a - b)).toEqual([1, 2, 3, 4, 50, 51, 52, 53]);
        expect(created.every(({ id }) => typeof id === 'number')).toBe(true);
      });
    }

    test('removals of which one conflicts', async () => {
      const { fork, rows } = await setUp();
      const em = fork();
      const items = await em.find(Item, {}, { orderBy: { id: 'asc' }, populate: ['parts'] });
      await fork().nativeUpdate(Item, items[1]!.id, { label: 'theirs' });
      const results = await Promise.allSettled(
        items.map(async (item) => {
          item.parts.removeAll();
          em.remove(item);
          await em.flush();
        }),
      );
      expect(results.map(({ status }) => status)).toEqual(Array(4).fill('rejected'));
      expect(await rows(Item)).toHaveLength(4);
      items[1]!.version = 2;
      await em.flush();
      expect(await rows(Item)).toEqual([]);
    });
  });

  describe('while a flush is on its way', () => {
    const inFlight = async (
      work: (db: Awaited<ReturnType<typeof setUp>>, wait: () => Promise<void>) => Promise<void>,
    ) => {
      const db = await setUp();
      for (const wait of moments) {
        await work(db, wait);
      }
    };

    for (const others of [false, true]) {
      test(`what is assigned is written by the next one (${others ? 'a batch' : 'one row'})`, async () => {
        await inFlight(async ({ fork }, wait) => {
          const em = fork();
          const items = await em.find(Item, {}, { orderBy: { id: 'asc' } });
          const [item] = items;
          (others ? items : [item!]).forEach((one) => (one.n += 10));
          item!.meta = { a: 1 };
          const flushing = em.flush();
          await wait();
          item!.n += 100;
          item!.label = `label ${item!.n}`;
          (item!.meta as { a: number }).a = item!.n;
          await flushing;
          await em.flush();
          const { n, label, meta, version } = item!;
          expect(await fork().findOneOrFail(Item, item!.id)).toMatchObject({ n, label, meta, version });
          item!.n = 0;
          await em.flush();
        });
      });
    }

    test('a version that is assigned is compared by the next one', async () => {
      await inFlight(async ({ fork }, wait) => {
        const em = fork();
        const [item] = await em.find(Item, {}, { orderBy: { id: 'asc' } });
        const before = item!.version;
        item!.n++;
        const flushing = em.flush();
        await wait();
        item!.version = 1000;
        const results = await Promise.allSettled([flushing, em.flush()]);
        expect(results.at(-1)).toMatchObject({ status: 'rejected', reason: { conflicts: [{ expected: 1000 }] } });
        expect(item!.version).toBe(1000);
        const written = results[0].status === 'fulfilled';
        expect(await fork().findOneOrFail(Item, item!.id)).toMatchObject({ version: before + (written ? 1 : 0) });
      });
    });

    test('in joined tables, of a changed entity and of a new one', async () => {
      await inFlight(async ({ fork }, wait) => {
        const em = fork();
        const leaf = await em.findOneOrFail(Leaf, { n: { $lt: 5 } });
        const fresh = em.create(Leaf, { n: 77, label: null } as never);
        leaf.label = 'flushed';
        const flushing = em.flush();
        await wait();
        for (const one of [leaf, fresh]) {
          one.n += 1000;
          one.label = 'assigned';
        }
        await flushing;
        await em.flush();
        for (const { id, n, label, version } of [leaf, fresh]) {
          expect(await fork().findOneOrFail(Leaf, id)).toMatchObject({ n, label, version });
        }
        leaf.n -= 1000;
        await em.flush();
      });
    });

    test('what is removed, created, or taken out of and put into collections is written by the next one', async () => {
      await inFlight(async ({ fork }, wait) => {
        const em = fork();
        const items = await em.find(Item, {}, { orderBy: { id: 'asc' }, populate: ['parts', 'tags'] });
        const removed = em.create(Item, { n: 77 } as never);
        const kept = em.create(Item, { n: 78 } as never);
        await em.flush();
        const inserted = em.create(Item, { n: 79 } as never);
        items[0]!.n++;
        items[0]!.tags.removeAll();
        kept.n++;
        const flushing = em.flush();
        await wait();
        em.remove(removed);
        em.remove(inserted);
        const created = em.create(Item, { n: 80 } as never);
        items[0]!.tags.add(em.getReference(Tag, 2));
        items[1]!.tags.add(em.getReference(Tag, 2));
        items[0]!.parts.removeAll();
        em.create(Part, { item: items[1]! } as never);
        await flushing;
        await em.flush();
        const check = fork();
        const found = await check.find(Item, {}, { orderBy: { id: 'asc' }, populate: ['parts', 'tags'] });
        expect(found.map((item) => item.id)).toEqual([...items.slice(0, 4), kept, created].map((item) => item.id));
        expect(found.slice(0, 2).map((item) => item.tags.getIdentifiers())).toEqual([[2], [1, 2]]);
        expect([found[0]!.parts.length, found[1]!.parts.length]).toEqual([0, 2]);
        // as it was
        check.remove(found[4]!);
        check.remove(found[5]!);
        found[0]!.tags.set([check.getReference(Tag, 1)]);
        found[1]!.tags.set([check.getReference(Tag, 1)]);
        check.create(Part, { item: found[0]! } as never);
        found[1]!.parts.remove(found[1]!.parts[1]!);
        await check.flush();
      });
    });

    test('what is touched is bumped by the next one', async () => {
      const { orm, rows } = await setUp();
      const em = orm.em.fork({ freshEventManager: true });
      const [first, second, third] = await em.find(Item, {}, { orderBy: { id: 'asc' } });
      let inFlight = true;
      const subscriber: EventSubscriber = {
        beforeUpdate: async () => {
          if (inFlight) {
            inFlight = false;
            touch(first!);
            touch(second!);
            touch(third!);
          }
        },
      };
      em.getEventManager().registerSubscriber(subscriber);
      first!.n = 10;
      touch(second!);
      await em.flush();
      expect((await rows(Item)).map((row) => row.version)).toEqual([2, 2, 1, 1]);
      await em.flush();
      expect((await rows(Item)).map((row) => row.version)).toEqual([3, 3, 2, 1]);
      expect([first, second, third].map((item) => item!.version)).toEqual([3, 3, 2]);
    });
  });

  describe('an entity that two EntityManagers have, of which one is writing it', () => {
    const LATER: Record<string, (first: Item, other: EntityManager) => void> = {
      'its change of label': (first) => (first.label = 'late'),
      'its removal': (first, other) => void other.remove(first),
      'its touch()': (first) => touch(first),
      'its change of tags': (first, other) => first.tags.add(other.getReference(Tag, 2)),
      'its version': (first) => (first.version = 7),
    };

    for (const several of [false, true]) {
      for (const [left, change] of Object.entries(LATER)) {
        test(`the flush of the other one would leave out ${left}: refused, and nothing is lost (${several ? 'a batch' : 'one row'})`, async () => {
          const { orm, rows } = await setUp();
          const em = orm.em.fork({ freshEventManager: true });
          const [first, second] = await em.find(Item, {}, { orderBy: { id: 'asc' } });
          const other = em.fork({ clear: false });
          let refused: Error | undefined;
          const subscriber: EventSubscriber = {
            afterUpdate: async ({ entity }) => {
              if (entity === first && !refused) {
                change(first as Item, other);
                refused = await thrown(() => other.flush());
              }
            },
          };
          em.getEventManager().registerSubscriber(subscriber);
          first!.n = 10;
          if (several) {
            second!.n = 20;
          }
          await em.flush();
          expect(refused?.message).toBe(
            `Item ${first!.id} is being written by a flush of another EntityManager that has it too, like the one around a ` +
              `transaction; ${left} would be written by neither. Await that flush before this one; nothing was written by ` +
              'this one.',
          );
          expect((await rows(Item))[0]).toMatchObject({ n: 10, label: null, version: 2 });
          if (left === 'its version') {
            // which is compared now
            await expect(other.flush()).rejects.toMatchObject({ conflicts: [{ expected: 7, actual: 2 }] });
            return;
          }
          await other.flush();
          const found = await orm.em.fork().find(Item, {}, { populate: ['tags'], orderBy: { id: 1 } });
          const after: Record<string, object> = {
            'its change of label': { n: 10, label: 'late', version: 3 },
            'its removal': { id: second!.id },
            'its touch()': { n: 10, version: 3 },
            'its change of tags': { n: 10, version: 2 },
          };
          expect(found[0]).toMatchObject(after[left]!);
          expect(found[0]!.tags.getIdentifiers()).toEqual(left === 'its change of tags' ? [1, 2] : [1]);
        });
      }
    }

    test('a flush that leaves out nothing goes on', async () => {
      const { orm, rows } = await setUp();
      const em = orm.em.fork({ freshEventManager: true });
      const [first, second] = await em.find(Item, {}, { orderBy: { id: 'asc' } });
      const other = em.fork({ clear: false });
      let flushed: Promise<void> | undefined;
      const subscriber: EventSubscriber = {
        beforeUpdate: async ({ entity }) => {
          if (entity === first) {
            second!.label = 'beside';
            flushed = other.flush();
          }
        },
      };
      em.getEventManager().registerSubscriber(subscriber);
      first!.n = 10;
      await em.flush();
      await flushed;
      expect(await rows(Item)).toMatchObject([{ n: 10, version: 2 }, { label: 'beside', version: 2 }, {}, {}]);
    });

    for (const [at, later] of moments.entries()) {
      test(`a transaction that overlaps a flush of the EntityManager around it, moment ${at}: what resolves is saved`, async () => {
        const { orm, rows } = await setUp();
        const em = orm.em.fork();
        const [first] = await em.find(Item, {}, { orderBy: { id: 'asc' } });
        first!.n = 10;
        const transaction = em.transactional(async (tx) => {
          const same = await tx.findOneOrFail(Item, first!.id);
          same.label = 'inner';
          await tx.flush();
        });
        await later();
        const [inner, outer] = await Promise.allSettled([transaction, em.flush()]);
        const [row] = await rows(Item);
        expect([
          inner.status === 'rejected' || row!.label === 'inner',
          outer.status === 'rejected' || row!.n === 10,
        ]).toEqual([true, true]);
      });
    }

    const begun: Record<string, (em: EntityManager) => Promise<unknown>> = {
      // a fork that has the changes of the flush would flush them again
      'em.transactional()': (em) => em.transactional(async (tx) => void tx.create(Tag, { id: 3 }), { clear: true }),
      'em.begin()': async (em) => {
        await em.begin();
        em.clear();
        em.create(Tag, { id: 3 });
        await em.commit();
      },
    };
    for (const [name, begin] of Object.entries(begun)) {
      for (const isStale of [true, false]) {
        for (const [at, later] of moments.entries()) {
          test(`${name} while a flush is on its way that ${isStale ? 'conflicts' : 'is saved'}: a transaction by itself, ${at}`, async () => {
            const { orm, rows } = await setUp();
            const em = orm.em.fork();
            const items = await em.find(Item, {}, { orderBy: { id: 1 } });
            const plains = await em.find(Plain, {}, { orderBy: { id: 1 } });
            if (isStale) {
              await orm.em.fork().nativeUpdate(Item, items[3]!.id, { n: 99 });
            }
            [...items, ...plains].forEach((row) => (row.n = 10));
            const flush = em.flush().then(
              () => 'saved',
              () => 'conflict',
            );
            await later();
            await begin(em);
            expect(await flush).toBe(isStale ? 'conflict' : 'saved');
            expect(await orm.em.fork().count(Tag, { id: 3 })).toBe(1);
            expect((await rows(Item)).map(({ n }) => n)).toEqual(isStale ? [1, 2, 3, 99] : [10, 10, 10, 10]);
          });
        }
      }
    }
  });
}
