/**
 * Each form of the statements that write rows, forced upon any number of them: workers update the same rows, and delete
 * them and insert them again. No update is lost, no row is deleted that has changed, nobody deadlocks.
 */
import { type IsolationLevel, type Options, raw } from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import type { BatchRows, BatchUpdate, Dialect, Statement } from '../src/write/dialects/dialect.ts';
import { Counter, withCounters } from './counters.ts';
import { type Database, type TestDriver, untilNoticed, withoutLock } from './harness.ts';
import { Tally, type Values, takeTurn } from './turn.ts';

const WORKERS = 8;

export interface Form {
  readonly name: string;
  /** How many rows. */
  readonly sizes: readonly number[];
  /** Makes it be taken, until the test ends. */
  force?(): void;
  readonly options?: Partial<Options>;
  /** How 1 is added. */
  readonly change?: (counter: Values) => void;
  /** What its UPDATE and its DELETE look like; absent where one of several is taken. */
  readonly looks?: Record<'update' | 'delete', RegExp>;
}

export interface Server {
  readonly driver: TestDriver;
  readonly dialect: Dialect;
  readonly levels: readonly IsolationLevel[];
  /** What a session starts with, to have this level. */
  session(level: IsolationLevel): string[];
  /** How many deadlocks it has seen. */
  countDeadlocks(em: SqlEntityManager): Promise<number>;
  readonly together: readonly Form[];
  readonly rowByRow: readonly Form[];
  /** The UPDATE of a batch as it must not be: it locks its rows in another order each time. */
  disordered(update: Dialect['update'], batch: BatchUpdate): Statement;
}

interface Connection {
  executeQuery(query: { sql: string; parameters: []; query: { kind: string } }): Promise<unknown>;
}

/** Whether a transaction is around the one statement of a flush: somebody who listens to transactions makes one. */
const SENDINGS: Record<string, Partial<Options>> = {
  'without a transaction': { batchSize: 600 },
  'in a transaction': { subscribers: [{ beforeTransactionStart() {} } as never] },
};

/** What no list of values can carry is left to MikroORM. */
export function addByExpression(counter: Values): void {
  counter.n = raw('?', [counter.n + 1]) as never;
}

export function stormOfForms(server: Server): void {
  const { driver, dialect } = server;

  const setUp = async (level: IsolationLevel, rows: number, more?: Partial<Options>) => {
    const db = await withCounters(driver, rows, {
      pool: { min: 0, max: WORKERS },
      onCreateConnection: async (connection: unknown) => {
        for (const sql of server.session(level)) {
          await (connection as Connection).executeQuery({ sql, parameters: [], query: { kind: 'RawNode' } });
        }
      },
      ...more,
    });
    db.orm.config.getLogger().setDebugMode(false); // of what a race sends, nobody reads the lists
    return db;
  };

  const withoutDeadlock = async ({ fork }: Database, work: () => Promise<void>) => {
    const before = await server.countDeadlocks(fork());
    await work();
    expect((await server.countDeadlocks(fork())) - before, 'deadlocks').toBe(0);
  };

  for (const level of server.levels) {
    describe(level, () => {
      for (const [sending, options] of Object.entries(SENDINGS)) {
        for (const form of server.together) {
          test(`${form.name}, ${sending}: nothing is lost, and nobody deadlocks`, async ({ annotate }) => {
            form.force?.();
            const db = await setUp(level, Math.max(...form.sizes), options);
            await looksLike(db, form, sending);
            await withoutDeadlock(db, () => rage(db, form, annotate));
            await looksLike(db, form, sending);
          });
        }
      }

      for (const form of server.rowByRow) {
        test(`${form.name}: nothing is lost, and nobody deadlocks`, async ({ annotate }) => {
          const db = await setUp(level, Math.max(...form.sizes), form.options);
          await withoutDeadlock(db, () => rage(db, form, annotate));
        });
      }
    });
  }

  describe('would be noticed', () => {
    const [level] = server.levels as [IsolationLevel];
    const single = server.together.filter(({ looks }) => looks);

    for (const [sending, options] of Object.entries(SENDINGS)) {
      for (const form of single) {
        for (const kind of ['update', 'delete'] as const) {
          test(`${form.name}, ${sending}, if its ${kind.toUpperCase()} did not compare versions`, async () => {
            form.force?.();
            const write = dialect[kind] as (rows: BatchRows, alone?: boolean) => Statement;
            replace(dialect, kind, (rows, alone) => write.call(dialect, { ...rows, uncovered: true }, alone));
            const db = await setUp(level, 5, options);
            const deletes = kind === 'delete';
            expect(await lostInRaces(db, { ...form, rows: 5, waves: 4, deletes })).toBeGreaterThan(0);
          });
        }
      }
    }

    test('a single row, if there were no lock', async () => {
      const db = await setUp(level, 1, withoutLock(driver));
      expect(await lostInRaces(db, { rows: 1, waves: 4, deletes: false })).toBeGreaterThan(0);
    });

    for (const form of single) {
      test(`${form.name}, if it did not lock in the order of keys`, async () => {
        form.force?.();
        const { update } = dialect;
        replace(dialect, 'update', (batch) => server.disordered(update, batch as BatchUpdate));
        const db = await setUp(level, 50, SENDINGS['in a transaction']);
        const before = await server.countDeadlocks(db.fork());
        const deadlocks = async () => {
          await race(db, { ...form, rows: 50, waves: 2, deletes: false });
          return (await server.countDeadlocks(db.fork())) - before;
        };
        expect(await untilNoticed(deadlocks)).toBeGreaterThan(0);
      });
    }
  });
}

/** How many updates the first race of several has lost that has lost any. */
function lostInRaces(db: Database, options: Race): Promise<number> {
  const tally = new Tally();
  return untilNoticed(async () => lostIn(db, options.rows, await race(db, options, tally)));
}

function replace(dialect: Dialect, kind: 'update' | 'delete', write: Dialect['delete']): void {
  const spy = vi.spyOn(dialect, kind).mockImplementation(write);
  onTestFinished(() => spy.mockRestore());
}

/** Is this the form that is sent, and in such a way? Leaves the rows as they were. */
async function looksLike({ orm, fork, sent }: Database, { looks }: Form, sending: string): Promise<void> {
  if (!looks) {
    return;
  }
  const logger = orm.config.getLogger();
  logger.setDebugMode(['query']);
  const isAlone = sending === 'without a transaction';
  const em = fork();
  const counters = await em.find(Counter, [1, 2]);
  const before = counters.map(({ id, n, version }) => ({ id, n, version }));
  counters.forEach((counter) => counter.n++);
  const statements = { update: await sent(() => em.flush()), delete: await sent(() => em.remove(counters).flush()) };
  for (const kind of ['update', 'delete'] as const) {
    expect(statements[kind].length).toBe(isAlone ? 1 : 3);
    expect(statements[kind][isAlone ? 0 : 1]).toMatch(looks[kind]);
  }
  logger.setDebugMode(false);
  await fork().insertMany(Counter, before);
}

interface Race extends Pick<Form, 'change'> {
  readonly rows: number;
  /** How often all workers start at once. What a wave has deleted is inserted again after it. */
  readonly waves: number;
  /** A third of the flushes delete. */
  readonly deletes: boolean;
}

const TURNS = 3;

async function race({ fork }: Database, { rows, waves, deletes, change }: Race, tally = new Tally()): Promise<Tally> {
  const work = async (worker: number): Promise<Values[]> => {
    const deleted: Values[] = [];
    for (let i = 0; i < TURNS; i++) {
      const isDelete = deletes && (worker + i) % TURNS === 0;
      deleted.push(...(await takeTurn(fork(), Counter, { rows, isDelete, isReversed: worker % 2 > 0, change }, tally)));
    }
    return deleted;
  };
  for (let wave = 0; wave < waves; wave++) {
    const deleted = (await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)))).flat();
    await (deleted.length > 0 && fork().insertMany(Counter, deleted));
  }
  return tally;
}

/** Races of all sizes; every flush that succeeded is in the database, once. */
async function rage(db: Database, { sizes, change }: Form, annotate: (text: string) => unknown) {
  const all = new Tally();
  for (const rows of sizes) {
    for (const deletes of [false, true]) {
      const { saved, deleted, conflicts } = all;
      await race(db, { rows, waves: rows > 50 ? 1 : 2, deletes, change }, all);
      expect(await lostIn(db, Math.max(...sizes), all), 'lost').toBe(0);
      await annotate(
        `${rows} rows: ${all.saved - saved} saved, ${all.deleted - deleted} deleted, ${all.conflicts - conflicts} conflicts`,
      );
    }
  }
  expect(all.saved, 'nothing was updated').toBeGreaterThan(0);
  expect(all.deleted, 'nothing was deleted').toBeGreaterThan(0);
  expect(all.conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
  for (const { id, version } of await stored(db)) {
    expect([id, version - 1]).toEqual([id, (all.bumps.get(id) ?? 0) + (all.deletions.get(id) ?? 0)]);
  }
}

/** How many updates of a row succeeded and are not in it. */
async function lostIn(db: Database, rows: number, { bumps }: Tally): Promise<number> {
  const counters = await stored(db);
  expect(counters.length).toBe(rows);
  return counters.reduce((lost, { id, n }) => lost + Math.abs((bumps.get(id) ?? 0) - n), 0);
}

/** All rows as the database has them; entities of them would cost more than the race. */
function stored({ fork }: Database): Promise<Values[]> {
  return fork().getConnection().execute('select id, n, version from counter');
}
