/** Many writers on the same rows: what was reported as saved is in the database, all of it, and nothing else. */
import { defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';

const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

const WORKERS = 8;

export function races(driver: TestDriver): void {
  describe('race', () => {
    for (const rows of [1, 2, 5, 50]) {
      test(`${WORKERS} workers add 1 to the same ${rows} rows, half of them in reverse order`, async () => {
        const { fork } = await open(driver, [Counter]);
        const seed = fork();
        for (let id = 1; id <= rows; id++) {
          seed.create(Counter, { id });
        }
        await seed.flush();
        let saved = 0;
        let conflicts = 0;
        const work = async (worker: number) => {
          for (let round = 0; round < 25; round++) {
            const em = fork();
            const counters = await em.find(Counter, {}, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
            counters.forEach((counter) => counter.n++);
            try {
              await em.flush();
              saved++;
            } catch (error) {
              expect(error).toBeInstanceOf(ConcurrentUpdate);
              conflicts++;
            }
          }
        };
        await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
        expect(saved + conflicts).toBe(WORKERS * 25);
        expect(conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
        for (const counter of await fork().find(Counter, {})) {
          expect(counter.n).toBe(saved);
          expect(counter.version - 1).toBe(saved);
        }
      });
    }

    test('25 tasks increment one counter 5 times each, trying again after a conflict', async () => {
      const { fork } = await open(driver, [Counter]);
      const seed = fork();
      seed.create(Counter, { id: 1 });
      await seed.flush();
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
