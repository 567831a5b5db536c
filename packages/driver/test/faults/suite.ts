/**
 * Every statement of a flush fails in every way: memory and database stay in step, the error says what is known, and
 * flushing again writes what was meant to be written, once.
 */
import { type EntityManager, type InferEntity, defineEntity, p } from '@mikro-orm/core';
import { CommitOutcomeUnknown, ConcurrentUpdate, VersionField } from '@mikro-ool/core';
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
  /** The same EntityManager has everything that is still to be written. */
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
    const db = await open(driver, [Item], connection.options);
    const execute = (sql: string) => db.fork().getConnection().execute<Record<string, number>[]>(sql);
    const state = async (): Promise<State> => {
      const rows = await execute('select id, n, version from item');
      return Object.fromEntries(rows.map((row) => [row.id, `n${row.n} v${row.version}`]));
    };
    const load = async () => {
      await execute('delete from item');
      await execute('insert into item (id, n, version) values (1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1), (5, 0, 1)');
      const em: EntityManager = db.fork();
      return { em, items: await em.find(Item, [1, 2, 3, 5], { orderBy: { id: 'asc' } }) };
    };
    /** All points where a fault may strike, for the statements that are sent when it does not. */
    const points = async (run: () => Promise<unknown>) => {
      connection.arm();
      await run();
      connection.disarm();
      const all = [...connection.sent];
      return (fault: Fault) =>
        all.flatMap((sql, at) => {
          const commits = sql === 'commit' || all.length === 1;
          const point = { at, commits, label: `${fault.name} at ${at} of ${all.join('; ')}` };
          return [
            { ...point, when: 'before' as const },
            // an answer that is lost: to any statement but a COMMIT it makes no difference
            ...(commits && fault.losesAnswer ? [{ ...point, when: 'after' as const }] : []),
          ];
        });
    };
    return { ...db, connection, state, load, points };
  };

  const checkError = (
    error: unknown,
    fault: Fault,
    { commits, inFlush, label }: Record<'commits' | 'inFlush', boolean> & { label: string },
  ) => {
    const isUnknown = commits && fault.losesAnswer === 'unknown';
    const isLostRace = inFlush && fault.isLostRace === true;
    expect([error instanceof CommitOutcomeUnknown, error instanceof ConcurrentUpdate], label).toEqual([
      isUnknown,
      isLostRace,
    ]);
    if (isUnknown || isLostRace) {
      expect((error as Error).cause, label).toBeInstanceOf(Error);
    }
  };

  describe.each(kinds.flatMap((fault) => [{ fault }, { fault, rollbackFault: fault }]))(
    '$fault.name, and at ROLLBACK: $rollbackFault.name',
    ({ fault, rollbackFault }) => {
      for (const change of changes) {
        for (const shape of shapes) {
          test(`${shape.name}, ${change.name}`, async () => {
            const { connection, state, load, points, sent, fork } = await setUp();
            const first = await load();
            const find = await points(() => shape.run(first.em, (em) => change.apply(em, first.items)));
            expect(await state()).toEqual(change.after);
            for (const point of find(fault)) {
              const { label, when } = point;
              const { em, items } = await load();
              connection.arm({ ...point, fault }, rollbackFault);
              const error = await thrown(() => shape.run(em, (tx) => change.apply(tx, items)));
              connection.disarm();
              checkError(error, fault, { ...point, inFlush: point.at >= shape.opening });
              expect(await state(), label).toEqual(when === 'after' ? change.after : BEFORE);
              expect(
                items.map((item) => item.version),
                label,
              ).toEqual([1, 1, 1, 1]);
              if (when === 'after') {
                // it is in the database already, so trying again fails closed
                expect(await thrown(() => em.flush()), label).not.toBeInstanceOf(CommitOutcomeUnknown);
              } else if (shape.resumes) {
                await em.flush();
                expect(await sent(() => em.flush()), label).toEqual([]);
                expect(items[0]!.version, label).toBe(2);
              } else {
                const again: EntityManager = fork();
                const read = await again.find(Item, [1, 2, 3, 5], { orderBy: { id: 'asc' } });
                await shape.run(again, (tx) => change.apply(tx, read));
              }
              expect(await state(), label).toEqual(change.after);
            }
          });
        }

        for (const goesOn of ['flushes again', 'clears']) {
          test(`${change.name}, in a transaction that catches the error and ${goesOn}`, async () => {
            const { connection, state, load, points } = await setUp();
            /** Writes item 5, and then the others. */
            const run = ({ em, items }: Awaited<ReturnType<typeof load>>) =>
              em.transactional(async (tx) => {
                items[3]!.n++;
                await tx.flush();
                change.apply(tx, items);
                await tx.flush().catch(() => goesOn === 'clears' && tx.clear());
              });
            const dry = await load();
            const find = await points(() => run(dry));
            const after = { ...change.after, 5: 'n1 v2' };
            expect(await state()).toEqual(after);
            for (const point of find(fault)) {
              const loaded = await load();
              connection.arm({ ...point, fault }, rollbackFault);
              const [result] = await Promise.allSettled([run(loaded)]);
              connection.disarm();
              const now = await state();
              if (result!.status === 'fulfilled') {
                // the one flush has stayed, and the other in whole or not at all
                expect(
                  [after, ...(goesOn === 'clears' ? [{ ...BEFORE, 5: 'n1 v2' }] : [])],
                  point.label,
                ).toContainEqual(now);
              } else {
                expect(now, point.label).toEqual(point.when === 'after' ? after : BEFORE);
                expect(
                  loaded.items.map((item) => item.version),
                  point.label,
                ).toEqual([1, 1, 1, 1]);
              }
              for (const { id, version } of result!.status === 'fulfilled' ? loaded.items : []) {
                expect(now[id]?.endsWith(`v${version}`) ?? true, `${id} of ${point.label}`).toBe(true);
              }
            }
          });
        }
      }
    },
  );
}
