/**
 * What a rival's write meets: one program per situation, the same for every lock. Each says what was reported and what is
 * in the database then.
 */
import {
  Collection,
  type EntityManager,
  type MikroORM,
  type Opt,
  OptimisticLockError,
  ValidationError,
  defineEntity,
  p,
} from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/postgresql';

/** Declared for MikroORM's own lock; the config line decides which lock it gets. */
export class Page {
  id!: number;
  title!: Opt<string>;
  hits!: Opt<number>;
  next!: Page | null;
  notes = new Collection<Note>(this);
  version!: Opt<number>;
}

export class Note {
  id!: number;
  text!: Opt<string>;
  page!: Page | null;
  version!: Opt<number>;
}

export const ENTITIES = [
  defineEntity({
    class: Page,
    properties: {
      id: p.integer().primary().autoincrement(),
      title: p.string().default('before'),
      hits: p.integer().default(0),
      next: () => p.manyToOne(Page).nullable(),
      notes: () => p.oneToMany(Note).mappedBy('page'),
      version: p.integer().version(),
    },
  }),
  defineEntity({
    class: Note,
    properties: {
      id: p.integer().primary().autoincrement(),
      text: p.string().default('before'),
      page: () => p.manyToOne(Page).nullable(),
      version: p.integer().version(),
    },
  }),
];

/** What came of it. */
export interface Finding {
  readonly reported: string;
  readonly database: string;
  /** Nothing was overwritten, nothing was promised that is not so. */
  readonly isRight: boolean;
}

export interface Situation {
  readonly title: string;
  run(world: World): Promise<Finding>;
}

/** A database with one of the locks. */
export class World {
  readonly orm: MikroORM;
  readonly sent: string[];

  constructor(orm: MikroORM, sent: string[]) {
    this.orm = orm;
    this.sent = sent;
  }

  /** What one request has. */
  fork(): SqlEntityManager {
    return this.orm.em.fork() as SqlEntityManager;
  }

  /** New rows; the keys, in order. */
  async pages(count: number): Promise<number[]> {
    const em = this.fork();
    const pages = Array.from({ length: count }, () => em.create(Page, {}));
    await em.flush();
    return pages.map(({ id }) => id);
  }

  async note(): Promise<number> {
    const em = this.fork();
    const note = em.create(Note, {});
    await em.flush();
    return note.id;
  }

  /** Somebody else's request, from beginning to end. */
  async rival(ids: number[], change: (page: Page, em: EntityManager) => void): Promise<void> {
    const em = this.fork();
    for (const page of await em.find(Page, ids)) {
      change(page, em);
    }
    await em.flush();
  }

  /** The rows that are there, as the database has them. */
  async rows(ids: number[]): Promise<Row[]> {
    const sql = `select id, title, hits, version from page where id in (${ids.join()}) order by id`;
    return this.fork().getConnection().execute<Row[]>(sql);
  }
}

interface Row {
  id: number;
  title: string;
  hits: number;
  version: number;
}

/** What `await work()` told its caller. */
async function answerOf(work: () => Promise<unknown>): Promise<string> {
  try {
    await work();
    return 'saved';
  } catch (error) {
    if (error instanceof OptimisticLockError) {
      return 'conflict';
    }
    return error instanceof ValidationError ? 'refused' : (error as Error).constructor.name;
  }
}

const settled = (answer: string) => answer === 'conflict' || answer === 'refused';

/** A rival has set `hits` to 100 in every row, and mine, based on what was before, must not be written over it. */
async function overwriting(world: World, ids: number[], mine: () => Promise<unknown>): Promise<Finding> {
  const reported = await answerOf(mine);
  const lost = (await world.rows(ids)).filter(({ hits }) => hits !== 100).length;
  const kept = ids.length === 1 ? "the rival's value" : "the rival's values";
  const gone =
    ids.length === 1 ? "the rival's value is gone" : `the rival's value is gone in ${lost} of ${ids.length} rows`;
  return { reported, database: lost === 0 ? kept : gone, isRight: lost === 0 && settled(reported) };
}

const beforeMine = (page: Page) => void (page.hits = 100);

/** Reads some rows, lets a rival save them, then saves an own change of the same column. */
function stale(
  title: string,
  count: number,
  read: (em: SqlEntityManager, ids: number[]) => Promise<Page[]>,
): Situation {
  return {
    title,
    run: async (world) => {
      const ids = await world.pages(count);
      const em = world.fork();
      const pages = await read(em, ids);
      await world.rival(ids, beforeMine);
      pages.forEach((page) => (page.hits = 1));
      return overwriting(world, ids, () => em.flush());
    },
  };
}

const WORKERS = 8;

/** Many workers at once, each with a request after the other. Returns how often each answer was given. */
async function storm(requests: number, work: (worker: number) => Promise<unknown>): Promise<Map<string, number>> {
  const answers = new Map<string, number>();
  const worker = async (_: unknown, index: number) => {
    for (let i = 0; i < requests; i++) {
      const answer = await answerOf(() => work(index));
      answers.set(answer, (answers.get(answer) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  return answers;
}

const REQUESTS = 25;

const race: Situation = {
  title: `${WORKERS} workers add 1 to the same 5 rows, ${WORKERS * REQUESTS} flushes`,
  run: async (world) => {
    const ids = await world.pages(5);
    const answers = await storm(REQUESTS, async () => {
      const em = world.fork();
      (await em.find(Page, ids)).forEach((page) => page.hits++);
      await em.flush();
    });
    const saved = answers.get('saved') ?? 0;
    // a save that is missing in any row was overwritten there
    const lost = saved - Math.min(...(await world.rows(ids)).map(({ hits }) => hits));
    const reported = [...answers]
      .map(([answer, count]) => `${count} ${answer}`)
      .toSorted()
      .toReversed()
      .join(', ');
    return { reported, database: `${lost} of ${saved} saves are missing`, isRight: lost === 0 };
  },
};

const staleDelete: Situation = {
  title: 'a stale delete',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    em.remove(await em.findOneOrFail(Page, ids[0]!));
    await world.rival(ids, beforeMine);
    const reported = await answerOf(() => em.flush());
    const isThere = (await world.rows(ids)).length === 1;
    return {
      reported,
      database: isThere ? 'the row, as the rival left it' : 'the row is gone',
      isRight: isThere && settled(reported),
    };
  },
};

const deleteOfDeleted: Situation = {
  title: 'delete of a row that a rival has deleted',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    em.remove(await em.findOneOrFail(Page, ids[0]!));
    await world.rival(ids, (page, rival) => void rival.remove(page));
    const reported = await answerOf(() => em.flush());
    return { reported, database: 'the row is gone', isRight: settled(reported) };
  },
};

const readAgain: Situation = {
  title: 'read again while it has unsaved changes',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    page.hits = 1;
    await world.rival(ids, beforeMine);
    await em.find(Page, { id: { $in: ids } }, { flushMode: 'commit' as never });
    return overwriting(world, ids, () => em.flush());
  },
};

const rivalUpserts: Situation = {
  title: "the rival's write was an em.upsert()",
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    await world.fork().upsert(Page, { id: ids[0]!, hits: 100 });
    page.hits = 1;
    return overwriting(world, ids, () => em.flush());
  },
};

const retry: Situation = {
  title: 'conflict, refresh, flush again, with a change of another entity',
  run: async (world) => {
    const [ids, noteId] = [await world.pages(1), await world.note()];
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    const note = await em.findOneOrFail(Note, noteId);
    const rival = world.fork();
    (await rival.findOneOrFail(Note, noteId)).text = 'hers';
    await rival.flush();
    [page.hits, note.text] = [1, 'mine'];
    const first = await answerOf(() => em.flush());
    await em.refresh(note);
    note.text = 'mine';
    const second = await answerOf(() => em.flush());
    const isWritten = (await world.rows(ids))[0]!.hits === 1;
    return {
      reported: `${first}, then ${second}`,
      database: isWritten ? 'both changes' : 'the change of the other entity is missing',
      isRight: isWritten && second === 'saved',
    };
  },
};

/** Flushes in a transaction that rolls back. */
async function rollBack(em: EntityManager, change: () => void): Promise<void> {
  await em
    .transactional(async (tx) => {
      change();
      await tx.flush();
      throw new Error('something else went wrong');
    })
    .catch(() => {});
}

const changeAfterRollback: Situation = {
  title: 'a transaction that rolled back, then another change',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    await rollBack(em, () => (page.title = 'mine'));
    page.hits = 1;
    const reported = await answerOf(() => em.flush());
    const [row] = await world.rows(ids);
    const isSaved = row!.hits === 1;
    return {
      reported,
      database: isSaved ? 'the change' : 'the change is missing, and nobody else wrote',
      isRight: isSaved && reported === 'saved',
    };
  },
};

const sameChangeAfterRollback: Situation = {
  title: 'a transaction that rolled back, then the same change again',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    await rollBack(em, () => (page.title = 'mine'));
    page.title = 'mine';
    const reported = await answerOf(() => em.flush());
    const [row] = await world.rows(ids);
    const isSaved = row!.title === 'mine';
    return {
      reported,
      database: isSaved ? 'the change' : 'the change is missing',
      isRight: isSaved && reported === 'saved',
    };
  },
};

/** Longer than any flush takes here. */
const PATIENCE = 3000;

const twoFlushes: Situation = {
  title: 'two em.flush() at once, of which the first conflicts',
  run: async (world) => {
    const ids = await world.pages(1);
    const em = world.fork();
    const page = await em.findOneOrFail(Page, ids[0]!);
    await world.rival(ids, beforeMine);
    page.hits = 1;
    const [first, second] = [answerOf(() => em.flush()), answerOf(() => em.flush())];
    let timer: NodeJS.Timeout;
    const never = new Promise<string>((resolve) => (timer = setTimeout(resolve, PATIENCE, 'never an answer')));
    const reported = [await first, await Promise.race([second, never])];
    clearTimeout(timer!);
    const [row] = await world.rows(ids);
    return {
      reported: reported.join(', then '),
      database: row!.hits === 100 ? "the rival's value" : "the rival's value is gone",
      isRight: row!.hits === 100 && reported.every((answer) => settled(answer)),
    };
  },
};

const newPair: Situation = {
  title: 'two new rows that refer to each other',
  run: async (world) => {
    const em = world.fork();
    const [one, other] = [em.create(Page, {}), em.create(Page, {})];
    [one.next, other.next] = [other, one];
    const reported = await answerOf(() => em.flush());
    const versions = (await world.rows([one.id, other.id])).map(({ version }) => version);
    return { reported, database: `versions ${versions.join(' and ')}`, isRight: versions.every((one) => one === 1) };
  },
};

const threeOfFive: Situation = {
  title: '3 stale rows of 5',
  run: async (world) => {
    const ids = await world.pages(5);
    const em = world.fork();
    const pages = await em.find(Page, ids);
    await world.rival(ids.slice(0, 3), beforeMine);
    pages.forEach((page) => (page.hits = 1));
    let named = 0;
    const answer = await answerOf(() =>
      em.flush().catch((error: { conflicts?: unknown[] }) => {
        named = error.conflicts?.length ?? 1;
        throw error;
      }),
    );
    const isUntouched = (await world.rows(ids)).every(({ hits }) => hits !== 1);
    return {
      reported: `${answer}, ${named} of 3 named`,
      database: isUntouched ? 'nothing of the flush' : 'a part of the flush',
      isRight: isUntouched && named === 3,
    };
  },
};

const ROWS_IN_ORDER = 600;
const FLUSHES_IN_ORDER = 6;

const oppositeOrder: Situation = {
  title: `${WORKERS} workers, ${ROWS_IN_ORDER} rows in opposite order, ${WORKERS * FLUSHES_IN_ORDER} flushes`,
  run: async (world) => {
    const ids = await world.pages(ROWS_IN_ORDER);
    const answers = await storm(FLUSHES_IN_ORDER, async (worker) => {
      const em = world.fork();
      const id = worker % 2 === 0 ? 'asc' : 'desc';
      (await em.find(Page, ids, { orderBy: { id } })).forEach((page) => page.hits++);
      await em.flush();
    });
    const saved = answers.get('saved') ?? 0;
    const deadlocks = answers.get('DeadlockException') ?? 0;
    const lost = saved - Math.min(...(await world.rows(ids)).map(({ hits }) => hits));
    return {
      reported: `${deadlocks} deadlocks, ${saved} saved`,
      database: `${lost} of ${saved} saves are missing`,
      isRight: deadlocks === 0 && lost === 0,
    };
  },
};

const statements: Situation = {
  title: '50 changed rows',
  run: async (world) => {
    const ids = await world.pages(50);
    const em = world.fork();
    (await em.find(Page, ids)).forEach((page) => page.hits++);
    world.sent.length = 0;
    const answer = await answerOf(() => em.flush());
    const kinds = world.sent.map((sql) => /\b(select|update)\b/.exec(sql)?.[1]?.toUpperCase()).filter(Boolean);
    const isOne = world.sent.filter((sql) => /^(select|update|with)\b/.test(sql)).length === 1;
    const first = isOne ? 'one statement' : kinds.join(' and ');
    return { reported: `${answer}, by ${first}`, database: 'all changes', isRight: answer === 'saved' };
  },
};

const inPart = (em: EntityManager, ids: number[]) =>
  em.find(Page, ids, { fields: ['hits'] }) as Promise<unknown> as Promise<Page[]>;

export const SITUATIONS: readonly Situation[] = [
  race,
  stale('5 stale rows', 5, (em, ids) => em.find(Page, ids)),
  staleDelete,
  deleteOfDeleted,
  stale('loaded in part, 1 row', 1, inPart),
  stale('loaded in part, 5 rows', 5, inPart),
  stale('a reference without a version', 1, async (em, [id]) => [em.getReference(Page, id!)]),
  stale('the version is null', 1, async (em, [id]) => {
    const page = await em.findOneOrFail(Page, id!);
    page.version = null as never;
    return [page];
  }),
  readAgain,
  rivalUpserts,
  retry,
  changeAfterRollback,
  sameChangeAfterRollback,
  twoFlushes,
  newPair,
  threeOfFive,
  oppositeOrder,
  statements,
];
