/** Transactions that end, and savepoints that begin and end, while a flush of theirs is on its way: nobody has awaited it. */
import { type EntityManager, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../harness.ts';

const Locked = defineEntity({
  name: 'Locked',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});
const Plain = defineEntity({
  name: 'Plain',
  properties: { id: p.integer().primary(), title: p.string() },
});

const LATER: Record<string, () => Promise<unknown>> = {
  'at once': async () => {},
  'some microtasks later': async () => {
    for (let i = 0; i < 5; i++) {
      await Promise.resolve();
    }
  },
  'in the next round of the event loop': () => new Promise((resolve) => setImmediate(resolve)),
  'a millisecond later': () => new Promise((resolve) => setTimeout(resolve, 1)),
};

export function floatingFlushes(driver: TestDriver): void {
  describe('a flush that is not awaited, in a transaction that ends', () => {
    const setUp = async () => {
      const db = await open(driver, [Locked, Plain]);
      const em = db.fork();
      for (const id of [1, 2]) {
        em.create(Locked, { id, title: 'old' });
        em.create(Plain, { id, title: 'old' });
      }
      await em.flush();
      return db;
    };
    const titles = async ({ fork }: Database, entity: typeof Locked) =>
      (await fork().find(entity, {}, { orderBy: { id: 1 } })).map(({ title }) => title);

    for (const [name, entity] of [
      ['with a version', Locked],
      ['without', Plain as unknown as typeof Locked],
    ] as const) {
      for (const rows of [1, 2]) {
        for (const [when, later] of Object.entries(LATER)) {
          test(`${rows} ${name}, rolled back ${when}: the database and memory are as before`, async () => {
            for (const isNested of [false, true]) {
              const db = await setUp();
              const em = db.fork();
              const mine = await em.find(entity, { id: { $lte: rows } }, { orderBy: { id: 1 } });
              let flush: Promise<unknown> = Promise.resolve();
              const fails = (outer: EntityManager) =>
                thrown(() =>
                  outer.transactional(async (tx) => {
                    mine.forEach((row) => (row.title = 'new'));
                    flush = tx.flush().catch((error: unknown) => error);
                    await later();
                    throw new Error('changed my mind');
                  }),
                );
              const error = isNested ? await em.transactional(fails) : await fails(em);
              expect(error.message).toBe('changed my mind');
              const refused = await flush;
              expect(await titles(db, entity)).toEqual(['old', 'old']);
              // a flush that could not begin any more leaves everything pending
              const expected = refused ? 'new' : 'old';
              expect(mine.map(({ title }) => title)).toEqual(mine.map(() => expected));
              mine.forEach((row) => (row.title = 'again'));
              await em.flush();
              expect(await titles(db, entity)).toEqual(['old', 'old'].fill('again', 0, rows));
            }
          });
        }
      }
    }

    test('begin() and rollback(), and neither awaits the flush', async () => {
      const db = await setUp();
      const em = db.fork();
      const [one, two] = await em.find(Locked, {}, { orderBy: { id: 1 } });
      await em.begin();
      one!.title = 'first';
      await em.flush();
      two!.title = 'second';
      const flush = em.flush().catch(() => {});
      await em.rollback();
      await flush;
      expect(await titles(db, Locked)).toEqual(['old', 'old']);
      expect(one).toMatchObject({ title: 'old', version: 1 });
      one!.title = 'again';
      await em.flush();
      expect(await titles(db, Locked)).toContain('again');
    });

    test('two nested transactions at once write what they flush, when none fails', async () => {
      const db = await setUp();
      await db.fork().transactional(async (outer) => {
        const nested = (id: number) =>
          outer.transactional(async (tx) => {
            (await tx.findOneOrFail(Locked, id)).title = `nested ${id}`;
            (await tx.findOneOrFail(Plain, id)).title = `nested ${id}`;
          });
        await Promise.all([nested(1), nested(2)]);
      });
      expect(await titles(db, Locked)).toEqual(['nested 1', 'nested 2']);
      expect(await titles(db, Plain as unknown as typeof Locked)).toEqual(['nested 1', 'nested 2']);
    });
  });
}
