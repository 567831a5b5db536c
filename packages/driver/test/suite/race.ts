/** Many writers on the same rows: what was reported as saved is in the database, all of it, and nothing else. */
import { ConcurrentUpdate } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { Counter, addInParallel, withCounters } from '../counters.ts';
import type { TestDriver } from '../harness.ts';

const WORKERS = 8;

export function races(driver: TestDriver): void {
  describe('race', () => {
    for (const rows of [1, 2, 5, 50]) {
      test(`${WORKERS} workers add 1 to the same ${rows} rows, half of them in reverse order`, async () => {
        const db = await withCounters(driver, rows);
        const { saved, bumps } = await addInParallel(db, WORKERS, WORKERS * 25);
        expect([...bumps.values()]).toEqual(Array.from({ length: rows }, () => saved));
      });
    }

    test('25 tasks increment one counter 5 times each, trying again after a conflict', async () => {
      const { fork } = await withCounters(driver, 1);
      const increment = async (): Promise<void> => {
        for (;;) {
          const em = fork();
          (await em.findOneOrFail(Counter, 1)).n++;
          try {
            return await em.flush();
          } catch (error) {
            expect(error).toBeInstanceOf(ConcurrentUpdate);
          }
        }
      };
      await Promise.all(
        Array.from({ length: 25 }, async () => {
          for (let i = 0; i < 5; i++) {
            await increment();
          }
        }),
      );
      expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 125, version: 126 });
    });
  });
}
