/** Rows that are only read: a flush that rests on them is saved only where they are still the same, until its COMMIT. */
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import {
  type EntityManager,
  EntitySchema,
  LockMode,
  type Opt,
  TransactionPropagation,
  ValidationError,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, VersionNotLoaded, touch, verify } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { dialectOf } from '../../src/write/dialects/index.ts';
import { type TestDriver, describeWhere, open, thrown } from '../harness.ts';
import { openRatings } from './ratings.ts';

const Budget = defineEntity({
  name: 'Budget',
  properties: {
    id: p.integer().primary(),
    total: p.integer().default(100),
    seen: p.integer().default(0),
    version: p.type(new VersionField({ exclude: ['seen'] })),
  },
});
const Expense = defineEntity({
  name: 'Expense',
  properties: { id: p.integer().primary(), amount: p.integer(), version: p.type(VersionField) },
});
const Plain = defineEntity({ name: 'Plain', properties: { id: p.integer().primary(), n: p.integer() } });
const Doctor = defineEntity({
  name: 'Doctor',
  properties: { id: p.integer().primary(), onCall: p.boolean(), version: p.type(VersionField) },
});

const Room = defineEntity({
  name: 'Room',
  properties: {
    id: p.integer().primary().autoincrement(false),
    tenant: p.string().unique().nullable(),
    version: p.type(VersionField),
  },
});

const WORKERS = 8;
const ROUNDS = 12;

export function verifies(driver: TestDriver): void {
  const setUp = async (more = {}) => {
    const db = await open(driver, [Budget, Expense, Plain, Doctor] as EntitySchema[], more);
    const seed = db.fork();
    [1, 2].forEach((id) => seed.create(Budget, { id }));
    [1, 2].forEach((id) => seed.create(Expense, { id, amount: 0 }));
    seed.create(Plain, { id: 1, n: 0 });
    await seed.flush();
    const change = (id = 1) => db.fork().nativeUpdate(Budget, id, { total: 50 });
    const kinds = async (work: () => Promise<unknown>) =>
      (await db.sent(work)).map((sql) => sql.match(/^(?:with .*?\) )?(\w+)/s)![1]);
    return { ...db, change, kinds };
  };

  describe('verify', () => {
    const ways = {
      'verify()': async (_em: EntityManager, entity: object) => verify(entity),
      'em.lock(entity, LockMode.OPTIMISTIC)': (em: EntityManager, entity: object) =>
        em.lock(entity, LockMode.OPTIMISTIC),
      'findOne() with LockMode.OPTIMISTIC': async (em: EntityManager) => {
        await em.findOneOrFail(Budget, 1, { lockMode: LockMode.OPTIMISTIC });
      },
    };
    for (const [name, ask] of Object.entries(ways)) {
      test(`${name}: a row that somebody else has changed is a conflict, and one that nobody has is not bumped`, async () => {
        const { fork, change } = await setUp();
        const em = fork();
        const budget = await em.findOneOrFail(Budget, 1);
        await ask(em, budget);
        em.create(Expense, { id: 3, amount: 80 });
        await em.flush();
        expect(budget.version).toBe(1);
        await ask(em, budget);
        await change();
        em.create(Expense, { id: 4, amount: 80 });
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect(error).toMatchObject({
          conflicts: [{ entityName: 'Budget', operation: 'check', expected: 1, actual: 2 }],
        });
        expect(await fork().count(Expense, {})).toBe(3);
      });
    }

    const inside: Record<
      string,
      (em: EntityManager, work: (tx: EntityManager) => Promise<unknown>) => Promise<unknown>
    > = {
      'em.transactional()': (em, work) => em.transactional(work),
      'em.transactional() that flushes itself': (em, work) =>
        em.transactional(async (tx) => {
          await work(tx);
          await tx.flush();
        }),
      'a nested transaction': (em, work) => em.transactional((tx) => tx.transactional(work)),
      'em.fork({ clear: false })': async (em, work) => {
        const fork = em.fork({ clear: false });
        await work(fork);
        await fork.flush();
      },
    };
    const marks = {
      ...ways,
      'verify() of what is found there': async (em: EntityManager) => verify(await em.findOneOrFail(Budget, 1)),
      'verify() of its reference': async (em: EntityManager) => verify(em.getReference(Budget, 1)),
    };
    for (const [where, run] of Object.entries(inside)) {
      for (const [name, ask] of Object.entries(marks)) {
        test(`${name} of a row that was loaded outside, in ${where}: verified by what is written there, and once`, async () => {
          const { fork, change } = await setUp();
          const em = fork();
          const budget = await em.findOneOrFail(Budget, 1);
          const spend = (id: number) =>
            run(em, async (tx) => {
              await ask(tx, budget);
              tx.create(Expense, { id, amount: 5 });
            });
          await spend(3);
          await change();
          // it was verified by what was written there
          (await em.findOneOrFail(Expense, 1)).amount = 1;
          await em.flush();
          const error = await thrown(() => spend(4));
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          expect(error).toMatchObject({ conflicts: [{ operation: 'check', expected: 1, actual: 2 }] });
          expect(await fork().count(Expense, {})).toBe(3);
        });
      }
    }

    test('a removed row is a conflict; nothing is verified twice', async () => {
      const { fork } = await setUp();
      const em = fork();
      const [one, two] = await em.find(Budget, {}, { orderBy: { id: 1 } });
      verify(one!);
      verify(two!);
      await fork().nativeDelete(Budget, 2);
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ primaryKey: 2, expected: 1, actual: null }],
      });
      em.clear();
      await em.flush();
    });

    test('a flush that fails leaves it pending; refresh() looks again', async () => {
      const { fork, change } = await setUp();
      const em = fork();
      const [budget, expense] = [await em.findOneOrFail(Budget, 1), await em.findOneOrFail(Expense, 1)];
      verify(budget);
      expense.amount = 5;
      await fork().nativeUpdate(Expense, 1, { amount: 1 });
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ entityName: 'Expense' }] });
      await em.refresh(expense);
      expense.amount = 5;
      await change();
      const again = async () =>
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ entityName: 'Budget', expected: 1 }] });
      await again();
      // reading it again by the way changes nothing of what was decided on
      await em.find(Budget, {});
      await again();
      await em.refresh(budget);
      await em.flush();
      expect(budget.version).toBe(2);
      await change();
      expense.amount = 6;
      await em.flush();
      expect(await fork().findOneOrFail(Expense, 1)).toMatchObject({ amount: 6, version: 4 });
    });

    test('a row that is written, touched or removed anyway is checked by its own statement', async () => {
      const { fork, kinds, change } = await setUp();
      for (const work of [
        (budget: { total: number }) => void (budget.total = 1),
        (budget: object) => touch(budget),
        (budget: { seen: number }) => void (budget.seen = 1),
      ]) {
        const em = fork();
        const budget = await em.findOneOrFail(Budget, 1);
        const { version } = budget;
        verify(budget);
        work(budget);
        expect(await kinds(() => em.flush())).not.toContain('select');
        expect(budget.version).toBe(version + 1);
        verify(budget);
        work(budget);
        budget.seen = 7;
        await change();
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ operation: 'update' }] });
      }
      const em = fork();
      const budget = await em.findOneOrFail(Budget, 1);
      verify(budget);
      em.remove(budget);
      expect(await kinds(() => em.flush())).not.toContain('select');
      expect(await fork().findOne(Budget, 1)).toBeNull();
    });

    test('statements: one per table that is read or written, in a transaction', async () => {
      const { fork, kinds, orm } = await setUp();
      const em = fork();
      const [one, two] = await em.find(Budget, {}, { orderBy: { id: 1 } });
      const expense = await em.findOneOrFail(Expense, 1);
      [one, two].forEach((budget) => verify(budget!));
      expect(await kinds(() => em.flush())).toEqual(['begin', 'select', 'commit']);
      expect(await kinds(() => em.flush())).toEqual([]);
      [one, two].forEach((budget) => verify(budget!));
      em.create(Expense, { id: 3, amount: 1 });
      expect(await kinds(() => em.flush())).toEqual(['begin', 'select', 'insert', 'commit']);
      verify(one!);
      two!.total = 7;
      expect(await kinds(() => em.flush())).toEqual(['begin', 'select', 'update', 'commit']);
      verify(one!);
      expense.amount = 7;
      const tables = dialectOf(orm.em.getPlatform())?.locksRows ? ['select', 'select'] : ['select'];
      expect(await kinds(() => em.flush())).toEqual(['begin', ...tables, 'update', 'commit']);
    });

    test('with implicitTransactions: false it has a transaction all the same, when it writes', async () => {
      const { fork, kinds } = await setUp({ implicitTransactions: false });
      const em = fork();
      verify(await em.findOneOrFail(Budget, 1));
      (await em.findOneOrFail(Expense, 1)).amount = 3;
      const sent = await kinds(() => em.flush());
      expect([sent[0], sent.at(-1)]).toEqual(['begin', 'commit']);
    });

    test('before em.transactional() and inside it', async () => {
      const { fork, change } = await setUp();
      const em = fork();
      const budget = await em.findOneOrFail(Budget, 1);
      await change();
      const write = (tx: EntityManager) => void tx.create(Expense, { id: 9, amount: 1 });
      verify(budget);
      await expect(em.transactional(write)).rejects.toBeInstanceOf(ConcurrentUpdate);
      em.clear();
      const old = await em.findOneOrFail(Budget, 1);
      await change();
      const inside = async (tx: EntityManager) => {
        verify(old);
        write(tx);
      };
      await expect(em.transactional(inside)).rejects.toBeInstanceOf(ConcurrentUpdate);
      expect(await fork().count(Expense, {})).toBe(2);
    });

    /** What a transaction has verified is to hold until its own COMMIT, whatever else has verified it meanwhile. */
    const transactions: Record<string, (tx: EntityManager, expense: { amount: number }) => Promise<unknown>> = {
      ...(driver.concurrent && {
        'a transaction of its own inside that flushes': (tx, expense) =>
          tx.transactional(async () => void expense.amount++, { propagation: TransactionPropagation.REQUIRES_NEW }),
        'a savepoint of a transaction of its own that flushes': (tx, expense) =>
          tx.transactional((own) => own.transactional(async () => void expense.amount++), {
            propagation: TransactionPropagation.REQUIRES_NEW,
          }),
        'a flush without a transaction inside': (tx, expense) =>
          tx.transactional(async () => void expense.amount++, { propagation: TransactionPropagation.NOT_SUPPORTED }),
        'a fork of it that flushes': async (tx, expense) => {
          expense.amount++;
          await tx.fork({ clear: false }).flush();
        },
      }),
      // what was locked stays so on MariaDB and MySQL, and somebody else would wait for ever
      ...((!driver.concurrent || !driver.keepsLocks) && {
        'a savepoint that rolls back after it has flushed': (tx, expense) =>
          thrown(() =>
            tx.transactional(async (inner) => {
              expense.amount++;
              await inner.flush();
              throw new Error('changed my mind');
            }),
          ),
      }),
    };
    for (const where of ['before', 'in'] as const) {
      for (const [name, flush] of Object.entries(transactions)) {
        test(`${where} a transaction, then ${name}: it is verified all the same`, async () => {
          const { fork, orm, change } = await setUp();
          const em = fork();
          const [budget] = await em.find(Budget, {}, { orderBy: { id: 'asc' } });
          const [expense, other] = await em.find(Expense, {}, { orderBy: { id: 'asc' } });
          const work = async (tx: EntityManager) => {
            if (where === 'in') {
              verify(budget!);
            }
            await flush(tx, other!);
            // where there is one connection, from inside
            await (driver.concurrent ? change() : tx.nativeUpdate(Budget, 1, { total: 50 }));
            expense!.amount = 90;
          };
          if (where === 'before') {
            verify(budget!);
          }
          const error = await thrown(() => em.transactional(work as never));
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          expect(error['conflicts']).toMatchObject([{ entity: budget, operation: 'check', expected: 1, actual: 2 }]);
          const read = orm.em.fork();
          expect((await read.findOneOrFail(Expense, 1)).amount).toBe(0);
        });
      }
    }

    test('a transaction that rolls back after it has flushed: what it verified is verified again', async () => {
      const { fork, change } = await setUp();
      const em = fork();
      const budget = await em.findOneOrFail(Budget, 1);
      const [expense, other] = await em.find(Expense, {}, { orderBy: { id: 'asc' } });
      verify(budget);
      await em.begin();
      other!.amount = 10;
      await em.flush();
      await em.rollback();
      await change();
      expense!.amount = 90;
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      await em.refresh(budget);
      await em.flush();
      // once
      await change();
      expense!.amount = 91;
      await em.flush();
      expect([budget.version, expense!.version, other!.version]).toEqual([2, 3, 1]);
    });

    test('verified in a transaction in which another one has failed, and that fails too: it stays pending', async () => {
      const { fork, change } = await setUp();
      const em = fork();
      const budget = await em.findOneOrFail(Budget, 1);
      const expense = await em.findOneOrFail(Expense, 1);
      const fail = async () => {
        throw new Error('changed my mind');
      };
      const work = async (tx: EntityManager) => {
        await thrown(() => tx.transactional(fail));
        verify(budget);
        await fail();
      };
      await thrown(() => em.transactional(work as never));
      await change();
      expense.amount = 90;
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ entityName: 'Budget', expected: 1 }] });
    });

    test('what cannot be verified is refused', async () => {
      const { fork } = await setUp();
      const em = fork();
      const plain = await em.findOneOrFail(Plain, 1);
      expect(() => verify(plain)).toThrow(/^Plain cannot be verified, because it has no VersionField/);
      expect(() => verify(em.create(Budget, { id: 7 }))).toThrow(ValidationError);
      expect(() => verify(fork().getReference(Budget, 1))).toThrow();
      const blind = await em.findOneOrFail(Budget, 1);
      blind.version = null as never;
      expect(() => verify(blind)).toThrow(VersionNotLoaded);
    });

    for (const inheritance of ['single-table', 'joined-table'] as const) {
      test(`${inheritance} inheritance`, async () => {
        class Animal {
          id!: number;
          name!: string;
          version!: Opt<number>;
        }
        class Dog extends Animal {
          bark!: string;
        }
        const base = defineEntity({
          class: Animal,
          ...(inheritance === 'joined-table' ? { inheritance: 'tpt' } : { discriminatorColumn: 'kind' }),
          properties: { id: p.integer().primary(), name: p.string(), version: p.type(VersionField) },
        } as never) as EntitySchema;
        const dog = defineEntity({
          class: Dog,
          extends: base,
          properties: { bark: p.string() },
        } as never) as EntitySchema;
        const { fork } = await open(driver, [base, dog]);
        const seed = fork();
        [1, 2].forEach((id) => seed.create(Dog, { id, name: 'Rex', bark: 'wow' }));
        await seed.flush();
        const em = fork();
        const [a, b] = await em.find(Dog, {}, { orderBy: { id: 1 } });
        verify(a!);
        b!.bark = 'wif';
        await em.flush();
        expect([a!.version, b!.version]).toEqual([1, 2]);
        const rival = fork();
        (await rival.findOneOrFail(Dog, 1)).bark = 'theirs';
        await rival.flush();
        verify(a!);
        b!.bark = 'ours';
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, operation: 'check' }] });
      });
    }

    test('composite keys, of which a part is a relation', async () => {
      const { fork, Rating } = await openRatings(driver, new VersionField());
      const em = fork();
      const ratings = await em.find(Rating, {}, { orderBy: { by: 1 } });
      const [ann, bob, cid] = ratings as [(typeof ratings)[0], (typeof ratings)[0], (typeof ratings)[0]];
      [ann, bob].forEach((rating) => verify(rating));
      cid.stars = 4;
      await em.flush();
      expect(ratings.map(({ version }) => version)).toEqual([1, 1, 2]);
      await fork().nativeUpdate(Rating, { product: 1, by: 'bob' }, { stars: 5 });
      [ann, bob].forEach((rating) => verify(rating));
      cid.stars = 5;
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ primaryKey: { by: 'bob' }, operation: 'check', expected: 1, actual: 2 }],
      });
      expect((await fork().findOneOrFail(Rating, { by: 'cid' })).stars).toBe(4);
    });

    test('an EntitySchema, in a schema of its own', async () => {
      const schema = `north_${randomUUID().slice(0, 8)}`;
      const Fixed = new EntitySchema<{ id: number; title: string; version: Opt<number> }>({
        name: 'Fixed',
        schema,
        properties: {
          id: { type: 'integer', primary: true, autoincrement: false },
          title: { type: 'string' },
          version: { type: VersionField },
        },
      });
      const { fork } = await open(driver, [Fixed], await driver.schemas([schema]));
      const em = fork();
      const [read, written] = [1, 2].map((id) => em.create(Fixed, { id, title: 'old' }));
      await em.flush();
      verify(read!);
      written!.title = 'new';
      await em.flush();
      expect([read!.version, written!.version]).toEqual([1, 2]);
      await fork().nativeUpdate(Fixed, 1, { title: 'theirs' });
      verify(read!);
      written!.title = 'newer';
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ primaryKey: 1, operation: 'check', expected: 1, actual: 2 }],
      });
    });

    for (const stale of [false, true]) {
      test(`rows whose unique values move: ${stale ? 'compared' : 'one bump'}, as without verify()`, async () => {
        const { fork } = await open(driver, [Room]);
        await fork().insertMany(Room, [
          { id: 1, tenant: 'ann' },
          { id: 2, tenant: 'bob' },
          { id: 3, tenant: null },
          { id: 4, tenant: null },
        ]);
        const em = fork();
        const rooms = await em.find(Room, {}, { orderBy: { id: 1 } });
        const [a, b, c, d] = rooms as [(typeof rooms)[0], (typeof rooms)[0], (typeof rooms)[0], (typeof rooms)[0]];
        [a.tenant, b.tenant, c.tenant, d.tenant] = [null, null, 'ann', 'bob'];
        rooms.forEach((room) => verify(room));
        if (stale) {
          await fork().nativeUpdate(Room, 2, { version: 5 });
          expect(await thrown(() => em.flush())).toMatchObject({
            conflicts: [{ primaryKey: 2, expected: 1, actual: 5 }],
          });
          await em.refresh(b);
          b.tenant = null;
        }
        await em.flush();
        const stored = await fork().find(Room, {}, { orderBy: { id: 1 } });
        expect(stored.map(({ version }) => version)).toEqual(stale ? [2, 6, 2, 2] : [2, 2, 2, 2]);
        expect(rooms.map(({ version }) => version)).toEqual(stored.map(({ version }) => version));
      });
    }

    /** At least one of two doctors is on call. Returns how often none was, and what the databases said to races. */
    const onCall = async (ask: (other: object) => void) => {
      const { fork } = await setUp({ pool: { min: 0, max: WORKERS } });
      await fork().insertMany(
        Doctor,
        [1, 2].map((id) => ({ id, onCall: true })),
      );
      let [violations, saved] = [0, 0];
      const causes: unknown[] = [];
      const work = async (worker: number) => {
        for (let i = 0; i < ROUNDS; i++) {
          const em = fork();
          const doctors = await em.find(Doctor, {}, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
          const [mine, other] = doctors as [(typeof doctors)[0], (typeof doctors)[0]];
          if (!mine.onCall && !other.onCall) {
            violations++;
          }
          if (mine.onCall && other.onCall) {
            ask(other);
            mine.onCall = false;
          } else {
            doctors.forEach((doctor) => (doctor.onCall = true));
          }
          await setTimeout(1);
          const failed = ({ cause }: ConcurrentUpdate) => void (cause && causes.push(cause));
          await em.flush().then(() => saved++, failed);
        }
      };
      await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
      return { violations, saved, causes };
    };

    test(`on call: ${WORKERS} workers, 0 violations and 0 deadlocks`, async () => {
      const { violations, saved, causes } = await onCall(verify);
      expect([violations, causes]).toEqual([0, []]);
      expect(saved).toBeGreaterThan(0);
    });

    test('the same without verify(): there are violations', async () => {
      expect((await onCall(() => {})).violations).toBeGreaterThan(0);
    });
  });

  describeWhere(driver.concurrent)('what is verified stays until COMMIT', () => {
    test('somebody who changes it waits, and is saved after', async () => {
      const { fork, change } = await setUp();
      const events: string[] = [];
      let changing: Promise<unknown> | undefined;
      await fork().transactional(async (em) => {
        verify(await em.findOneOrFail(Budget, 1));
        await em.flush();
        changing = change().then(() => events.push('changed'));
        await setTimeout(100);
        events.push('committed');
      });
      await changing;
      expect(events).toEqual(['committed', 'changed']);
    });

    test('flushes of which each verifies what the other one writes, in two tables, do not deadlock', async () => {
      const { fork } = await setUp({ pool: { min: 0, max: WORKERS } });
      const causes: unknown[] = [];
      const work = async (worker: number) => {
        for (let i = 0; i < ROUNDS; i++) {
          const em = fork();
          const budgets = await em.find(Budget, {}, { orderBy: { id: 1 } });
          const expenses = await em.find(Expense, {}, { orderBy: { id: 1 } });
          (worker % 2 ? budgets : expenses).forEach((entity) => verify(entity));
          (worker % 2 ? expenses : budgets).forEach((entity) => touch(entity));
          await em.flush().catch(({ cause }: ConcurrentUpdate) => void (cause && causes.push(cause)));
        }
      };
      await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
      expect(causes).toEqual([]);
    });
  });
}
