/** What a flush has compared stays as it is until COMMIT, and what a database ends without a word is not half committed. */
import { setTimeout } from 'node:timers/promises';
import { Collection, type EntityManager, type EntitySchema, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, describeWhere, open, withoutLock } from '../harness.ts';

const version = p.type(VersionField);

class Order {
  id!: number;
  no!: string;
  lines = new Collection<Line>(this);
  version!: number;
}
class Line {
  id!: number;
  n!: number;
  order?: Order | null;
  version!: number;
}
const orders = [
  defineEntity({
    class: Order,
    tableName: 'purchase',
    properties: {
      id: p.integer().primary(),
      no: p.string().unique(),
      lines: () => p.oneToMany(Line).mappedBy('order').orphanRemoval(),
      version,
    },
  }),
  defineEntity({
    class: Line,
    properties: {
      id: p.integer().primary(),
      n: p.integer(),
      order: () => p.manyToOne(Order).nullable().deleteRule('cascade'),
      version,
    },
  }),
] as EntitySchema[];

const Item = defineEntity({
  name: 'Item',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version },
});

const ROUNDS = 20;

export function locks(driver: TestDriver): void {
  describeWhere(driver.concurrent)('what was compared stays until COMMIT', () => {
    /** Somebody is in the middle of changing a line while its order is removed. Returns how often both were saved. */
    const removeAgainstChange = async (more = {}) => {
      const { fork } = await open(driver, orders, more);
      const seed = fork();
      for (let id = 1; id <= ROUNDS; id++) {
        const order = seed.create(Order, { id, no: String(id), version: 1 });
        seed.create(Line, { id, n: 0, order, version: 1 });
      }
      await seed.flush();
      let both = 0;
      for (let id = 1; id <= ROUNDS; id++) {
        const [ours, rival] = [fork(), fork()];
        const order = await ours.findOneOrFail(Order, id, { populate: ['lines'] });
        await rival.begin();
        (await rival.findOneOrFail(Line, id)).n = 42;
        await rival.flush();
        ours.remove(order);
        ours.create(Order, { id: 100 + id, no: String(id), version: 1 });
        const saved = ours.flush().then(
          () => true,
          (error) => {
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            return false;
          },
        );
        await setTimeout(20);
        await rival.commit();
        if (await saved) {
          both++;
        } else {
          expect(await fork().findOneOrFail(Line, id)).toMatchObject({ n: 42 });
        }
      }
      return both;
    };

    test(`a row that a cascade takes along: of ${ROUNDS} removals against a change none is saved`, async () => {
      expect(await removeAgainstChange()).toBe(0);
    });

    test('the same without the lock: all are', async () => {
      expect(await removeAgainstChange(withoutLock(driver))).toBe(ROUNDS);
    });

    /** Two flushes change a row each, on condition that the other's row stays what it is. Returns how often both do. */
    const mutual = async (compare: (em: EntityManager, id: number) => unknown, around: boolean) => {
      const { fork } = await open(driver, [Item], { pool: { min: 0, max: 8 } });
      const seed = fork();
      for (let id = 1; id <= 2 * ROUNDS; id++) {
        seed.create(Item, { id });
      }
      await seed.flush();
      const write = async (mine: number, theirs: number) => {
        const work = async (em: EntityManager) => {
          (await em.findOneOrFail(Item, mine)).n++;
          await compare(em, theirs);
          await em.flush();
        };
        try {
          await (around ? fork().transactional(work) : work(fork()));
          return true;
        } catch (error) {
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          return false;
        }
      };
      const results = await Promise.all(
        Array.from({ length: ROUNDS }, (_, i) =>
          Promise.all([write(2 * i + 1, 2 * i + 2), write(2 * i + 2, 2 * i + 1)]),
        ),
      );
      return results.filter(([a, b]) => a && b).length;
    };
    const claim = (em: EntityManager, id: number) => em.assign(em.getReference(Item, id), { version: 1 });

    for (const around of [false, true]) {
      test(`claims of what the other one writes${around ? ', in a transaction' : ''}: of ${ROUNDS} pairs none is saved`, async () => {
        expect(await mutual(claim, around)).toBe(0);
      });
    }

    test('the same with a check by hand: there are some', async () => {
      const byHand = async (em: EntityManager, id: number) => {
        const { version: actual } = await em.fork({ keepTransactionContext: true }).findOneOrFail(Item, id);
        if (actual !== 1) {
          throw new ConcurrentUpdate([]);
        }
        await setTimeout(20);
      };
      expect(await mutual(byHand, true)).toBeGreaterThan(0);
    });

    test('a claim in a transaction keeps others waiting until its COMMIT; one by itself keeps nobody', async () => {
      const { fork } = await open(driver, [Item]);
      const seed = fork();
      [1, 2].forEach((id) => seed.create(Item, { id }));
      await seed.flush();
      const events: string[] = [];
      const change = async () => {
        const em = fork();
        (await em.findOneOrFail(Item, 1)).n++;
        await em.flush();
        events.push('changed');
      };
      let changing: Promise<void> | undefined;
      await fork().transactional(async (em) => {
        claim(em, 1);
        await em.flush();
        changing = change();
        await setTimeout(100);
        events.push('committed');
      });
      await changing;
      expect(events).toEqual(['committed', 'changed']);
      await fork().transactional(async (em) => {
        await em.findOneOrFail(Item, 2);
        await change();
      });
    });

    test('changes of rows that a claim holds do not deadlock with claims of several', async () => {
      const { fork } = await open(driver, [Item], { pool: { min: 0, max: 8 } });
      const seed = fork();
      [1, 2, 3, 4, 5].forEach((id) => seed.create(Item, { id }));
      await seed.flush();
      const causes: unknown[] = [];
      await Promise.all(
        Array.from({ length: 8 }, async (_, worker) => {
          for (let i = 0; i < 10; i++) {
            const em = fork();
            const items = (await em.find(Item, {})).filter((item) => item.id < 5 || worker > 3);
            items.toSorted(() => Math.random() - 0.5).forEach((item) => (worker > 3 ? touch(item) : claimAgain(item)));
            if (worker <= 3) {
              em.create(Item, { id: 100 + worker * 100 + i });
            }
            await em.flush().catch((error: Error) => void (error.cause && causes.push(error.cause)));
          }
        }),
      );
      expect(causes).toEqual([]);
    });
    const claimAgain = (item: { version: number }) => void (item.version = Number(item.version));
  });

  describe('a signal', () => {
    for (const when of ['before', 'meanwhile'] as const) {
      test(`aborts a flush of one row ${when}: memory is what the database has`, async () => {
        const abort = new AbortController();
        const { fork, orm } = await open(driver, [Item]);
        const seed = fork();
        seed.create(Item, { id: 1 });
        await seed.flush();
        const em = orm.em.fork({ signal: abort.signal });
        const item = await em.findOneOrFail(Item, 1);
        item.n = 42;
        if (when === 'before') {
          abort.abort();
        }
        const flushing = em.flush().catch(() => {});
        await setTimeout(0);
        abort.abort();
        await flushing;
        await setTimeout(50); // what was sent is carried out
        const { n, version: actual } = await fork().findOneOrFail(Item, 1);
        expect([item.version, n]).toEqual([actual, actual === 2 ? 42 : 0]);
      });
    }

    test('makes a transaction of a flush of one row', async () => {
      const { fork, orm, sent } = await open(driver, [Item]);
      const seed = fork();
      seed.create(Item, { id: 1 });
      await seed.flush();
      const em = orm.em.fork({ signal: new AbortController().signal });
      (await em.findOneOrFail(Item, 1)).n = 42;
      const log = await sent(() => em.flush());
      expect(log.map((sql) => sql.match(/begin|update|commit/)?.[0])).toEqual(['begin', 'update', 'commit']);
    });
  });
}
