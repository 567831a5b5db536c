/** Flushes of the same rows wait for each other instead of deadlocking. */
import { type EntityManager, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { type TestDriver, open } from './harness.ts';

const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

const ROWS = 600; // two batches
const WORKERS = 8;
const FLUSHES = 300;
/** So few that most optimizers read the whole table to find them. */
const FEW = 20;
const ROUNDS = 40;

/** @param countDeadlocks reads how many deadlocks the server has seen */
export function storm(driver: TestDriver, countDeadlocks: (em: SqlEntityManager) => Promise<number>): void {
  test(
    `${WORKERS} workers, ${ROWS} rows, half in reverse order, ${FLUSHES} flushes: no deadlock`,
    { timeout: 300_000 },
    async () => {
      const { fork } = await open(driver, [Counter], { pool: { min: 0, max: WORKERS } });
      const seed = fork();
      for (let id = 1; id <= ROWS; id++) {
        seed.create(Counter, { id });
      }
      await seed.flush();
      const before = await countDeadlocks(fork());
      let started = 0;
      let saved = 0;
      let conflicts = 0;
      const causes: unknown[] = [];
      const work = async (worker: number) => {
        while (started++ < FLUSHES) {
          const em: EntityManager = fork();
          const counters = await em.find(Counter, {}, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
          counters.forEach((counter) => counter.n++);
          try {
            await em.flush();
            saved++;
          } catch (error) {
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            conflicts++;
            if ((error as ConcurrentUpdate).cause) {
              causes.push((error as ConcurrentUpdate).cause);
            }
          }
        }
      };
      await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
      expect(saved + conflicts).toBe(FLUSHES);
      expect(conflicts).toBeGreaterThan(0);
      expect(causes).toEqual([]);
      expect(await countDeadlocks(fork())).toBe(before);
      const counters = await fork().find(Counter, {});
      expect(new Set(counters.map((counter) => `${counter.n} ${counter.version}`))).toEqual(
        new Set([`${saved} ${saved + 1}`]),
      );
    },
  );

  test(`${WORKERS} workers, random subsets of ${FEW} rows: no deadlock`, { timeout: 300_000 }, async () => {
    const { fork } = await open(driver, [Counter], { pool: { min: 0, max: WORKERS } });
    await fork().insertMany(
      Counter,
      Array.from({ length: FEW }, (_, i) => ({ id: i + 1, n: 0 })),
    );
    const before = await countDeadlocks(fork());
    let started = 0;
    let conflicts = 0;
    const bumps = new Map<number, number>();
    const work = async () => {
      while (started++ < FLUSHES) {
        const em: EntityManager = fork();
        const counters = (await em.find(Counter, {})).filter(() => Math.random() < 0.6);
        counters.forEach((counter) => counter.n++);
        try {
          await em.flush();
          counters.forEach(({ id }) => bumps.set(id, (bumps.get(id) ?? 0) + 1));
        } catch (error) {
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          expect((error as ConcurrentUpdate).cause).toBeUndefined();
          conflicts++;
        }
      }
    };
    await Promise.all(Array.from({ length: WORKERS }, work));
    expect(conflicts).toBeGreaterThan(0);
    expect(await countDeadlocks(fork())).toBe(before);
    for (const { id, n, version } of await fork().find(Counter, {})) {
      expect([n, version - 1]).toEqual([bumps.get(id) ?? 0, bumps.get(id) ?? 0]);
    }
  });

  test(
    'clients whose flushes are always stale do not starve one whose flushes are not',
    { timeout: 300_000 },
    async () => {
      const { fork } = await open(driver, [Counter], { pool: { min: 0, max: WORKERS } });
      await fork().insertMany(
        Counter,
        Array.from({ length: FEW }, (_, i) => ({ id: i + 1, n: 0 })),
      );
      const before = await countDeadlocks(fork());
      const over = new AbortController();
      let stale = 0;
      const always = async () => {
        while (!over.signal.aborted) {
          const em: EntityManager = fork();
          const counters = (await em.find(Counter, {})).filter(() => Math.random() < 0.6);
          counters.forEach((counter) => {
            counter.n++;
            counter.version += 1000;
          });
          const error = await em.flush().catch((reason: unknown) => reason);
          if (counters.length > 0) {
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            expect((error as ConcurrentUpdate).cause).toBeUndefined();
            stale++;
          }
        }
      };
      const valid = async () => {
        for (let i = 0; i < ROUNDS; i++) {
          const em: EntityManager = fork();
          (await em.find(Counter, {})).forEach((counter) => counter.n++);
          await em.flush();
        }
      };
      await Promise.all([always(), always(), always(), valid().finally(() => over.abort())]);
      expect(stale).toBeGreaterThan(0);
      expect(await countDeadlocks(fork())).toBe(before);
      const counters = await fork().find(Counter, {});
      expect(new Set(counters.map(({ n, version }) => `${n} ${version}`))).toEqual(
        new Set([`${ROUNDS} ${ROUNDS + 1}`]),
      );
    },
  );
}
