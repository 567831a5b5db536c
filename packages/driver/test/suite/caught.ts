/** An error that is caught in a transaction, after which the database has rolled back what was written before it. */
import { type EntityName, LockMode, type Options, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, withoutLock } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string().default('saved'), version: p.type(VersionField) },
});
const Plain = defineEntity({
  name: 'Plain',
  properties: { id: p.integer().primary(), title: p.string().default('saved') },
});

const Text = defineEntity({
  name: 'Text',
  inheritance: 'tpt',
  properties: { id: p.integer().primary(), version: p.type(VersionField) },
});
const Review = defineEntity({ name: 'Review', extends: Text, properties: { stars: p.integer().default(0) } });

type Class = EntityName<{ id: number; title: string }>;
const Locked = Article as unknown as Class;
const Unlocked = Plain as unknown as Class;
type Work = (tx: EntityManager, id: number, Entity: Class) => Promise<unknown>;

/** Each writes a row of this id, or one ten further on. */
const WRITES: Record<string, Work> = {
  'em.nativeUpdate': (tx, id, Entity) => tx.nativeUpdate(Entity, { id }, { title: 'ours' }),
  'em.nativeDelete': (tx, id, Entity) => tx.nativeDelete(Entity, { id }),
  'em.insert': (tx, id, Entity) => tx.insert(Entity, { id: id + 10, title: 'ours' }),
  'em.insertMany': (tx, id, Entity) => tx.insertMany(Entity, [{ id: id + 10, title: 'ours' }]),
  'em.upsert': (tx, id, Entity) => tx.upsert(Entity, { id, title: 'ours' }),
  'em.upsertMany': (tx, id, Entity) => tx.upsertMany(Entity, [{ id, title: 'ours' }]),
  'nativeUpdateMany of the driver': (tx, id, Entity) =>
    tx.getDriver().nativeUpdateMany(Entity, [{ id }], [{ title: 'ours' }], { ctx: tx.getTransactionContext() }),
  'a query builder': (tx, id, Entity) =>
    tx.createQueryBuilder(Entity).update({ title: 'ours' }).where({ id }).execute(),
  'a copy of one': (tx, id, Entity) =>
    tx.createQueryBuilder(Entity).update({ title: 'ours' }).where({ id }).clone().execute(),
  'a nested transaction': (tx, id, Entity) =>
    tx.transactional((inner) => inner.nativeUpdate(Entity, { id }, { title: 'ours' })),
  'a flush': async (tx, id, Entity) => {
    (await tx.findOneOrFail(Entity, id)).title = 'ours';
    await tx.flush();
  },
};
const nothing: Work = async () => {};

export function caughtErrors(driver: TestDriver): void {
  const setUp = async (more: Partial<Options> = {}) => {
    const db = await open(driver, [Article, Plain, Text, Review], more);
    const seed = db.fork();
    for (const id of [1, 2]) {
      seed.create(Article, { id });
      seed.create(Plain, { id });
    }
    await seed.flush();
    const isWritten = async (id: number, Entity: Class) => {
      const rows = await db.fork().find(Entity, [id, id + 10]);
      return rows.length !== 1 || rows[0]!.title !== 'saved';
    };
    return { ...db, isWritten };
  };
  type Fork = Awaited<ReturnType<typeof setUp>>['fork'];

  /** A row that is there already: a database may abort the transaction by that, or leave out the statement. */
  const twice = async (fork: Fork, before: Work, Entity: Class) => {
    let caught: Error | undefined;
    const outcome = await fork()
      .transactional(async (tx) => {
        await before(tx, 1, Entity);
        const insert = "insert into plain (id, title) values (2, 'ours')";
        await tx.execute(insert).catch((error: Error) => (caught = error));
        // one more that fails where the transaction is aborted says nothing new
        await tx.execute('select 1').catch(() => {});
      })
      .then(
        () => 'saved',
        ({ message }: Error) => message,
      );
    expect(caught).toMatchObject({ name: 'UniqueConstraintViolationException' });
    return { outcome, caught: caught!.message };
  };

  /** Two wait for a row that the other one has: the database chooses one that loses, which catches that and goes on. */
  const crossing = async (fork: Fork, before: Work, after: Work, Entity: Class) => {
    const both = Promise.withResolvers<void>();
    let arrived = 0;
    let caught = 0;
    const lock = { lockMode: LockMode.PESSIMISTIC_WRITE } as const;
    const cross = (id: number) =>
      fork().transactional(async (tx) => {
        await before(tx, id, Entity);
        await tx.findOneOrFail(Plain, id, lock);
        if (++arrived === 2) {
          both.resolve();
        }
        await both.promise;
        await tx.findOneOrFail(Plain, 3 - id, lock).catch(() => caught++);
        await after(tx, id, Entity);
      });
    const outcomes = await Promise.allSettled([cross(1), cross(2)]);
    expect(caught).toBe(1);
    return outcomes;
  };

  describe('an error that is caught in a transaction', () => {
    for (const [name, write] of Object.entries(WRITES)) {
      test(`after ${name}: COMMIT throws that error where what was written is gone`, async () => {
        const { fork, isWritten } = await setUp();
        const { outcome, caught } = await twice(fork, write, Locked);
        expect(outcome).toBe((await isWritten(1, Locked)) ? 'saved' : caught);
      });
    }

    test('after what is in the table of a child only, whose version is in that of its parent', async () => {
      const { fork } = await setUp();
      const seed = fork();
      seed.create(Review, { id: 5 });
      await seed.flush();
      const update: Work = (tx) => tx.nativeUpdate(Review, { id: 5 }, { stars: 5 });
      const { outcome, caught } = await twice(fork, update, Locked);
      const { stars } = await fork().findOneOrFail(Review, 5);
      expect(outcome).toBe(stars === 5 ? 'saved' : caught);
    });

    test('in a hook, while a class without a version is flushed', async () => {
      const { orm, fork, isWritten } = await setUp();
      let caught = '';
      const afterUpdate = async ({ em }: { em: object }) => {
        const tx = em as EntityManager;
        await tx.nativeUpdate(Article, 1, { title: 'ours' });
        const insert = "insert into plain (id, title) values (2, 'ours')";
        await tx.execute(insert).catch(({ message }: Error) => (caught = message));
      };
      orm.em.getEventManager().registerSubscriber({ afterUpdate });
      const em = fork();
      (await em.findOneOrFail(Plain, 1)).title = 'ours';
      const outcome = await em.flush().then(
        () => 'saved',
        ({ message }: Error) => message,
      );
      expect(caught).not.toBe('');
      expect(outcome).toBe((await isWritten(1, Locked)) ? 'saved' : caught);
    });

    for (const name of ['em.nativeUpdate', 'em.insertMany', 'a query builder', 'a flush']) {
      test(`after ${name} of a class without a version: what it is without the lock`, async () => {
        const results = [];
        for (const more of [{}, withoutLock(driver)]) {
          const { fork, isWritten } = await setUp(more);
          const { outcome, caught } = await twice(fork, WRITES[name]!, Unlocked);
          results.push([outcome, caught, await isWritten(1, Unlocked)]);
        }
        expect(results[0]).toEqual(results[1]);
        expect(results[0]![0]).toBe('saved');
      });
    }

    if (driver.concurrent) {
      for (const [name, write] of Object.entries(WRITES)) {
        for (const when of ['before', 'after'] as const) {
          test(`a deadlock, and ${name} ${when} it: COMMIT throws where that is gone, and nothing is saved alone`, async () => {
            const { fork, isWritten } = await setUp();
            const outcomes = await (when === 'before'
              ? crossing(fork, write, nothing, Locked)
              : crossing(fork, nothing, write, Locked));
            expect(outcomes.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected']);
            for (const [i, { status }] of outcomes.entries()) {
              expect(await isWritten(i + 1, Locked)).toBe(status === 'fulfilled');
            }
            if (/MariaDB/.test(driver.name)) {
              expect(outcomes.find(({ status }) => status === 'rejected')).toMatchObject({
                reason: { constructor: ConcurrentUpdate, cause: { errno: 1213 } },
              });
            }
          });
        }
      }

      for (const when of ['before', 'after'] as const) {
        test(`a deadlock, and a class without a version written ${when} it: what it is without the lock`, async () => {
          const results = [];
          for (const more of [{}, withoutLock(driver)]) {
            const { fork, isWritten } = await setUp(more);
            const write = WRITES['em.nativeUpdate']!;
            const outcomes = await (when === 'before'
              ? crossing(fork, write, nothing, Unlocked)
              : crossing(fork, nothing, write, Unlocked));
            results.push([
              outcomes.map(({ status }) => status).toSorted(),
              [await isWritten(1, Unlocked), await isWritten(2, Unlocked)].toSorted(),
            ]);
          }
          expect(results[0]).toEqual(results[1]);
        });
      }
    }
  });
}
