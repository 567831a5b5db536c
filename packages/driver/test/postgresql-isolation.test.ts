/** Isolation levels above READ COMMITTED: what the server refuses is a lost race, at a statement as at a COMMIT. */
import type { EventEmitter } from 'node:events';
import {
  DriverException,
  type EntityManager,
  FlushMode,
  IsolationLevel,
  type Options,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { open, thrown } from './harness.ts';

const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});
class Part {
  id!: number;
  text!: string | null;
  whole!: Part | null;
  version!: number;
}
const PartSchema = defineEntity({
  class: Part,
  properties: {
    id: p.integer().primary().autoincrement(false),
    text: p.string().nullable().unique().check(`text <> 'refused'`),
    whole: () => p.manyToOne(Part).nullable().deferMode('deferred'),
    version: p.type(VersionField).default(1),
  },
});
/** Without a lock. */
const Plain = defineEntity({ name: 'Plain', properties: { id: p.integer().primary(), n: p.integer().default(0) } });

/** Settings that every connection of this database starts with. */
const settings = (values: Record<string, string>): Partial<Options> => ({
  driverOptions: {
    options: Object.entries(values)
      .map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`)
      .join(' '),
  },
});

const setUp = async (more: Partial<Options> = {}, rows = 2) => {
  const db = await open(postgresql, [Counter, PartSchema, Plain], more);
  const seed = db.fork();
  for (let id = 1; id <= rows; id++) {
    seed.create(Counter, { id });
    seed.create(Plain, { id });
    seed.create(Part, { id, text: null, whole: null, version: 1 });
  }
  await seed.flush();
  return db;
};

type Db = Awaited<ReturnType<typeof setUp>>;

const SERIALIZABLE = { isolationLevel: IsolationLevel.SERIALIZABLE };

/** Reads counter 2 and changes counter 1. */
const theirs = (fork: Db['fork']) =>
  fork().transactional(async (tx) => {
    await tx.findOneOrFail(Counter, 2);
    (await tx.findOneOrFail(Counter, 1)).n = 100;
  }, SERIALIZABLE);

const LEVELS = [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE];
const WORKERS = 8;
const ROWS = 20;
const ROUNDS = 10;

describe('storm', () => {
  for (const isolationLevel of LEVELS) {
    for (const name of ['flush', 'transaction']) {
      test(`${name}, ${isolationLevel}: ${WORKERS} workers add 1 to the same ${ROWS} rows, half in reverse order`, async () => {
        const { fork } = await setUp(
          {
            pool: { min: 0, max: WORKERS },
            // a transaction says its level itself
            ...settings({
              deadlock_timeout: '50ms',
              ...(name === 'flush' && { default_transaction_isolation: isolationLevel }),
            }),
          },
          ROWS,
        );
        const outcomes = { saved: 0, conflicts: 0, reads: 0 };
        const causes = new Set<unknown>();
        const work = async (worker: number) => {
          for (let round = 0; round < ROUNDS; round++) {
            let reading = true;
            const read = async (em: EntityManager) => {
              reading = true;
              const counters = await em.find(Counter, {}, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
              reading = false;
              return counters;
            };
            try {
              if (name === 'flush') {
                const em = fork();
                (await read(em)).forEach((counter) => counter.n++);
                await em.flush();
              } else {
                // two flushes, half of the workers with the rows in the other order: deadlocks too
                await fork().transactional(
                  async (tx) => {
                    const counters = await read(tx);
                    counters.slice(0, ROWS / 2).forEach((counter) => counter.n++);
                    await tx.flush();
                    counters.slice(ROWS / 2).forEach((counter) => counter.n++);
                  },
                  { isolationLevel },
                );
              }
              outcomes.saved++;
            } catch (error) {
              if (reading) {
                expect(error).toBeInstanceOf(DriverException);
                expect(error).toMatchObject({ code: '40001' });
                outcomes.reads++;
                continue;
              }
              expect(error).toBeInstanceOf(ConcurrentUpdate);
              const { cause, conflicts } = error as ConcurrentUpdate;
              expect(conflicts.length === 0).toBe(cause !== undefined);
              causes.add((cause as { code?: string } | undefined)?.code);
              outcomes.conflicts++;
            }
          }
        };
        await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
        const { saved, conflicts, reads } = outcomes;
        expect(saved + conflicts + reads).toBe(WORKERS * ROUNDS);
        expect(conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
        // a flush of one statement waits for its rival only if both are sent in the same instant, which is not sure
        if (isolationLevel === IsolationLevel.READ_COMMITTED || name !== 'flush') {
          expect(causes.has('40001')).toBe(isolationLevel !== IsolationLevel.READ_COMMITTED);
        }
        const counters = await fork().find(Counter, {});
        expect(counters.length).toBe(ROWS);
        for (const counter of counters) {
          expect([counter.n, counter.version - 1]).toEqual([saved, saved]);
        }
      });
    }
  }
});

describe('a lost race', () => {
  const serializable = settings({ default_transaction_isolation: 'serializable' });
  const isLostRace = (error: unknown) => {
    expect(error).toBeInstanceOf(ConcurrentUpdate);
    const { conflicts, cause, message } = error as ConcurrentUpdate;
    expect(conflicts).toEqual([]);
    expect((error as ConcurrentUpdate).getEntity()).toBeUndefined();
    expect(cause).toMatchObject({ code: '40001' });
    expect(message).toContain('The database aborted the transaction');
  };

  const commits: Record<string, (em: ReturnType<Db['fork']>, fork: Db['fork']) => Promise<unknown>> = {
    'em.transactional': (em, fork) =>
      em.transactional(async (tx) => {
        await tx.findOneOrFail(Counter, 1);
        (await tx.findOneOrFail(Counter, 2)).n = 5;
        await tx.flush();
        await theirs(fork);
      }, SERIALIZABLE),
    'em.transactional that flushed in a nested one': (em, fork) =>
      em.transactional(async (tx) => {
        await tx.findOneOrFail(Counter, 1);
        await tx.transactional(async (inner) => {
          (await inner.findOneOrFail(Counter, 2)).n = 5;
        });
        await theirs(fork);
      }, SERIALIZABLE),
    'em.begin and em.commit': async (em, fork) => {
      await em.begin(SERIALIZABLE);
      try {
        await em.findOneOrFail(Counter, 1);
        (await em.findOneOrFail(Counter, 2)).n = 5;
        await em.flush();
        await theirs(fork);
        await em.commit();
      } catch (error) {
        await em.rollback();
        throw error;
      }
    },
  };
  for (const [name, work] of Object.entries(commits)) {
    test(`at the COMMIT of ${name}`, async () => {
      const { fork } = await setUp(serializable);
      const em = fork();
      const ours = await em.findOneOrFail(Counter, 2);
      isLostRace(await thrown(() => work(em, fork)));
      expect(await fork().find(Counter, {}, { orderBy: { id: 'asc' } })).toMatchObject([
        { n: 100, version: 2 },
        { n: 0, version: 1 },
      ]);
      // what a transaction of the user's takes along is discarded
      expect(ours).toMatchObject({ n: 0, version: 1 });
      ours.n = 5;
      await em.flush();
      expect(await fork().findOneOrFail(Counter, 2)).toMatchObject({ n: 5, version: 2 });
    });
  }

  const statements: Record<string, (tx: EntityManager, fork: Db['fork']) => Promise<unknown>> = {
    'an UPDATE of one row': async (tx) => {
      (await tx.findOneOrFail(Counter, 1)).n = 5;
      await tx.flush();
    },
    'an UPDATE of a batch': async (tx) => {
      (await tx.find(Counter, {})).forEach((counter) => (counter.n = 5));
      await tx.flush();
    },
    'a DELETE of one row': (tx) => tx.remove(tx.getReference(Counter, 1)).flush(),
    'a DELETE of a batch': async (tx) => tx.remove(await tx.find(Counter, {})).flush(),
    'an autoflush in em.find': async (tx) => {
      (await tx.findOneOrFail(Counter, 1)).n = 5;
      await tx.find(Counter, { n: 5 }, { flushMode: FlushMode.ALWAYS });
    },
  };
  for (const [name, work] of Object.entries(statements)) {
    test(`at ${name}, in REPEATABLE READ`, async () => {
      const { fork } = await setUp();
      const error = await thrown(() =>
        fork().transactional(
          async (tx) => {
            const counters = await tx.find(Counter, {}, { orderBy: { id: 'asc' } });
            await theirs(fork);
            const inner = await thrown(() => work(tx, fork));
            isLostRace(inner);
            expect(counters.map((counter) => counter.version)).toEqual([1, 1]);
            throw inner;
          },
          { isolationLevel: IsolationLevel.REPEATABLE_READ },
        ),
      );
      isLostRace(error);
    });
  }
});

test('a lost race that is caught cannot be committed, because the server would roll back and say nothing', async () => {
  const { fork } = await setUp();
  const work = async (tx: EntityManager, several: boolean) => {
    const [one, two] = await tx.find(Counter, {}, { orderBy: { id: 'asc' } });
    const plain = await tx.findOneOrFail(Plain, 1);
    await fork().nativeUpdate(Counter, 2, { n: 100 });
    one!.n = 5;
    await tx.flush();
    two!.n = 5;
    plain.n = several ? 5 : 0;
    expect(await thrown(() => tx.flush())).toBeInstanceOf(ConcurrentUpdate);
    tx.clear();
  };
  const em = fork();
  const [one] = await em.find(Counter, { id: 1 });
  const options = { isolationLevel: IsolationLevel.REPEATABLE_READ };
  const error = await thrown(() => em.transactional((tx) => work(tx, false), options));
  expect(error).toMatchObject({ name: 'ConcurrentUpdate', conflicts: [], cause: { code: '40001' } });
  expect(one!.version).toBe(1);
  expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 0, version: 1 });
  // a flush in a savepoint aborts no more than the savepoint
  await fork().transactional((tx) => work(tx, true), options);
  expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 5, version: 2 });
  await fork().transactional(async (tx) => {
    (await tx.findOneOrFail(Counter, 1)).n = 6;
    await tx.flush();
    const inner = await thrown(() => tx.transactional((nested) => work(nested, false)));
    expect(inner).toMatchObject({ name: 'ConcurrentUpdate', conflicts: [] });
    tx.clear();
  }, options);
  expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 6, version: 3 });
});

describe('an error that is no race stays what it is', () => {
  type Em = ReturnType<Db['fork']>;
  const execute = <Result extends object[]>(em: Em, sql: string) =>
    em.getConnection().execute<Result>(sql, [], 'all', em.getTransactionContext());
  const cases: Record<string, [code: string | RegExp, work: (em: Em, fork: () => Em) => Promise<unknown>]> = {
    'a unique violation': [
      '23505',
      async (em) => {
        (await em.find(Part, {})).forEach((part) => (part.text = 'same'));
        await em.flush();
      },
    ],
    'a check constraint': [
      '23514',
      async (em) => {
        (await em.findOneOrFail(Part, 1)).text = 'refused';
        await em.flush();
      },
    ],
    'a deferred foreign key, at COMMIT': [
      '23503',
      async (em) => {
        (await em.findOneOrFail(Part, 1)).whole = em.getReference(Part, 99);
        await em.flush();
      },
    ],
    'a lock timeout': [
      '55P03',
      (em, fork) =>
        fork().transactional(async (blocker) => {
          await execute(blocker, 'select * from counter for update');
          await em.transactional(async (tx) => {
            await execute(tx, "set local lock_timeout = '10ms'");
            (await tx.findOneOrFail(Counter, 1)).n = 5;
          });
        }),
    ],
    'a statement timeout': [
      '57014',
      (em, fork) =>
        fork().transactional(async (blocker) => {
          await execute(blocker, 'select * from counter for update');
          await em.transactional(async (tx) => {
            await execute(tx, "set local statement_timeout = '10ms'");
            (await tx.find(Counter, {})).forEach((counter) => (counter.n = 5));
          });
        }),
    ],
    'a read': [
      '40001',
      (em, fork) =>
        em.transactional(async (tx) => {
          const [, second] = await tx.find(Counter, {}, { orderBy: { id: 'asc' } });
          second!.n = 5;
          await tx.flush();
          await theirs(fork);
          await tx.find(Plain, {});
        }, SERIALIZABLE),
    ],
    'a write outside a flush': [
      '40001',
      (em, fork) =>
        em.transactional(async (tx) => {
          await tx.find(Counter, {});
          await theirs(fork);
          await tx.nativeUpdate(Counter, 1, { n: 5 });
        }, SERIALIZABLE),
    ],
    'a flush of rows without a version': [
      '40001',
      (em, fork) =>
        em.transactional(async (tx) => {
          const [plain] = await tx.find(Plain, {});
          await fork().nativeUpdate(Plain, {}, { n: 100 });
          plain!.n = 5;
        }, SERIALIZABLE),
    ],
    'the COMMIT of a transaction that flushed no row with a version': [
      '40001',
      (em, fork) =>
        em.transactional(async (tx) => {
          await tx.find(Counter, {});
          (await tx.findOneOrFail(Plain, 1)).n = 5;
          await tx.flush();
          await fork().transactional(async (other) => {
            await other.findOneOrFail(Plain, 1);
            (await other.findOneOrFail(Counter, 1)).n = 100;
          }, SERIALIZABLE);
        }, SERIALIZABLE),
    ],
  };
  for (const [name, [code, work]] of Object.entries(cases)) {
    test(name, async () => {
      const { fork } = await setUp();
      const em = fork();
      const [counter] = await em.find(Counter, { id: 1 });
      const [part] = await em.find(Part, { id: 1 });
      const error = await thrown(() => work(em, fork));
      expect(error).not.toBeInstanceOf(ConcurrentUpdate);
      expect(error).toMatchObject({ code });
      expect([counter!.version, part!.version]).toEqual([1, 1]);
      expect(await fork().count(Counter, { n: 5 })).toBe(0);
      // the change is still to be made
      part!.text = 'fine';
      part!.whole = null;
      await em.refresh(em.getReference(Part, 2));
      await em.flush();
      expect(await fork().findOneOrFail(Part, 1)).toMatchObject({ text: 'fine', version: 2 });
    });
  }

  for (const flushed of [false, true]) {
    test(`a connection that is terminated before ${flushed ? 'COMMIT' : 'the UPDATE'}`, async () => {
      // MikroORM does not give a broken connection back to the pool, which then never closes
      const held = new Set<{ release(destroy: boolean): void }>();
      const onPoolCreated = (pool: EventEmitter) => {
        pool.on('acquire', (client) => held.add(client));
        pool.on('release', (_error, client) => held.delete(client));
      };
      const { fork } = await setUp({ driverOptions: { onPoolCreated } });
      onTestFinished(() => held.forEach((client) => client.release(true)));
      const em = fork();
      const counter = await em.findOneOrFail(Counter, 1);
      const error = await thrown(() =>
        em.transactional(async (tx) => {
          counter.n = 5;
          const [row] = await execute<{ pid: number }[]>(tx as Em, 'select pg_backend_pid() as pid');
          if (flushed) {
            await tx.flush();
            expect(counter.version).toBe(2);
          }
          await execute(fork(), `select pg_terminate_backend(${row!.pid})`);
        }),
      );
      expect(error).not.toBeInstanceOf(ConcurrentUpdate);
      expect(error.message).toMatch(/connection/);
      // a flush that failed is pending, one that had succeeded is discarded
      expect(counter).toMatchObject({ n: flushed ? 0 : 5, version: 1 });
      counter.n = 5;
      await em.flush();
      expect(await fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 5, version: 2 });
    });
  }
});

test('a session context needs a transaction, so a flush of one row has one', async () => {
  const db = await open(postgresql, [Counter], { sessionContext: 'transaction' });
  const em = db.fork();
  em.setSessionContext({ variables: { 'app.user': 'ann' } });
  em.create(Counter, { id: 1 });
  await em.flush();
  (await em.findOneOrFail(Counter, 1)).n = 1;
  const log = await db.sent(() => em.flush());
  expect(log.map((sql) => sql.match(/begin|set_config|update|commit/)?.[0])).toEqual([
    'begin',
    'set_config',
    'update',
    'commit',
  ]);
});
