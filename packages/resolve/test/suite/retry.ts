/** Work that is tried again ends in the sum of all of it; everything else is thrown on as it is. */
import { channel } from 'node:diagnostics_channel';
import { type EntityManager, IsolationLevel, LockMode, defineEntity, p, raw } from '@mikro-orm/core';
import { CommitOutcomeUnknown, ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { type RetryMessage, retryOnConflict } from '@mikro-ool/resolve';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type TestDriver, open, testWhere, thrown } from '../../../driver/test/harness.ts';

const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

export function retries(driver: TestDriver): void {
  describe('retryOnConflict', () => {
    const setUp = async () => {
      const db = await open(driver, [Counter]);
      const seed = db.fork();
      seed.create(Counter, { id: 1 });
      await seed.flush();
      const rival = async () => {
        const em = db.fork();
        (await em.findOneOrFail(Counter, 1)).n += 100;
        await em.flush();
      };
      /** Loses its race, every time: with a rival that goes on another connection, or by an error of its own. */
      const losing = async (em: ReturnType<typeof db.fork>) => {
        const counter = await em.findOneOrFail(Counter, 1);
        counter.n++;
        throw new ConcurrentUpdate([
          { entity: counter, entityName: 'Counter', primaryKey: 1, operation: 'update', expected: 1, actual: 2 },
        ]);
      };
      return { ...db, rival, losing, n: async () => (await db.fork().findOneOrFail(Counter, 1)).n };
    };

    test('25 tasks increment one counter 5 times each: 125', async () => {
      const { fork } = await setUp();
      await Promise.all(
        Array.from({ length: 25 }, async () => {
          for (let i = 0; i < 5; i++) {
            await retryOnConflict(
              fork(),
              async (em) => {
                (await em.findOneOrFail(Counter, 1)).n++;
              },
              { attempts: 100 },
            );
          }
        }),
      );
      expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 125, version: 126 });
    });

    for (const verifyReads of [true, false]) {
      const outcome = verifyReads
        ? 'each rests on what the other left: never both off'
        : 'the same without it: both off';
      test(`verifyReads: ${verifyReads}: ${outcome}`, async () => {
        const { fork } = await setUp();
        await fork().insertMany(
          Counter,
          [2, 3].map((id) => ({ id, n: 1 })),
        );
        // both have read before either writes, the first time
        let reading = 2;
        let bothHaveRead = () => {};
        const read = new Promise<void>((resolve) => (bothHaveRead = resolve));
        const takeOff = async (mine: number, other: number) => {
          const decide = async (find: (id: number) => Promise<{ n: number }>) => {
            const [own, theirs] = [await find(mine), await find(other)];
            if (--reading === 0) {
              bothHaveRead();
            }
            if (driver.concurrent) {
              await read;
            }
            if (theirs.n === 1) {
              own.n = 0;
            }
          };
          await retryOnConflict(fork(), (em) => decide((id) => em.findOneOrFail(Counter, id)), { verifyReads });
        };
        await Promise.all([takeOff(2, 3), takeOff(3, 2)]);
        const [a, b] = await fork().find(Counter, { id: [2, 3] }, { orderBy: { id: 1 } });
        // on a single connection the second begins when the first has ended
        expect(a!.n + b!.n).toBe(verifyReads || !driver.concurrent ? 1 : 0);
      });
    }

    const again: Record<string, (em: EntityManager) => Promise<unknown>> = {
      find: (em) => em.find(Counter, {}),
      'find by a condition': (em) => em.findOne(Counter, { n: { $gt: 0 } }),
      'find with a lock': (em) => em.findOne(Counter, 1, { lockMode: LockMode.PESSIMISTIC_READ }),
      'in a nested transaction': (em) => em.transactional((tx) => tx.find(Counter, {})),
    };
    for (const [name, read] of Object.entries(again)) {
      testWhere(driver.concurrent)(`verifyReads: a row that is read again by the way: ${name}`, async () => {
        const { fork, rival } = await setUp();
        let tries = 0;
        const decided = await retryOnConflict(
          fork(),
          async (em) => {
            const counter = await em.findOneOrFail(Counter, 1);
            const { n } = counter;
            if (++tries === 1) {
              await rival();
            }
            await read(em);
            return n;
          },
          { verifyReads: true, isolationLevel: IsolationLevel.READ_COMMITTED },
        );
        expect([decided, tries]).toEqual([100, 2]);
      });
    }

    test('verifyReads: what the work has written itself is no conflict', async () => {
      const { fork, n } = await setUp();
      const em = fork();
      await retryOnConflict(
        em,
        async (own) => {
          const counter = await own.findOneOrFail(Counter, 1);
          counter.n++;
          await own.flush();
          await own.find(Counter, {});
          await own.transactional(async (tx) => void (await tx.findOneOrFail(Counter, 1)).n++);
          await own.find(Counter, {});
          await own.nativeUpdate(Counter, 1, { n: 5 });
          await own.refresh(counter);
        },
        { verifyReads: true, attempts: 1 },
      );
      expect(await n()).toBe(5);
    });

    test('runs again on a fresh fork, and returns what the work returned', async () => {
      const { fork, n, losing } = await setUp();
      const seen: object[] = [];
      const em = fork();
      const result = await retryOnConflict(em, async (own) => {
        seen.push(own);
        expect(own.isInTransaction()).toBe(true);
        if (seen.length < 3) {
          await losing(own);
        }
        const counter = await own.findOneOrFail(Counter, 1);
        return ++counter.n;
      });
      expect(result).toBe(1);
      expect(await n()).toBe(1);
      expect(new Set([...seen, em]).size).toBe(4);
      expect(em.getUnitOfWork().getIdentityMap().keys()).toEqual([]);
    });

    test('where transactions are disabled, what the work changed is saved all the same', async () => {
      const { orm, n } = await setUp();
      const em = orm.em.fork({ disableTransactions: true });
      await retryOnConflict(em, async (own) => {
        (await own.findOneOrFail(Counter, 1)).n++;
      });
      expect(await n()).toBe(1);
    });

    test('throws the very last ConcurrentUpdate when all attempts are lost, 10 without a bound', async () => {
      const { fork, losing, n } = await setUp();
      for (const [attempts, expected] of [
        [undefined, 10],
        [1, 1],
        [3, 3],
      ]) {
        const errors: unknown[] = [];
        const error = await thrown(() =>
          retryOnConflict(
            fork(),
            async (em) => {
              const lost = await thrown(() => losing(em));
              errors.push(lost);
              throw lost;
            },
            { attempts },
          ),
        );
        expect(errors).toHaveLength(expected!);
        expect(error).toBe(errors.at(-1));
      }
      expect(await n()).toBe(0);
    });

    test('any other error is thrown on at once, unchanged', async () => {
      const { fork, n } = await setUp();
      const { AbortError } = await import('p-retry');
      for (const error of [
        new Error('x'),
        new TypeError('x'),
        new TypeError('fetch failed'),
        new AbortError('x'),
        // it may have been done already
        new CommitOutcomeUnknown(new Error('Connection terminated unexpectedly')),
        'text',
        null,
      ]) {
        let runs = 0;
        const result = await retryOnConflict(fork(), async (em) => {
          runs++;
          (await em.findOneOrFail(Counter, 1)).n++;
          await em.flush();
          throw error;
        }).then(
          () => 'nothing was thrown',
          (reason: unknown) => ({ reason }),
        );
        expect(result).toEqual({ reason: error });
        expect((result as { reason: unknown }).reason).toBe(error);
        expect(runs).toBe(1);
      }
      expect(await n()).toBe(0);
    });

    test('refuses to run inside an open transaction, before the work', async () => {
      const { orm, fork } = await setUp();
      let runs = 0;
      const work = () => void runs++;
      const sentence = /inside an open transaction.*Put retryOnConflict\(\) around the whole/;
      const em = fork();
      await em.begin();
      await expect(retryOnConflict(em, work)).rejects.toThrow(sentence);
      await em.rollback();
      await em.transactional(async (tx) => {
        await expect(retryOnConflict(tx, work)).rejects.toThrow(sentence);
        await expect(retryOnConflict(em, work)).rejects.toThrow(sentence);
        await expect(retryOnConflict(orm.em, work)).rejects.toThrow(sentence);
      });
      await expect(retryOnConflict(em, (tx) => retryOnConflict(tx, work))).rejects.toThrow(sentence);
      expect(runs).toBe(0);
      await retryOnConflict(orm.em, work);
      await retryOnConflict(em, work);
      expect(runs).toBe(2);
    });

    test('refuses a bound that is none', async () => {
      const { fork } = await setUp();
      for (const attempts of [0, -1, 1.5, NaN, Infinity, '3' as never]) {
        await expect(retryOnConflict(fork(), () => {}, { attempts })).rejects.toThrow(
          /attempts is .* Give an integer from 1/,
        );
      }
    });

    test('a signal ends the trying with its reason, also during a wait', async () => {
      const { fork, losing, n } = await setUp();
      const reason = new Error('gone');
      let runs = 0;
      const run = (signal: AbortSignal, work: () => void) =>
        retryOnConflict(fork(), (em) => (runs++, work(), losing(em)), { signal, attempts: 1000 });
      await expect(run(AbortSignal.abort(reason), () => {})).rejects.toBe(reason);
      expect(runs).toBe(0);
      const during = new AbortController();
      await expect(run(during.signal, () => during.abort(reason))).rejects.toBe(reason);
      expect(runs).toBe(1);
      const waiting = new AbortController();
      const listen = () => setTimeout(() => waiting.abort(reason));
      channel('mikro-ool:retry').subscribe(listen);
      onTestFinished(() => void channel('mikro-ool:retry').unsubscribe(listen));
      await expect(run(waiting.signal, () => {})).rejects.toBe(reason);
      expect(runs).toBe(2);
      expect(await n()).toBe(0);
    });

    test('what is committed is no failure, even when the signal was aborted meanwhile', async () => {
      const { fork, n } = await setUp();
      const controller = new AbortController();
      const result = await retryOnConflict(
        fork(),
        async (em) => {
          (await em.findOneOrFail(Counter, 1)).n++;
          controller.abort();
          return 'saved';
        },
        { signal: controller.signal },
      );
      expect(result).toBe('saved');
      expect(await n()).toBe(1);
    });

    test('tells who listens of every attempt that is repeated, and nobody else', async () => {
      const { fork, losing } = await setUp();
      const messages: RetryMessage[] = [];
      const listen = (message: unknown) => void messages.push(message as RetryMessage);
      const run = () => thrown(() => retryOnConflict(fork(), losing, { attempts: 3 }));
      channel('mikro-ool:retry').subscribe(listen);
      const error = await run();
      expect(messages.map(({ attempt }) => attempt)).toEqual([1, 2]);
      for (const [i, message] of messages.entries()) {
        expect(message.error).toBeInstanceOf(ConcurrentUpdate);
        expect(message.error).not.toBe(error);
        expect(message.delay).toBeGreaterThanOrEqual(10 * 2 ** i);
        expect(message.delay).toBeLessThanOrEqual(20 * 2 ** i);
      }
      channel('mikro-ool:retry').unsubscribe(listen);
      await run();
      expect(messages).toHaveLength(2);
    });

    test('a version that the work has assigned is as stale the second time: thrown at once', async () => {
      const { fork, rival, n } = await setUp();
      await rival();
      const claims: Record<string, (em: ReturnType<typeof fork>) => Promise<unknown>> = {
        'of a row that was read': async (em) => {
          const counter = await em.findOneOrFail(Counter, 1);
          em.assign(counter, { n: 5, version: 1 });
        },
        'flushed by the work': async (em) => {
          const counter = await em.findOneOrFail(Counter, 1);
          em.assign(counter, { n: 5, version: 1 });
          await em.flush();
        },
        'of a reference': async (em) => em.assign(em.getReference(Counter, 1), { n: 5, version: 1 }),
        'of a reference to remove': async (em) => em.remove(em.assign(em.getReference(Counter, 1), { version: 1 })),
        'of an entity to merge': async (em) => {
          const merged: object = em.merge(Counter, { id: 1, version: 1 } as never);
          Object.assign(merged, { n: 6 });
        },
        'of an entity to merge and remove': async (em) => em.remove(em.merge(Counter, { id: 1, version: 1 } as never)),
        'and touched': async (em) => touch(em.assign(await em.findOneOrFail(Counter, 1), { version: 1 })),
        'of a lock': async (em) => em.lock(await em.findOneOrFail(Counter, 1), LockMode.OPTIMISTIC, 1),
      };
      for (const [name, claim] of Object.entries(claims)) {
        let runs = 0;
        const error = await thrown(() => retryOnConflict(fork(), (em) => (runs++, claim(em)), { attempts: 3 }));
        expect([name, error.name, runs]).toEqual([name, 'ConcurrentUpdate', 1]);
      }
      expect(await n()).toBe(100);
    });

    test('with a global result cache, an attempt reads what is there', async () => {
      const { fork, orm } = await open(driver, [Counter], { resultCache: { global: 60_000 } });
      const seed = fork();
      seed.create(Counter, { id: 1 });
      await seed.flush();
      await fork().findOneOrFail(Counter, 1);
      await fork().nativeUpdate(Counter, 1, { n: 100 });
      let runs = 0;
      await retryOnConflict(orm.em, async (em) => {
        runs++;
        (await em.findOneOrFail(Counter, 1)).n++;
      });
      expect(runs).toBe(1);
      expect((await fork().findOneOrFail(Counter, 1, { cache: false })).n).toBe(101);
    });

    if (driver.concurrent) {
      const second = async (fork: () => ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>) => {
        const seed = fork();
        seed.create(Counter, { id: 2 });
        await seed.flush();
      };

      /** Each locks one row and then the other one's: the database ends one of them. */
      const crossing = async (
        fork: () => ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>,
        lock: (em: ReturnType<typeof fork>, id: number) => Promise<unknown>,
      ) => {
        const both = Promise.withResolvers<void>();
        let arrived = 0;
        let runs = 0;
        const cross = (ids: number[]) =>
          retryOnConflict(fork(), async (em) => {
            runs++;
            await em.findOneOrFail(Counter, ids[0]!, { lockMode: LockMode.PESSIMISTIC_WRITE });
            if (++arrived >= 2) {
              both.resolve();
            }
            await both.promise;
            await lock(em, ids[1]!);
            const counters = await em.find(Counter, {}, { orderBy: { id: 'asc' } });
            counters.forEach((counter) => counter.n++);
          });
        await Promise.all([cross([1, 2]), cross([2, 1])]);
        return runs;
      };

      test('a deadlock of a read that locks is tried again', async () => {
        const { fork } = await setUp();
        await second(fork);
        const lock = { lockMode: LockMode.PESSIMISTIC_WRITE } as const;
        expect(await crossing(fork, (em, id) => em.findOneOrFail(Counter, id, lock))).toBe(3);
        expect((await fork().findAll(Counter)).map(({ n }) => n)).toEqual([2, 2]);
      });

      test('a deadlock of a set-based write is tried again', async () => {
        const { fork } = await setUp();
        await second(fork);
        expect(await crossing(fork, (em, id) => em.nativeUpdate(Counter, id, { n: raw('n + 0') }))).toBe(3);
        expect((await fork().findAll(Counter)).map(({ n }) => n)).toEqual([2, 2]);
      });

      test('a deadlock that the work catches is tried again, or what was written before it would be missing', async () => {
        const { fork } = await setUp();
        await second(fork);
        const both = Promise.withResolvers<void>();
        let arrived = 0;
        const increment = (em: ReturnType<typeof fork>, id: number) =>
          em.nativeUpdate(Counter, id, { n: raw('n + 1') });
        const cross = (ids: number[]) =>
          retryOnConflict(fork(), async (em) => {
            await increment(em, ids[0]!);
            if (++arrived >= 2) {
              both.resolve();
            }
            await both.promise;
            await increment(em, ids[1]!).catch(() => {});
          });
        await Promise.all([cross([1, 2]), cross([2, 1])]);
        expect(arrived).toBe(3);
        expect((await fork().findAll(Counter)).map(({ n }) => n)).toEqual([2, 2]);
      });

      test('a deadlock in a nested transaction, whose savepoint goes with it, is tried again', async () => {
        const { fork } = await setUp();
        await second(fork);
        const lock = { lockMode: LockMode.PESSIMISTIC_WRITE } as const;
        expect(await crossing(fork, (em, id) => em.transactional((tx) => tx.findOneOrFail(Counter, id, lock)))).toBe(3);
        expect((await fork().findAll(Counter)).map(({ n }) => n)).toEqual([2, 2]);
      });

      test('a serialisation failure of a set-based write is tried again', async () => {
        const { fork, rival, n } = await setUp();
        let runs = 0;
        await retryOnConflict(
          fork(),
          async (em) => {
            await em.findOneOrFail(Counter, 1);
            if (++runs < 3) {
              await rival();
            }
            await em.nativeUpdate(Counter, 1, { n: raw('n + 1') });
          },
          { isolationLevel: IsolationLevel.REPEATABLE_READ },
        );
        expect(await n()).toBe(runs === 3 ? 201 : 101);
      });

      test('a real rival between read and write', async () => {
        const { fork, rival, n } = await setUp();
        let runs = 0;
        await retryOnConflict(fork(), async (em) => {
          const counter = await em.findOneOrFail(Counter, 1);
          if (++runs < 3) {
            await rival();
          }
          counter.n++;
        });
        expect(runs).toBe(3);
        expect(await n()).toBe(201);
      });

      test('a serialisation failure at COMMIT is tried again, at the isolation level that was given', async () => {
        const { fork } = await setUp();
        const seed = fork();
        seed.create(Counter, { id: 2 });
        await seed.flush();
        let runs = 0;
        let causes = 0;
        const listen = (message: unknown) => void (causes += (message as RetryMessage).error.cause ? 1 : 0);
        channel('mikro-ool:retry').subscribe(listen);
        onTestFinished(() => void channel('mikro-ool:retry').unsubscribe(listen));
        // write skew: each reads both counters and writes the other one's
        const both = Promise.withResolvers<void>();
        let arrived = 0;
        const skew = (mine: number) =>
          retryOnConflict(
            fork(),
            async (em) => {
              runs++;
              const counters = await em.findAll(Counter, { orderBy: { id: 'asc' } });
              if (++arrived >= 2) {
                both.resolve();
              }
              await both.promise;
              counters[mine]!.n = 1 + counters[0]!.n + counters[1]!.n;
            },
            { isolationLevel: IsolationLevel.SERIALIZABLE },
          );
        await Promise.all([skew(0), skew(1)]);
        const values = (await fork().findAll(Counter)).map(({ n }) => n).toSorted();
        expect(values, 'as one after the other').toEqual([1, 2]);
        expect(runs).toBe(3);
        expect(causes).toBe(1);
      });
    }
  });
}
