/** Flushes of the same rows wait for each other instead of deadlocking. */
import type { EntityManager } from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { Counter, addInParallel, withCounters } from './counters.ts';
import type { TestDriver } from './harness.ts';

const ROWS = 600; // two batches
const WORKERS = 8;
const FLUSHES = 300;
/** So few that most optimizers read the whole table to find them. */
const FEW = 20;
const ROUNDS = 40;
const POOL = { pool: { min: 0, max: WORKERS } };

/** @param countDeadlocks reads how many deadlocks the server has seen */
export function storm(driver: TestDriver, countDeadlocks: (em: SqlEntityManager) => Promise<number>): void {
  test(
    `${WORKERS} workers, ${ROWS} rows, half in reverse order, ${FLUSHES} flushes: no deadlock`,
    { timeout: 300_000 },
    async () => {
      const db = await withCounters(driver, ROWS, POOL);
      const before = await countDeadlocks(db.fork());
      const { causes } = await addInParallel(db, WORKERS, FLUSHES);
      expect(causes).toEqual([]);
      expect(await countDeadlocks(db.fork())).toBe(before);
    },
  );

  test(`${WORKERS} workers, random subsets of ${FEW} rows: no deadlock`, { timeout: 300_000 }, async () => {
    const db = await withCounters(driver, FEW, POOL);
    const before = await countDeadlocks(db.fork());
    const { causes } = await addInParallel(db, WORKERS, FLUSHES, () => Math.random() < 0.6);
    expect(causes).toEqual([]);
    expect(await countDeadlocks(db.fork())).toBe(before);
  });

  test(
    'clients whose flushes are always stale do not starve one whose flushes are not',
    { timeout: 300_000 },
    async () => {
      const { fork } = await withCounters(driver, FEW, POOL);
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
