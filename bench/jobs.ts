/** What is measured: every job on every contender that can do it. */
import {
  type Contender,
  FIRST_THREE,
  type Loaded,
  MIXED,
  NARROW,
  type Row,
  type Server,
  type Session,
  type Table,
  WIDE,
  change,
  columnNames,
  valueOf,
} from './contender.ts';
import { drizzle } from './contenders/drizzle.ts';
import { listened } from './contenders/listened.ts';
import { mikroOrm } from './contenders/mikro-orm.ts';
import { sequelize } from './contenders/sequelize.ts';
import { handWritten } from './contenders/sql.ts';
import { typeorm } from './contenders/typeorm.ts';
import { withoutUndo } from './contenders/without-undo.ts';
import { fill, pick } from './database.ts';
import type { Plan, Task } from './measure.ts';

export const OURS = 'mikro-ool';
export const BUILT_IN = 'MikroORM, version: true';
export const UNLOCKED = 'MikroORM, unlocked';
export const LIMIT = handWritten.name;

const ours = mikroOrm('mikro-ool', OURS);
const builtIn = mikroOrm('version: true', BUILT_IN);
const unlocked = mikroOrm('unlocked', UNLOCKED);
/** Rows without a version on a driver that checks versions. */
const wrapped = mikroOrm('unlocked, wrapped', `${UNLOCKED}, driver wrapped`);
const onResilientPool = mikroOrm('mikro-ool, resilient', `${OURS}, resilient pool`);
const guarded = mikroOrm('mikro-ool, guarded', `${OURS}, guarded`);
/** Those that `--quick` compares. */
export const QUICK = new Set([ours, wrapped, onResilientPool, unlocked]);
export const CONTENDERS = [ours, builtIn, unlocked, sequelize, typeorm, drizzle, handWritten];

export interface Job {
  readonly title: string;
  readonly sizes: readonly number[];
  /** The sizes that `--quick` measures. */
  readonly quick?: readonly number[];
  readonly contenders: readonly Contender[];
  readonly servers: readonly Server['kind'][];
  /** Through a proxy that adds 1 ms in each direction. */
  readonly distant?: boolean;
  task(name: string, session: Session, n: number): Task;
}

const BOTH = ['postgresql', 'sqlite'] as const;

function update(table: Table, columns: (row: number) => readonly number[]): Job['task'] {
  return (name, session, n) => ({
    name,
    async prepare(round) {
      const loaded = await loadAll(session, table, pick(n, round));
      change(loaded.rows, nextSeed(n), columns);
      return () => loaded.update();
    },
  });
}

/** A contender that has nothing to write would win. */
async function loadAll(session: Session, table: Table, ids: readonly number[]): Promise<Loaded> {
  const loaded = await session.load(table, ids);
  if (loaded.rows.length !== ids.length) {
    throw new Error(`${loaded.rows.length} of ${ids.length} rows were there`);
  }
  return loaded;
}

// above all ids, which the tables were filled with
let seed = 1_000_000;
function nextSeed(n: number): number {
  const first = seed;
  seed += n;
  return first;
}

const remove: Job['task'] = (name, session, n) => ({
  name,
  async prepare(round) {
    const ids = pick(n, round);
    await fill(session, NARROW, ids);
    const loaded = await loadAll(session, NARROW, ids);
    return () => loaded.remove();
  },
});

/** Rows that are not there yet, above all others. */
const insert: Job['task'] = (name, session, n) => ({
  name,
  async prepare() {
    await session.execute('delete from narrow where id > 1000000');
    const first = nextSeed(n);
    const rows = Array.from({ length: n }, (_, i) => {
      const values = columnNames(NARROW).map((column, c) => [column, valueOf(c, first + i)]);
      return { id: first + i, version: 1, ...Object.fromEntries(values) } as Row;
    });
    return session.orm!.create(NARROW, rows);
  },
});

const emptyTransactions: Job['task'] = (name, { orm }, n) => ({
  name,
  prepare: async () => async () => {
    for (let i = 0; i < n; i++) {
      await orm!.emptyTransaction();
    }
  },
});

const forks: Job['task'] = (name, { orm }, n) => ({
  name,
  prepare: async () => async () => {
    for (let i = 0; i < n; i++) {
      orm!.fork();
    }
  },
});

const load: Job['task'] = (name, session, n) => ({
  name,
  prepare: async (round) => () => session.load(NARROW, pick(n, round)),
});

/** One of the rows is stale; the others must not be written either. */
const conflict: Job['task'] = (name, session, n) => ({
  name,
  async prepare(round) {
    const ids = pick(n, round);
    const loaded = await loadAll(session, NARROW, ids);
    change(loaded.rows, nextSeed(n), FIRST_THREE);
    await session.execute(`update narrow set version = version + 1 where id = ${ids[n >> 1]}`);
    return () =>
      loaded.update().then(
        () => {
          throw new Error(`${name} overwrote a stale row`);
        },
        () => {},
      );
  },
});

export const JOBS: readonly Job[] = [
  {
    title: 'update, 3 columns changed',
    sizes: [1, 2, 10, 30, 100, 300, 1000, 5000],
    quick: [1, 2, 10, 30, 100, 300],
    contenders: CONTENDERS,
    servers: BOTH,
    task: update(NARROW, FIRST_THREE),
  },
  {
    title: 'update, 3 of 30 columns changed',
    sizes: [100, 1000],
    contenders: CONTENDERS,
    servers: BOTH,
    task: update(WIDE, FIRST_THREE),
  },
  {
    title: 'update, other columns changed in each row',
    sizes: [100, 1000],
    contenders: CONTENDERS.filter((contender) => contender !== handWritten),
    servers: BOTH,
    task: update(NARROW, MIXED),
  },
  {
    title: 'update, 3 columns changed, 1 ms away',
    sizes: [1, 2, 10, 30, 100, 300],
    contenders: CONTENDERS,
    servers: ['postgresql'],
    distant: true,
    task: update(NARROW, FIRST_THREE),
  },
  {
    title: 'insert, 1 ms away',
    sizes: [1, 100],
    contenders: [ours, builtIn, unlocked],
    servers: ['postgresql'],
    distant: true,
    task: insert,
  },
  {
    title: 'conflict, 1 of the rows is stale',
    sizes: [1, 100, 1000],
    contenders: [ours, builtIn, handWritten],
    servers: BOTH,
    task: conflict,
  },
  { title: 'load', sizes: [100, 1000, 5000], contenders: [ours, unlocked], servers: BOTH, task: load },
  {
    title: 'what being able to undo costs a flush that succeeds',
    sizes: [1, 100, 1000],
    contenders: [ours, withoutUndo(ours)],
    servers: BOTH,
    task: update(NARROW, FIRST_THREE),
  },
  {
    title: 'update, 3 columns changed, through a guard',
    sizes: [10, 100],
    contenders: [ours, guarded],
    servers: BOTH,
    task: update(NARROW, FIRST_THREE),
  },
  {
    title: 'a conflict that somebody listens to',
    sizes: [1, 100],
    contenders: [ours, listened(ours)],
    servers: BOTH,
    task: conflict,
  },
  {
    title: 'rows without a version, 3 columns changed',
    sizes: [1, 10, 100],
    quick: [1, 10],
    contenders: [wrapped, unlocked],
    servers: BOTH,
    task: update(NARROW, FIRST_THREE),
  },
  {
    title: 'rows without a version, load',
    sizes: [10, 100],
    quick: [10],
    contenders: [wrapped, unlocked],
    servers: BOTH,
    task: load,
  },
  {
    title: 'empty transactions, one after the other',
    sizes: [10],
    quick: [10],
    contenders: [ours, onResilientPool, unlocked],
    servers: BOTH,
    task: emptyTransactions,
  },
  { title: 'em.fork()', sizes: [100], quick: [100], contenders: [ours, unlocked], servers: BOTH, task: forks },
  {
    title: 'insert',
    sizes: [1, 10, 100],
    quick: [1, 10, 100],
    contenders: [ours, builtIn, wrapped, unlocked],
    servers: BOTH,
    task: insert,
  },
  // last, because they take rows away
  {
    title: 'delete',
    sizes: [2, 10, 100, 500],
    quick: [2, 10, 100],
    contenders: CONTENDERS,
    servers: BOTH,
    task: remove,
  },
  {
    title: 'delete, 1 ms away',
    sizes: [2, 10, 100],
    contenders: [ours, builtIn, unlocked],
    servers: ['postgresql'],
    distant: true,
    task: remove,
  },
];

/** Rounds for a size, and how long one contender may take for them. */
export function planFor({ distant }: Job, n: number, isQuick = false): Plan {
  if (distant) {
    // nearly all of it is waiting, which is the same in each round
    return { rounds: [n <= 10 ? 100 : 50, 5], budget: 1500 };
  }
  const most = n === 1 ? 1500 : n <= 10 ? 800 : n <= 100 ? 200 : n <= 300 ? 60 : n <= 1000 ? 30 : 12;
  return { rounds: [most, 5], budget: isQuick ? 700 : 2000 };
}
