/** Three nodes of MariaDB that all take writes: what the lock promises there, and what Galera cannot. */
import { setTimeout as wait } from 'node:timers/promises';
import { defineEntity, p } from '@mikro-orm/core';
import { MariaDbDriver } from '@mikro-orm/mariadb';
import type { EntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, touch, verify } from '@mikro-ool/core';
import { etag, ifMatch } from '@mikro-ool/http';
import { retryOnConflict } from '@mikro-ool/resolve';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Galera, type GaleraNode, startGalera } from './galera.ts';
import { missingPackages } from './packages.ts';
import { Counter, type Lock, type Orm, connect, report, seed, storm, tellsOf } from './storm.ts';

const Parent = defineEntity({
  name: 'Parent',
  properties: { id: p.integer().primary(), title: p.string().default(''), version: p.type(VersionField) },
});
const Child = defineEntity({
  name: 'Child',
  properties: {
    id: p.integer().primary(),
    name: p.string().unique(),
    parent: () => p.manyToOne(Parent),
    version: p.type(VersionField),
  },
});

const entities = [Counter, Parent, Child];

const WORKERS = 9;
const FLUSHES = 400;
/** How often two nodes try what must not be saved twice. */
const ROUNDS = 25;

let galera: Galera;
const orms: Record<Lock, Orm[]> = { 'mikro-ool': [], 'version: true': [] };

async function connectAll(lock: Lock): Promise<Orm[]> {
  const all: Orm[] = [];
  for (const { name, url } of galera.nodes) {
    const pool = { min: 0, max: WORKERS };
    // a transaction on one node is not the context of what is done on another
    const options = {
      clientUrl: url,
      dbName: 'cluster',
      contextName: name,
      pool,
      driverOptions: { connectTimeout: 2000 },
    };
    const known = lock === 'mikro-ool' ? entities : [Counter];
    all.push(await connect(MariaDbDriver, lock, { ...options, entities: known }));
  }
  return all;
}

const settled = () => galera.settled();

/** What every node says after a storm, without repetitions. */
async function everywhere(): Promise<{ n: number; writes: number }[]> {
  await settled();
  const told = await Promise.all(orms['mikro-ool'].map(({ em }) => tellsOf(em)));
  const pairs = new Map(told.flat().map((pair) => [JSON.stringify(pair), pair]));
  return [...pairs.values()];
}

/** A storm of so many flushes, or one that lasts as long as what happens meanwhile. Returns what was lost. */
async function stormOf(lock: Lock, rows: number, flushesOrMeanwhile: number | (() => Promise<void>)) {
  await seed(orms['mikro-ool'][0]!, rows);
  await settled();
  const over = new AbortController();
  const isLimited = typeof flushesOrMeanwhile === 'number';
  const flushes = isLimited ? flushesOrMeanwhile : Number.POSITIVE_INFINITY;
  const meanwhile = isLimited ? undefined : flushesOrMeanwhile().finally(() => over.abort());
  const outcome = await storm(orms[lock], { workers: WORKERS, rows, flushes, until: over.signal });
  await meanwhile;
  const told = await everywhere();
  const lost = outcome.saved - Math.min(...told.map(({ n }) => n));
  return { outcome, told, lost };
}

/** Two pieces of work, each in a transaction on a node of its own, that commit at the same time. */
async function atOnce(...works: ((em: EntityManager) => Promise<unknown>)[]): Promise<PromiseSettledResult<unknown>[]> {
  const ready = works.map(() => Promise.withResolvers<void>());
  const all = works.map(async (work, i) => {
    const em = orms['mikro-ool'][i]!.em.fork() as EntityManager;
    try {
      await em.transactional(async (tx) => {
        await work(tx as EntityManager);
        await tx.flush();
        ready[i]!.resolve();
        await Promise.race([Promise.all(ready.map(({ promise }) => promise)), wait(1000)]);
      });
    } finally {
      ready[i]!.resolve();
    }
  });
  return Promise.allSettled(all);
}

/** Of so many rounds, how often both were saved, one, or none. */
async function rounds(
  prepare: (em: EntityManager, round: number) => Promise<unknown>,
  ...works: ((em: EntityManager, round: number) => Promise<unknown>)[]
): Promise<number[]> {
  const saved = [0, 0, 0];
  for (let round = 1; round <= ROUNDS; round++) {
    const em = orms['mikro-ool'][0]!.em.fork() as EntityManager;
    await prepare(em, round);
    await em.flush();
    await settled();
    const results = await atOnce(...works.map((work) => (em: EntityManager) => work(em, round)));
    saved[results.filter(({ status }) => status === 'fulfilled').length]!++;
    await settled();
  }
  return saved;
}

describe.skipIf(missingPackages('galera').length > 0)('Galera', () => {
  beforeAll(async () => {
    galera = await startGalera();
    await galera.nodes[0].query('create database cluster');
    await settled();
    orms['mikro-ool'] = await connectAll('mikro-ool');
    await orms['mikro-ool'][0]!.schema.create();
    await settled();
    orms['version: true'] = await connectAll('version: true');
  });

  afterAll(async () => {
    await Promise.all(Object.values(orms).flatMap((some) => some.map((orm) => orm.close(true))));
    await galera?.dispose();
  });

  describe('storms over all nodes', () => {
    for (const rows of [1, 2, 5, 50]) {
      test(`${WORKERS} workers add 1 to the same ${rows} rows: nothing is lost, on any node`, async () => {
        const { outcome, told, lost } = await stormOf('mikro-ool', rows, FLUSHES);
        report(`mikro-ool, ${rows} rows`, outcome, lost);
        expect(outcome.errors).toEqual({});
        expect(outcome.conflicts).toBeGreaterThan(0);
        expect(told).toEqual([{ n: outcome.saved, writes: outcome.saved }]);
      });
    }

    test('the same with `version: true`, 5 rows: updates are lost', async () => {
      const { outcome, lost } = await stormOf('version: true', 5, FLUSHES);
      report('version: true, 5 rows', outcome, lost);
      expect(lost).toBeGreaterThan(0);
    });

    test('a node that lags again and again', async () => {
      const lagging = async () => {
        for (let times = 0; times < 6; times++) {
          const catchUp = await galera.nodes[2].holdBack();
          await wait(400);
          await catchUp();
          await wait(100);
        }
      };
      const { outcome, told, lost } = await stormOf('mikro-ool', 5, lagging);
      report('mikro-ool, 5 rows, one node lags', outcome, lost);
      expect(told).toEqual([{ n: outcome.saved, writes: outcome.saved }]);
    });

    // so long that the others put it out, and go on
    const OUT = 5000;
    test.each<[string, (node: GaleraNode) => Promise<void>]>([
      [
        'killed, and gets its data from another one',
        async (node) => {
          await node.kill();
          await wait(1000);
          await node.start();
        },
      ],
      [
        'stopped, and continues',
        async (node) => {
          node.pause();
          await wait(OUT);
          node.resume();
        },
      ],
      [
        'cut off from the others, with clients that reach it',
        async (node) => {
          await node.isolate();
          await wait(OUT);
          await node.rejoin();
        },
      ],
    ])('a node is %s', { timeout: 180_000 }, async (what, disturb) => {
      const [, , node] = galera.nodes;
      const { outcome, told, lost } = await stormOf('mikro-ool', 5, async () => {
        await wait(500);
        await disturb(node);
        await galera.whole();
        await wait(500);
      });
      report(`mikro-ool, 5 rows, a node is ${what}`, outcome, lost);
      // whoever was told nothing may have been saved
      expect(told).toEqual([{ n: told[0]!.writes, writes: told[0]!.writes }]);
      expect(told[0]!.n).toBeGreaterThanOrEqual(outcome.saved);
      expect(told[0]!.n).toBeLessThanOrEqual(outcome.saved + outcome.unknown);
      // the pool of its clients is as good as new
      await Promise.all(
        Array.from({ length: WORKERS }, () =>
          retryOnConflict(orms['mikro-ool'][2]!.em, async (em) => void (await em.findOneOrFail(Counter, 1)).n++, {
            attempts: 50,
          }),
        ),
      );
    });
  });

  describe('two nodes at once', () => {
    const parents = async (em: EntityManager, round: number) => {
      await em.nativeDelete(Child, {});
      await em.nativeDelete(Parent, {});
      [1, 2, 3, 4].forEach((id) => em.create(Parent, { id, title: `round ${round}` }));
    };
    const change = (ids: number[], how: (em: EntityManager, parent: object & { title: string }) => void) => {
      return async (em: EntityManager) => {
        const found = await em.find(Parent, ids, { orderBy: { id: 'asc' } });
        expect(found).toHaveLength(ids.length);
        found.forEach((parent) => how(em, parent));
      };
    };
    const update = (ids: number[]) => change(ids, (_, parent) => void (parent.title += ' changed'));
    const remove = (ids: number[]) => change(ids, (em, parent) => void em.remove(parent));

    test.each<[string, (em: EntityManager, round: number) => Promise<unknown>, typeof parents]>([
      ['a batch is deleted, and one of it updated', remove([1, 2, 3]), update([2])],
      ['a batch is updated, and one of it deleted', update([1, 2, 3]), remove([2])],
      ['a batch is updated, and another that overlaps', update([1, 2, 3]), update([3, 4])],
      [
        'a parent is deleted, and gets a child',
        remove([1]),
        async (em) => void em.create(Child, { name: 'new', parent: em.getReference(Parent, 1) }),
      ],
      [
        'equal rows are inserted, unique by a column',
        async (em) => void em.create(Child, { name: 'same', parent: em.getReference(Parent, 1) }),
        async (em) => void em.create(Child, { name: 'same', parent: em.getReference(Parent, 2) }),
      ],
      [
        'each touches the row on which the other one relies',
        async (em) => {
          touch(await em.findOneOrFail(Parent, 1));
          (await em.findOneOrFail(Parent, 2)).title += ' changed';
        },
        async (em) => {
          touch(await em.findOneOrFail(Parent, 2));
          (await em.findOneOrFail(Parent, 1)).title += ' changed';
        },
      ],
    ])('never both: %s', async (name, one, other) => {
      const [none, single, both] = await rounds(parents, one, other);
      console.log(`${name}: none ${none}, one ${single}, both ${both} of ${ROUNDS}`);
      expect(both).toBe(0);
      expect(single).toBeGreaterThan(0);
    });

    test('both, where they have nothing in common', async () => {
      const [, , both] = await rounds(parents, update([1]), update([2]));
      expect(both).toBe(ROUNDS);
    });

    test('never both: rows of two tables, in opposite order', async () => {
      const prepare = async (em: EntityManager, round: number) => {
        await parents(em, round);
        em.create(Child, { id: 1, name: 'child', parent: em.getReference(Parent, 1) });
      };
      const both = async (em: EntityManager) => {
        (await em.findOneOrFail(Parent, 1)).title += ' changed';
        (await em.findOneOrFail(Child, 1)).name += ' changed';
      };
      const flushed = async (em: EntityManager) => {
        (await em.findOneOrFail(Child, 1)).name += ' changed';
        await em.flush();
        (await em.findOneOrFail(Parent, 1)).title += ' changed';
      };
      const saved = await rounds(prepare, both, flushed);
      expect(saved[2]).toBe(0);
      expect(saved[1]).toBeGreaterThan(0);
    });

    test('what Galera cannot promise: each verifies what the other one writes, and both are saved', async () => {
      // only writes are compared between nodes, and what a claim locks is locked on its own node
      const relying = (read: number, written: number) => async (em: EntityManager) => {
        verify(await em.findOneOrFail(Parent, read));
        (await em.findOneOrFail(Parent, written)).title += ' changed';
      };
      const [, , both] = await rounds(parents, relying(1, 2), relying(2, 1));
      console.log(`mutual verify(): both ${both} of ${ROUNDS}`);
      expect(both).toBeGreaterThan(0);
    });
  });

  describe('a transaction that lost to another node (1213): the statement that learns of it', () => {
    const rival = async () => {
      const em = orms['mikro-ool'][1]!.em.fork() as EntityManager;
      (await em.findOneOrFail(Parent, 1)).title = 'theirs';
      await em.flush();
      // its node could only apply this by ending the other transaction
      await settled();
    };
    const write = async (tx: EntityManager, ids: number[]) => {
      (await tx.find(Parent, ids)).forEach((parent) => (parent.title = 'ours'));
      await tx.flush();
    };
    const known = async (tx: EntityManager, ids: number[]) => {
      const parents = await tx.find(Parent, ids);
      await write(tx, [1]);
      await rival();
      parents.forEach((parent) => (parent.title = 'ours'));
      await tx.flush();
    };

    test.each<[string, (tx: EntityManager) => Promise<unknown>, string]>([
      ['UPDATE', (tx) => known(tx, [2]), 'ConcurrentUpdate'],
      ['SAVEPOINT of a flush', (tx) => known(tx, [2, 3]), 'ConcurrentUpdate'],
      ['COMMIT', (tx) => write(tx, [1]).then(rival), 'ConcurrentUpdate'],
      [
        'SELECT',
        (tx) =>
          write(tx, [1])
            .then(rival)
            .then(() => tx.find(Parent, [4])),
        'DeadlockException',
      ],
      [
        'RELEASE of a nested transaction',
        (tx) => tx.transactional((nested) => write(nested as EntityManager, [1]).then(rival)),
        'ConcurrentUpdate',
      ],
    ])('%s', async (_, work, name) => {
      const em = orms['mikro-ool'][0]!.em.fork() as EntityManager;
      await em.nativeDelete(Child, {});
      await em.nativeDelete(Parent, {});
      [1, 2, 3, 4].forEach((id) => em.create(Parent, { id, title: 'saved' }));
      await em.flush();
      await settled();
      const titles = async () =>
        (await em.fork().find(Parent, {}, { orderBy: { id: 'asc' } })).map(({ title }) => title);
      const error: unknown = await em
        .fork()
        .transactional(work)
        .catch((reason: unknown) => reason);
      expect(error).toMatchObject({ name });
      expect((error as Error).cause ?? error).toMatchObject({ errno: 1213 });
      expect(await titles()).toEqual(['theirs', 'saved', 'saved', 'saved']);
      // the connection is as good as new, and trying again gets out
      await retryOnConflict(em, (tx) => write(tx, [1, 2]));
      expect(await titles()).toEqual(['ours', 'ours', 'saved', 'saved']);
    });
  });

  describe('a node that is behind', () => {
    const two = () => orms['mikro-ool'].slice(0, 2).map(({ em }) => em.fork()) as [EntityManager, EntityManager];

    test('a fresh ETag is no match on it, nothing is overwritten, and trying again gets out', async () => {
      await seed(orms['mikro-ool'][0]!, 1);
      await settled();
      const catchUp = await galera.nodes[1].holdBack();
      const [first, second] = two();
      const saved = await first.findOneOrFail(Counter, 1);
      saved.n++;
      await first.flush();
      const tag = etag(saved);
      const stale = await second.findOneOrFail(Counter, 1);
      expect(stale.version).toBe(1);
      expect(() => ifMatch(tag, stale)).toThrow(expect.objectContaining({ status: 412 }));
      // a client that has not seen the other one's save either
      stale.n++;
      const flushed = second.flush().catch((error: unknown) => error);
      await wait(100);
      await catchUp();
      expect(await flushed).toBeInstanceOf(ConcurrentUpdate);
      await retryOnConflict(second, async (em) => void (await em.findOneOrFail(Counter, 1)).n++);
      expect(await everywhere()).toEqual([{ n: 2, writes: 2 }]);
    });

    const bulk = async (over: AbortSignal) => {
      const em = orms['mikro-ool'][0]!.em.fork() as EntityManager;
      while (!over.aborted) {
        await em.nativeDelete(Parent, { id: { $gt: 10 } });
        await em.insertMany(
          Parent,
          Array.from({ length: 500 }, (_, i) => ({ id: 11 + i })),
        );
      }
    };

    test('an ETag that hops from node to node, with and without wsrep_sync_wait', async () => {
      const HOPS = 150;
      const refused = { 0: 0, 1: 0 };
      for (const wanted of [0, 1] as const) {
        // of sessions that begin from here on
        await Promise.all(galera.nodes.map((node) => node.query(`set global wsrep_sync_wait = ${wanted}`)));
        const hopping = await connectAll('mikro-ool');
        await seed(hopping[0]!, 1);
        await settled();
        // rows that nobody looks at give the nodes something to do
        const over = new AbortController();
        const busy = bulk(over.signal);
        let tag = '"Counter/1/1"';
        for (let hop = 0; hop < HOPS; hop++) {
          const em = hopping[hop % 3]!.em.fork();
          const counter = await em.findOneOrFail(Counter, 1);
          try {
            ifMatch(tag, counter);
          } catch {
            refused[wanted]++;
            await settled();
            await em.refresh(counter);
          }
          counter.n++;
          await em.flush();
          tag = etag(counter);
        }
        over.abort();
        await busy;
        expect(await everywhere()).toEqual([{ n: HOPS, writes: HOPS }]);
        await Promise.all(hopping.map((orm) => orm.close(true)));
      }
      await Promise.all(galera.nodes.map((node) => node.query('set global wsrep_sync_wait = 0')));
      console.log(`false 412 of ${HOPS} hops: ${refused[0]}, with wsrep_sync_wait = 1: ${refused[1]}`);
      expect(refused[1]).toBe(0);
    });
  });
});
