/** What a flush had in memory is free when nobody uses it, though connections that it opened stay in their pool. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Options, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, withoutLock } from '../harness.ts';

class Owner {
  id!: number;
  items!: unknown;
  version!: number;
}
class Item {
  id!: number;
  owner!: Owner;
  title!: string;
  version!: number;
}
const entities = [
  defineEntity({
    class: Owner,
    properties: {
      id: p.integer().primary(),
      items: () => p.oneToMany(Item).mappedBy('owner'),
      version: p.type(VersionField),
    },
  } as never),
  defineEntity({
    class: Item,
    properties: {
      id: p.integer().primary(),
      owner: () => p.manyToOne(Owner).nullable(),
      title: p.string(),
      version: p.type(VersionField),
    },
  } as never),
];

const AT_ONCE = 4;

/** Waits for everything that is scheduled, and collects garbage. Returns how many are still in use. */
async function aliveAfterCollecting(refs: readonly WeakRef<object>[]): Promise<number> {
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc') as () => void;
  let alive = refs.length;
  for (let i = 0; i < 5 && alive > 0; i++) {
    await new Promise((resolve) => setTimeout(resolve, 10));
    gc();
    alive = refs.filter((ref) => ref.deref() !== undefined).length;
  }
  return alive;
}

export function leaks(driver: TestDriver): void {
  describe('memory that is free again', () => {
    const setUp = async (more: Partial<Options> = {}) => {
      const db = await open(driver, entities, { pool: { min: 0, max: AT_ONCE }, ...more });
      const em = db.fork();
      for (let i = 1; i <= AT_ONCE; i++) {
        em.create(Owner, { id: i } as never);
        em.create(Item, { id: i, title: 'new' } as never);
        em.create(Item, { id: 100 + i, title: 'new' } as never);
      }
      await em.flush();
      if (driver.concurrent) {
        // every connection is opened by one of the flushes below
        await db.orm.close();
        await db.orm.connect();
      }
      return db;
    };

    /** All at once, so that each one opens a connection: what is referred to weakly is gone with the fork. */
    const flushAll = (db: Awaited<ReturnType<typeof setUp>>, shape: string) =>
      Promise.all(
        Array.from({ length: AT_ONCE }, async (_, i) => {
          const em = db.fork();
          if (shape === 'new rows') {
            em.create(Item, { id: 1000 + i, title: 'new' } as never);
            em.create(Item, { id: 2000 + i, title: 'new' } as never);
          } else {
            const made = [i + 1, 100 + i + 1].map(
              (id) => em.merge(Item, { id, title: 'new', version: 1 } as never) as unknown as Item,
            );
            if (shape === 'a row') {
              made.pop();
            }
            made.forEach((item) => (item.title = 'changed'));
            if (shape === 'a collection') {
              const owner = em.merge(Owner, { id: i + 1, version: 1 } as never) as unknown as Owner;
              (owner.items as { set(items: unknown[]): void }).set(made);
            }
          }
          await em.flush();
          return [new WeakRef(em), new WeakRef(em.getUnitOfWork())];
        }),
      );

    for (const shape of ['new rows', 'a row', 'rows', 'a collection']) {
      test(`${shape}: idle connections keep no EntityManager alive that has flushed by them`, async () => {
        const alive = async (more?: Partial<Options>) => {
          const db = await setUp(more);
          const refs = (await flushAll(db, shape)).flat();
          expect(await db.fork().count(Item)).toBeGreaterThan(0);
          return aliveAfterCollecting(refs);
        };
        // as many as with MikroORM alone: none
        expect([await alive(withoutLock(driver)), await alive()]).toEqual([0, 0]);
      });
    }
  });
}
