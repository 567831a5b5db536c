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
}
