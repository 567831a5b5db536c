/**
 * Every statement of a flush fails in every way: memory and database stay in step, the error says what is known, and
 * flushing again writes what was meant to be written, once.
 */
import { type EntityManager, type InferEntity, defineEntity, p } from '@mikro-orm/core';
import { CommitOutcomeUnknown, ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';
import { type Fault, FaultyConnection } from './connection.ts';

const Item = defineEntity({
  name: 'Item',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});
type Items = InferEntity<typeof Item>[];
type Work = (em: EntityManager) => unknown;

/** `n` and `version` of each item, by id; items 1 to 5 are there, and 1, 2, 3 and 5 are loaded. */
type State = Record<number, string>;
const BEFORE: State = { 1: 'n0 v1', 2: 'n0 v1', 3: 'n0 v1', 4: 'n0 v1', 5: 'n0 v1' };

/** What a flush writes. */
interface Change {
  readonly name: string;
  apply(em: EntityManager, items: Items): void;
  readonly after: State;
}
const changes: Change[] = [
  {
    name: 'one row',
    apply: (_, [a]) => void a!.n++,
    after: { ...BEFORE, 1: 'n1 v2' },
  },
  {
    name: 'a batch',
    apply: (_, items) => items.slice(0, 3).forEach((item) => item.n++),
    after: { ...BEFORE, 1: 'n1 v2', 2: 'n1 v2', 3: 'n1 v2' },
  },
  {
    name: 'insert, claim, update, delete',
    apply(em, [a, b, c]) {
      em.create(Item, { id: 9 });
      em.assign(em.getReference(Item, 4), { version: 1 });
      a!.n++;
      b!.n++;
      em.remove(c!);
    },
    after: { 1: 'n1 v2', 2: 'n1 v2', 4: 'n0 v1', 5: 'n0 v1', 9: 'n0 v1' },
  },
];

/** How it is flushed. */
interface Shape {
  readonly name: string;
  run(em: EntityManager, work: Work): Promise<unknown>;
  /** The same EntityManager has everything that is still to be written, or can do it again. */
  readonly resumes: boolean;
  /** How many statements come before the flush: a race that is lost there has nothing to do with versions. */
  readonly opening: number;
}
const shapes: Shape[] = [
  {
    name: 'em.flush',
    async run(em, work) {
      work(em);
      await em.flush();
    },
    resumes: true,
    opening: 0,
  },
  {
    name: 'em.transactional',
    run: (em, work) => em.transactional(async (tx) => void work(tx)),
    resumes: false,
    opening: 1,
  },
  {
    name: 'em.transactional in em.transactional',
    run: (em, work) => em.transactional((tx) => tx.transactional(async (inner) => void work(inner))),
    resumes: false,
    opening: 2,
  },
  {
    name: 'em.begin',
    async run(em, work) {
      work(em);
      await em.begin();
      try {
        await em.commit();
      } catch (error) {
        // MikroORM keeps a transaction that cannot be rolled back
        await em.rollback().catch(() => em.resetTransactionContext());
        throw error;
      }
    },
    resumes: true,
    opening: 1,
  },
];

export function faults(driver: TestDriver, kinds: readonly Fault[]): void {
  const setUp = async () => {
    const connection = new FaultyConnection();
    // connections die by the hundred, and Kysely would keep them
    const onPool = versioned(resilient(driver.plain as DriverClass)) as never;
    const db = await open(driver, [Item], { ...connection.options, driver: onPool });
    // what MikroORM asks the server before the first INSERT, and only then
    await db.fork().insertMany(Item, [{ id: 100 }]);
    const connected = db.fork().getConnection();
    const execute = (sql: string) => connected.execute<Record<string, number>[]>(sql);
    const state = async (): Promise<State> => {
      const rows = await execute('select id, n, version from item');
      return Object.fromEntries(rows.map((row) => [row.id, `n${row.n} v${row.version}`]));
    };
    const load = async () => {
      await execute('delete from item');
      await execute('insert into item (id, n, version) values (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1), (5, 0, 1)');
      return find(db.fork());
    };
    /** Nothing fails any more. */
    const calm = async () => {
      connection.disarm();
      // pg hands out a connection until it has noticed that the server ended it
      for (let i = 0; i < 2; i++) {
        await execute('select 1').catch(() => {});
      }
    };
    /** All points where a fault may strike, from the statements that are sent when it does not. */
    const points = async (fault: Fault, name: string, run: (loaded: Loaded) => Promise<unknown>) => {
      const loaded = await load();
      connection.arm();
      await run(loaded);
      connection.disarm();
      const all = connection.sent;
      return all.flatMap((sql, at) => {
        const commits = sql === 'commit' || all.length === 1;
        // an answer that is lost: to any statement but a COMMIT it makes no difference
        const whens = commits && fault.losesAnswer ? (['before', 'after'] as const) : (['before'] as const);
        return whens.map((when) => ({ at, when, commits, label: `${name}: ${when} ${at} of ${all.join('; ')}` }));
      });
    };
    return { ...db, connection, state, load, calm, points };
  };
  type Loaded = Awaited<ReturnType<typeof find>>;
  const find = async (em: EntityManager) => ({
    em,
    items: await em.find(Item, [1, 2, 3, 5], { orderBy: { id: 'asc' } }),
  });
  const versions = (items: Items) => items.map((item) => item.version);

  describe.each<{ fault: Fault; rollbackFault?: Fault }>(
    kinds.flatMap((fault) => [{ fault }, { fault, rollbackFault: fault }]),
  )('$fault.name, at any statement, and at the ROLLBACK: $rollbackFault.name', ({ fault, rollbackFault }) => {
    test('memory and database stay in step, the error says what is known, trying again writes once', async () => {
      const { connection, state, load, calm, points, sent, fork } = await setUp();
      for (const change of changes) {
        for (const shape of shapes) {
          const run = ({ em, items }: Loaded) => shape.run(em, (tx) => change.apply(tx, items));
          for (const point of await points(fault, `${shape.name}, ${change.name}`, run)) {
            const { label } = point;
            const loaded = await load();
            const { em, items } = loaded;
            connection.arm({ ...point, fault }, rollbackFault);
            const error = await thrown(() => run(loaded));
            await calm();

            const isUnknown = point.commits && fault.losesAnswer === 'unknown';
            const isLostRace = point.at >= shape.opening && fault.isLostRace === true;
            expect([error instanceof CommitOutcomeUnknown, error instanceof ConcurrentUpdate], label).toEqual([
              isUnknown,
              isLostRace,
            ]);
            expect(error.cause instanceof Error, label).toBe(isUnknown || isLostRace);
            expect(await state(), label).toEqual(point.when === 'after' ? change.after : BEFORE);
            expect(versions(items), label).toEqual([1, 1, 1, 1]);

            // the COMMIT was not that of the flush, which had succeeded
            const isDiscarded = point.commits && shape.opening > 0;
            if (isDiscarded) {
              expect(
                items.map((item) => item.n),
                label,
              ).toEqual([0, 0, 0, 0]);
              expect(await sent(() => em.flush()), label).toEqual([]);
            }
            if (point.when === 'after') {
              // it is in the database already, so trying again fails closed
              const again = () => (isDiscarded ? run(loaded) : em.flush());
              expect(await thrown(again), label).not.toBeInstanceOf(CommitOutcomeUnknown);
            } else if (shape.resumes) {
              await (isDiscarded ? run(loaded) : em.flush());
              expect(await sent(() => em.flush()), label).toEqual([]);
              expect(items[0]!.version, label).toBe(2);
            } else {
              await run(await find(fork()));
            }
            expect(await state(), label).toEqual(change.after);
          }
        }
      }
    });

    test('caught in a transaction that goes on: its COMMIT stands for all that is not reported as failed', async () => {
      const { connection, state, load, calm, points } = await setUp();
      for (const change of changes) {
        for (const goesOn of ['flushes again', 'clears']) {
          /** Writes item 5, and then the others. */
          const run = ({ em, items }: Loaded) =>
            em.transactional(async (tx) => {
              items[3]!.n++;
              await tx.flush();
              change.apply(tx, items);
              await tx.flush().catch(() => goesOn === 'clears' && tx.clear());
            });
          const after = { ...change.after, 5: 'n1 v2' };
          for (const point of await points(fault, `${change.name}, ${goesOn}`, run)) {
            const { label } = point;
            const loaded = await load();
            connection.arm({ ...point, fault }, rollbackFault);
            const [result] = await Promise.allSettled([run(loaded)]);
            await calm();
            const now = await state();
            if (result.status === 'rejected') {
              expect(now, label).toEqual(point.when === 'after' ? after : BEFORE);
              expect(versions(loaded.items), label).toEqual([1, 1, 1, 1]);
            } else {
              // the first flush has stayed, and the second one in whole or, when it was cleared, not at all
              const part = { ...BEFORE, 5: 'n1 v2' };
              expect(goesOn === 'clears' ? [after, part] : [after], label).toContainEqual(now);
              for (const { id, version } of loaded.items.filter((item) => now[item.id])) {
                expect(now[id], label).toMatch(new RegExp(`v${version}$`));
              }
            }
          }
        }
      }
    });
  });

  test('increments through faults at random: what was reported as done is in the database, once', async () => {
    const { connection, state, load, calm, fork } = await setUp();
    await load();
    const random = randomness(1);
    let done = 0;
    const outcomes = new Set<string>();
    for (let i = 0; i < 200; i++) {
      const { em, items } = await find(fork());
      const shape = shapes[random(shapes.length)]!;
      const before = items[0]!.version;
      connection.arm({ at: random(5), when: random(2) ? 'before' : 'after', fault: kinds[random(kinds.length)]! });
      const [result] = await Promise.allSettled([shape.run(em, () => items.slice(0, 3).forEach((item) => item.n++))]);
      await calm();
      const [{ version }] = (await find(fork())).items as [Items[0]];
      outcomes.add(result.status === 'fulfilled' ? 'done' : (result.reason as Error).constructor.name);
      if (result.status === 'fulfilled') {
        expect(version).toBe(before + 1);
      } else {
        expect(versions(items.slice(0, 3))).toEqual([before, before, before]);
      }
      done += version - before;
    }
    expect(outcomes.size).toBeGreaterThan(2);
    expect(await state()).toEqual({
      ...BEFORE,
      ...Object.fromEntries([1, 2, 3].map((id) => [id, `n${done} v${done + 1}`])),
    });
  });
}

/** Numbers below a bound, the same ones for the same seed. */
function randomness(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % bound;
  };
}
