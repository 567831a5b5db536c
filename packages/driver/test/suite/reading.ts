/** A row that is older than what is in memory brings nothing, whichever way it is read: a replica, a cache, a snapshot. */
import {
  type Collection,
  FlushMode,
  LockMode,
  MikroORM,
  type Opt,
  type Options,
  type Ref,
  defineEntity,
  p,
  wrap,
} from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type TestDriver, open, testUnless, thrown } from '../harness.ts';

class Author {
  id!: number;
  name!: string;
  books!: Collection<Book>;
  version!: Opt<number>;
}
class Book {
  id!: number;
  title!: string;
  n!: number;
  note!: string | null;
  author!: Ref<Author>;
  tags!: Collection<Tag>;
  version!: Opt<number>;
}
class Review {
  id!: number;
  book!: Ref<Book>;
}
class Tag {
  id!: number;
  books!: Collection<Book>;
}
const AuthorSchema = defineEntity({
  class: Author,
  properties: {
    id: p.integer().primary(),
    name: p.string(),
    books: () => p.oneToMany(Book).mappedBy('author'),
    version: p.type(VersionField),
  },
});
const BookSchema = defineEntity({
  class: Book,
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    n: p.integer(),
    note: p.string().nullable(),
    author: () => p.manyToOne(Author).ref(),
    tags: () => p.manyToMany(Tag).owner(),
    version: p.type(VersionField),
  },
});
const ReviewSchema = defineEntity({
  class: Review,
  properties: { id: p.integer().primary(), book: () => p.manyToOne(Book).ref() },
});
const TagSchema = defineEntity({
  class: Tag,
  properties: { id: p.integer().primary(), books: () => p.manyToMany(Book).mappedBy('tags') },
});
const entities = [AuthorSchema, BookSchema, ReviewSchema, TagSchema];

type Em = SqlEntityManager;
/** One way to read book 1, all of it or its number only. */
type Way = (em: Em, isPart: boolean) => Promise<unknown>;

const own = (isPart: boolean) => (isPart ? { fields: ['n'] } : {}) as object;
const nested = (isPart: boolean, path: string) => (isPart ? { fields: [`${path}.n`] } : {}) as object;
const columns = (isPart: boolean, alias = '') =>
  (isPart ? ['id', 'n', 'version'] : ['*']).map((name) => `${alias}${name}`) as never;

const WAYS: Record<string, Way> = {
  find: (em, isPart) => em.find(Book, {}, own(isPart)),
  'find with refresh': (em, isPart) => em.find(Book, {}, { ...own(isPart), refresh: true }),
  'find with filters': (em, isPart) => em.find(Book, { title: 'old' }, { ...own(isPart), filters: {} }),
  findAll: (em, isPart) => em.findAll(Book, { ...own(isPart), refresh: true }),
  findOne: (em, isPart) => em.findOne(Book, { title: 'old' }, own(isPart)),
  'findOne with refresh': (em, isPart) => em.findOne(Book, 1, { ...own(isPart), refresh: true }),
  'findOneOrFail, strict': (em, isPart) =>
    em.findOneOrFail(Book, { title: 'old' }, { ...own(isPart), strict: true, refresh: true } as never),
  findAndCount: (em, isPart) => em.findAndCount(Book, {}, { ...own(isPart), refresh: true }),
  findByCursor: (em, isPart) =>
    em.findByCursor(Book, { ...own(isPart), first: 5, orderBy: { id: 'asc' }, refresh: true } as never),
  'a repository': (em, isPart) => em.getRepository(Book).find({}, { ...own(isPart), refresh: true }),
  'wrap().init()': async (em, isPart) =>
    wrap(await em.findOneOrFail(Book, 1)).init(isPart ? ({ populate: [], fields: ['n'] } as never) : undefined),
  'Reference.load() with refresh': (em, isPart) =>
    em.getReference(Book, 1, { wrapped: true }).load({ ...own(isPart), refresh: true }),
  'to-many, joined': (em, isPart) =>
    em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'joined' }),
  'to-many, joined, with refresh': (em, isPart) =>
    em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'joined', refresh: true }),
  'to-many, select-in': (em, isPart) =>
    em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'select-in' }),
  'to-many, select-in, with refresh': (em, isPart) =>
    em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'select-in', refresh: true }),
  'to-many, balanced, with refresh': (em, isPart) =>
    em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'balanced', refresh: true }),
  'to-one, joined': (em, isPart) =>
    em.find(Review, {}, { ...nested(isPart, 'book'), populate: ['book'], strategy: 'joined' }),
  'to-one, joined, with refresh': (em, isPart) =>
    em.find(Review, {}, { ...nested(isPart, 'book'), populate: ['book'], strategy: 'joined', refresh: true }),
  'to-one, select-in, with refresh': (em, isPart) =>
    em.find(Review, {}, { ...nested(isPart, 'book'), populate: ['book'], strategy: 'select-in', refresh: true }),
  'many-to-many, joined': (em, isPart) =>
    em.find(Tag, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'joined' }),
  'many-to-many, joined, with refresh': (em, isPart) =>
    em.find(Tag, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'joined', refresh: true }),
  'many-to-many, select-in': (em, isPart) =>
    em.find(Tag, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'select-in' }),
  'many-to-many, select-in, with refresh': (em, isPart) =>
    em.find(Tag, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'select-in', refresh: true }),
  'em.populate()': async (em, isPart) =>
    em.populate(await em.find(Author, {}), ['books'], { ...nested(isPart, 'books'), refresh: true } as never),
  'em.populate() of many-to-many': async (em, isPart) =>
    em.populate(await em.find(Tag, {}), ['books'], { ...nested(isPart, 'books'), refresh: true } as never),
  'Collection.init()': async (em, isPart) => (await em.findOneOrFail(Author, 1)).books.init(own(isPart)),
  'Collection.loadItems() with refresh': async (em, isPart) =>
    (await em.findOneOrFail(Author, 1)).books.loadItems({ ...own(isPart), refresh: true }),
  'Collection.matching()': async (em, isPart) =>
    (await em.findOneOrFail(Author, 1)).books.matching({ ...own(isPart), where: {} }),
  'Collection.matching() of many-to-many': async (em, isPart) =>
    (await em.findOneOrFail(Tag, 1)).books.matching({ ...own(isPart), where: {} }),
  'em.refresh()': async (em, isPart) => em.refresh(await em.findOneOrFail(Book, 1), own(isPart)),
  'em.refresh() that asks for the replica': async (em, isPart) =>
    em.refresh(await em.findOneOrFail(Book, 1), { ...own(isPart), connectionType: 'read' }),
  'em.refresh() of another entity': async (em, isPart) =>
    em.refresh(await em.findOneOrFail(Author, 1), { ...nested(isPart, 'books'), populate: ['books'] } as never),
  'qb.getResult()': (em, isPart) => em.createQueryBuilder(Book).select(columns(isPart)).getResult(),
  'qb.getResult() without the version': (em, isPart) =>
    em
      .createQueryBuilder(Book)
      .select((isPart ? ['id', 'n'] : ['id', 'title', 'n', 'note', 'author']) as never)
      .getResult(),
  'qb.getSingleResult()': (em, isPart) =>
    em.createQueryBuilder(Book).select(columns(isPart)).where({ id: 1 }).getSingleResult(),
  'qb.getResultAndCount()': (em, isPart) => em.createQueryBuilder(Book).select(columns(isPart)).getResultAndCount(),
  'qb.leftJoinAndSelect()': (em, isPart) =>
    em
      .createQueryBuilder(Author, 'a')
      .select('*')
      .leftJoinAndSelect('a.books', 'b', {}, isPart ? (['id', 'n', 'version'] as never) : undefined)
      .getResult(),
  'qb.leftJoinAndSelect() without the version': (em, isPart) =>
    em
      .createQueryBuilder(Author, 'a')
      .select('*')
      .leftJoinAndSelect('a.books', 'b', {}, (isPart ? ['id', 'n'] : ['id', 'title', 'n', 'note', 'author']) as never)
      .getResult(),
  'em.map() of SQL': async (em, isPart) => {
    const list = isPart ? 'id, n, version' : '*';
    const rows = await em.getConnection('read').execute<object[]>(`select ${list} from book`);
    return rows.map((row) => em.map(Book, row as never));
  },
  'em.map() of SQL without the version': async (em, isPart) => {
    const list = isPart ? 'id, n' : 'id, n, title, note, author_id';
    const rows = await em.getConnection('read').execute<object[]>(`select ${list} from book`);
    return rows.map((row) => em.map(Book, row as never));
  },
};

/** Ways that read a row while it arrives. */
const STREAMS: Record<string, Way> = {
  'qb.stream()': async (em, isPart) => {
    for await (const _book of em.createQueryBuilder(Book).select(columns(isPart)).stream()) {
      // merged when it arrives
    }
  },
  'em.stream()': async (em, isPart) => {
    for await (const _book of em.stream(Book, own(isPart))) {
      // an object of its own
    }
  },
};

export function readings(driver: TestDriver): void {
  /** The primary has book 1 with number 42 at version 2; the replica still has 0 at version 1. */
  const lagging = async () => {
    const names: string[] = [];
    for (let i = 0; i < 2; i++) {
      names.push((await open(driver, entities)).orm.config.getAll().dbName!);
    }
    const options = await driver.create();
    const orm = await MikroORM.init({
      ...{ ...options, entities, dbName: names[0] },
      // the SQLite driver looks for the file of a replica among the driver's own options
      replicas: [{ dbName: names[1], driverOptions: { dbName: names[1] } }],
    } as Options);
    onTestFinished(() => orm.close());
    for (const [type, title, n, version] of [
      ['write', 'now', 42, 2],
      ['read', 'old', 0, 1],
    ] as const) {
      const connection = orm.em.getConnection(type) as ReturnType<Em['getConnection']>;
      if (names[0] === ':memory:') {
        await connection.executeDump(await orm.schema.getCreateSchemaSQL());
      }
      for (const sql of [
        `insert into author (id, name, version) values (1, 'author', 1)`,
        `insert into book (id, title, n, note, author_id, version) values (1, '${title}', ${n}, '${title}', 1, ${version})`,
        `insert into review (id, book_id) values (1, 1)`,
        `insert into tag (id) values (1)`,
        `insert into book_tags (book_id, tag_id) values (1, 1)`,
      ]) {
        await connection.execute(sql);
      }
    }
    const fork = () => orm.em.fork({ flushMode: FlushMode.COMMIT }) as Em;
    const primary = { connectionType: 'write' } as const;
    return {
      fork,
      load: (em: Em) => em.findOneOrFail(Book, 1, primary),
      row: async () => {
        const { title, n, note, version } = await fork().findOneOrFail(Book, 1, primary);
        return { title, n, note, version };
      },
      reset: () => fork().nativeUpdate(Book, 1, { title: 'now', n: 42, note: 'now', version: 2 }),
    };
  };

  /** Book 1 with number 42 at version 2, of which a cache still has version 1 with 0. */
  const cached = async (more: Partial<Options> = {}) => {
    const db = await open(driver, entities, more);
    const fork = () => db.orm.em.fork({ flushMode: FlushMode.COMMIT }) as Em;
    const em = fork();
    const author = em.create(Author, { id: 1, name: 'author' });
    em.create(Book, { id: 1, title: 'old', n: 0, note: 'old', author });
    await em.flush();
    const rival = async () => {
      const theirs = db.fork();
      const book = await theirs.findOneOrFail(Book, 1, { cache: false });
      theirs.assign(book, { title: 'now', n: 42, note: 'now' });
      await theirs.flush();
    };
    const row = async () => {
      const { title, n, version } = await db.fork().findOneOrFail(Book, 1, { cache: false });
      return { title, n, version };
    };
    return { ...db, fork, rival, row };
  };

  if (driver.replicas) {
    describe('a replica that is one version behind', () => {
      for (const isPart of [false, true]) {
        for (const dirty of [false, true]) {
          const read = async (ways: Record<string, Way>) => {
            const { fork, load, row, reset } = await lagging();
            const wrong: Record<string, unknown> = {};
            for (const [name, way] of Object.entries(ways)) {
              await reset();
              const em = fork();
              const book = await load(em);
              if (dirty) {
                book.title = 'mine';
              }
              await way(em, isPart);
              // a refresh is meant to forget what is unsaved, and reads the primary
              const title = dirty && (isPart || !name.startsWith('em.refresh()')) ? 'mine' : 'now';
              const memory = [book.title, book.n, book.note, book.version];
              book.n += 1;
              const outcome = await em.flush().then(row, (error: Error) => error.name);
              const right = [[title, 42, 'now', 2], { title, n: 43, note: 'now', version: 3 }];
              if (JSON.stringify([memory, outcome]) !== JSON.stringify(right)) {
                wrong[name] = [memory, outcome];
              }
            }
            expect(wrong).toEqual({});
          };
          const what = `${dirty ? 'a dirty' : 'a clean'} entity, read again in ${isPart ? 'part' : 'full'}`;
          test(`${Object.keys(WAYS).length} ways: ${what}, stays as it is`, () => read(WAYS));
          testUnless(driver, 'streams')(`streams: ${what}, stays as it is`, () => read(STREAMS));
        }
      }

      test('each of these ways reads the replica where nothing is in memory, but for em.refresh()', async () => {
        const { fork } = await lagging();
        for (const [name, way] of Object.entries(WAYS)) {
          for (const isPart of [false, true]) {
            const em = fork();
            await way(em, isPart);
            const book = em.getUnitOfWork().getById(Book, 1) as Book;
            expect([name, book.n]).toEqual([name, name.startsWith('em.refresh()') ? 42 : 0]);
          }
        }
      });
    });
  }

  describe('a result cache that is one version behind', () => {
    const cache: [string, number] = ['books', 60_000];
    const ways: Record<string, (em: Em, isPart: boolean) => Promise<unknown>> = {
      find: (em, isPart) => em.find(Book, {}, { ...own(isPart), cache }),
      'find with refresh': (em, isPart) => em.find(Book, {}, { ...own(isPart), cache, refresh: true }),
      findOne: (em, isPart) => em.findOne(Book, { author: 1 }, { ...own(isPart), cache }),
      'findOne with refresh': (em, isPart) => em.findOne(Book, 1, { ...own(isPart), cache, refresh: true }),
      'to-many, joined': (em, isPart) =>
        em.find(Author, {}, { ...nested(isPart, 'books'), populate: ['books'], strategy: 'joined', cache }),
      'to-many, select-in, with refresh': (em, isPart) =>
        em.find(
          Author,
          {},
          { ...nested(isPart, 'books'), populate: ['books'], strategy: 'select-in', cache, refresh: true },
        ),
      'a query builder': (em, isPart) => em.createQueryBuilder(Book).select(columns(isPart)).cache(cache).getResult(),
      'a transaction': (em, isPart) => em.transactional((tx) => tx.find(Book, {}, { ...own(isPart), cache })),
      'a transaction with a clear fork': (em, isPart) =>
        em.transactional((tx) => tx.find(Book, {}, { ...own(isPart), cache }), { clear: true }),
    };
    for (const [name, way] of Object.entries(ways)) {
      for (const isPart of [false, true]) {
        for (const dirty of [false, true]) {
          // a transaction flushes what is unsaved, and what a clear one has read is handed over unless it is older
          const flushes = dirty && name.startsWith('a transaction');
          test(`${name}: ${dirty ? 'a dirty' : 'a clean'} entity, read again in ${isPart ? 'part' : 'full'}, stays as it is`, async () => {
            const { fork, rival, row } = await cached();
            // what is read in a transaction is not cached
            await (name.startsWith('a transaction') ? ways.find! : way)(fork(), isPart);
            await rival();
            const em = fork();
            const book = await em.findOneOrFail(Book, 1);
            if (dirty) {
              book.title = 'mine';
            }
            await way(em, isPart);
            const title = dirty ? 'mine' : 'now';
            const flushed = flushes && name === 'a transaction' ? 1 : 0;
            expect([book.title, book.n, book.version]).toEqual([title, 42, 2 + flushed]);
            book.n += 1;
            await em.flush();
            expect(await row()).toEqual({ title, n: 43, version: 3 + flushed });
          });
        }
      }
    }

    test.each([false, true])(
      'of several rows each counts by itself, read with refresh, in part: %s',
      async (isPart) => {
        const { fork, rival, row } = await cached();
        const seed = fork();
        seed.create(Book, { id: 2, title: 'first', n: 0, note: 'first', author: 1 });
        await seed.flush();
        const orderBy = { id: 'desc' } as const;
        const read = (em: Em) => em.find(Book, {}, { ...own(isPart), orderBy, cache, refresh: true });
        // a cached row that is newer, but for what it lacks; then one that is older
        const before = fork();
        const [, known] = await before.find(Book, {}, { orderBy });
        await rival();
        await read(fork());
        await read(before);
        expect([known!.title, known!.n, known!.version]).toEqual(isPart ? ['old', 42, 1] : ['now', 42, 2]);
        await fork().nativeUpdate(Book, 1, { n: 43 });
        const after = fork();
        const [, book] = await after.find(Book, {}, { orderBy });
        await read(after);
        expect([book!.title, book!.n, book!.version]).toEqual(['now', 43, 3]);
        book!.n += 1;
        await after.flush();
        expect(await row()).toEqual({ title: 'now', n: 44, version: 4 });
      },
    );

    test('what was assigned to a column that is not loaded stays unsaved when the rest is refreshed', async () => {
      const { fork, row } = await cached();
      const read = (em: Em) => em.find(Book, {}, { fields: ['n'], cache, refresh: true });
      await read(fork());
      const em = fork();
      const [loaded] = await read(em);
      const claimed = fork();
      const reference = claimed.getReference(Book, 1);
      reference.version = 2;
      for (const [book, by, title] of [
        [loaded as unknown as Book, em, 'mine'],
        [reference, claimed, 'mine, too'],
      ] as const) {
        book.title = title;
        await read(by);
        await by.flush();
        expect(await row()).toMatchObject({ title, version: book.version });
      }
    });

    test('the older of two reads at once arrives last', async () => {
      let late: Promise<void> | undefined;
      const entries = new Map<string, unknown>();
      class SlowCache {
        async get(name: string) {
          await late;
          return entries.get(name);
        }
        set(name: string, data: unknown) {
          entries.set(name, structuredClone(data));
        }
        remove() {}
        clear() {}
      }
      const { fork, rival, row } = await cached({ resultCache: { adapter: SlowCache as never } });
      for (const isPart of [true, false]) {
        await fork().find(Book, {}, { ...own(isPart), cache: [`${isPart}`, 60_000] });
        await rival();
        const em = fork();
        let arrive = () => {};
        late = new Promise<void>((resolve) => (arrive = resolve));
        const older = em.find(Book, {}, { ...own(isPart), cache: [`${isPart}`, 60_000], refresh: true });
        const book = await em.findOneOrFail(Book, 1);
        arrive();
        await older;
        const before = await row();
        expect([book.n, book.version]).toEqual([before.n, before.version]);
        book.n += 1;
        await em.flush();
        expect(await row()).toMatchObject({ n: before.n + 1 });
      }
    });

    test('em.refresh() reads what is there, also with a global cache, which a transaction neither reads nor fills', async () => {
      const { fork, rival, row } = await cached({ resultCache: { global: 60_000 } });
      await fork().findOneOrFail(Book, 1);
      await rival();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      expect(book.n).toBe(0);
      book.n += 1;
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      await em.refresh(book);
      book.n += 1;
      await em.flush();
      expect(await row()).toMatchObject({ n: 43, version: 3 });
      await fork().transactional(async (tx) => {
        expect((await tx.findOneOrFail(Book, 1)).n).toBe(43);
      });
    });

    for (const isPart of [false, true]) {
      test(`em.refresh() of ${isPart ? 'a part' : 'the whole'} that asks for the cache reads what is there`, async () => {
        const { fork, rival, row } = await cached();
        await fork().findOneOrFail(Book, 1, { ...own(isPart), cache });
        await rival();
        const em = fork();
        const book = await em.findOneOrFail(Book, 1);
        await em.refresh(book, { ...own(isPart), cache });
        expect([book.n, book.version]).toEqual([42, 2]);
        book.n += 1;
        await em.flush();
        expect(await row()).toMatchObject({ title: 'now', n: 43, version: 3 });
      });
    }

    test('what a transaction has read is not cached: it may be rolled back', async () => {
      const { fork, rival } = await cached();
      const rolledBack = fork().transactional(async (tx) => {
        (await tx.findOneOrFail(Book, 1)).n = 7;
        await tx.flush();
        await tx.find(Book, {}, { cache });
        throw new Error('rolled back');
      });
      expect((await thrown(() => rolledBack)).message).toBe('rolled back');
      await rival();
      const em = fork();
      const [book] = await em.find(Book, {}, { cache });
      expect([book!.n, book!.version]).toEqual([42, 2]);
    });

    test('what is unsaved is not cached: others would take it for what is stored at that version', async () => {
      const { fork } = await cached();
      const em = fork();
      (await em.findOneOrFail(Book, 1)).n = 7;
      await em.find(Book, {}, { cache });
      const [book] = await fork().find(Book, {}, { cache });
      expect([book!.n, book!.version]).toEqual([0, 1]);
    });
  });

  test('a row that was removed and created again comes by em.refresh() only', async () => {
    const { fork, rival } = await cached();
    await rival();
    const em = fork();
    const book = await em.findOneOrFail(Book, 1);
    const theirs = fork();
    await theirs.nativeDelete(Book, 1);
    theirs.create(Book, { id: 1, title: 'again', n: 7, note: null, author: 1, version: 1 });
    await theirs.flush();
    await em.find(Book, {}, { refresh: true });
    expect([book.title, book.n, book.version]).toEqual(['now', 42, 2]);
    book.n += 1;
    expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 1 }] });
    await em.refresh(book);
    expect([book.title, book.n, book.version]).toEqual(['again', 7, 1]);
    book.n += 1;
    await em.flush();
    expect(book.version).toBe(2);
  });

  test('unsaved changes stay unsaved when a query builder reads the row in part', async () => {
    const { fork, rival, row } = await cached();
    const em = fork();
    const book = await em.findOneOrFail(Book, 1);
    book.title = 'mine';
    await em.createQueryBuilder(Book).select(['id', 'n', 'version']).getResult();
    await em.flush();
    expect(await row()).toMatchObject({ title: 'mine', version: 2 });
    book.title = 'mine too';
    await rival();
    await em.createQueryBuilder(Book).select(['id', 'n', 'version']).getResult();
    expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
  });

  test('columns that are not in memory yet come with their own, older version: then that is the version of the whole', async () => {
    const cache: [string, number] = ['all', 60_000];
    for (const dirty of [false, true]) {
      const { fork, rival, row } = await cached();
      await fork().find(Book, {}, { cache });
      await rival();
      const em = fork();
      const book = (await em.findOneOrFail(Book, 1, { fields: ['title'] })) as unknown as Book;
      if (dirty) {
        book.title = 'mine';
      }
      await em.find(Book, {}, { cache });
      expect([book.title, book.n, book.version]).toEqual([dirty ? 'mine' : 'now', 0, 1]);
      book.n += 1;
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      await em.refresh(book);
      book.n += 1;
      await em.flush();
      expect(await row()).toEqual({ title: 'now', n: 43, version: 3 });
    }
  });

  test('a row next to an older one is a row of its own', async () => {
    const { fork, rival } = await cached();
    const cache: [string, number] = ['joined', 60_000];
    await fork().find(Book, {}, { populate: ['author'], strategy: 'joined', cache });
    await rival();
    for (const refresh of [false, true]) {
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      await em.find(Book, {}, { populate: ['author'], strategy: 'joined', cache, refresh });
      expect([book.n, book.version, book.author.unwrap().name]).toEqual([42, 2, 'author']);
      book.author.unwrap().name = 'renamed';
      await em.flush();
      await fork().nativeUpdate(Author, 1, { name: 'author', version: 1 });
    }
  });

  test('embedded values, stored in columns or as an object', async () => {
    const Place = defineEntity({
      name: 'Place',
      properties: {
        id: p.integer().primary(),
        inline: () => p.embedded(Address),
        object: () => p.embedded(Address).object(),
        version: p.type(VersionField),
      },
    });
    const Address = defineEntity({
      name: 'Address',
      embeddable: true,
      properties: { city: p.string(), zip: p.string() },
    });
    const { fork } = await open(driver, [Place, Address]);
    const cache: [string, number] = ['places', 60_000];
    const old = { city: 'old', zip: '0' };
    const now = { city: 'now', zip: '1' };
    const first = fork();
    first.create(Place, { id: 1, inline: old, object: old });
    await first.flush();
    await fork().find(Place, {}, { cache });
    const theirs = fork();
    theirs.assign(await theirs.findOneOrFail(Place, 1), { inline: now, object: now });
    await theirs.flush();
    for (const refresh of [false, true]) {
      const em = fork();
      const place = await em.findOneOrFail(Place, 1);
      await em.find(Place, {}, { cache, refresh });
      expect([place.inline, place.object, place.version]).toMatchObject([now, now, 2]);
      place.inline.zip = '2';
      await em.find(Place, {}, { cache, refresh, flushMode: FlushMode.COMMIT });
      await em.flush();
      const stored = await fork().findOneOrFail(Place, 1);
      expect([stored.inline, stored.object, stored.version]).toMatchObject([{ ...now, zip: '2' }, now, 3]);
      await fork().nativeUpdate(Place, 1, { inline: now, version: 2 });
    }
  });

  test('a column that comes without a version, next to what is known, has no known age: it is not written over', async () => {
    const { fork, sent } = await cached();
    const em = fork();
    const book = (await em.findOneOrFail(Book, 1, { fields: ['title'] })) as unknown as Book;
    const [row] = await em.getConnection().execute<object[]>('select id, n from book');
    em.map(Book, row as never);
    expect(book.n).toBe(0);
    book.n += 1;
    expect(await sent(async () => expect((await thrown(() => em.flush())).name).toBe('VersionNotLoaded'))).toEqual([]);
    await em.refresh(book);
    book.n += 1;
    await em.flush();
    expect(book.version).toBe(2);
  });

  test('what a rolled back transaction had written past a flush gives way to the row, also to NULL in it, when it is refreshed', async () => {
    const { fork } = await open(driver, entities);
    const seed = fork();
    seed.create(Author, { id: 1, name: 'a' });
    seed.create(Book, { id: 1, title: 'old', n: 0, note: null, author: 1 });
    await seed.flush();
    const em = fork();
    const book = await em.findOneOrFail(Book, 1);
    await em.begin();
    await em.upsert(Book, { id: 1, title: 'new', n: 1, note: 'x', author: 1 });
    expect(book).toMatchObject({ title: 'new', note: 'x', version: 2 });
    await em.rollback();
    await em.find(Book, {}, { refresh: true });
    expect(book).toMatchObject({ title: 'old', n: 0, note: null, version: 1 });
    book.n = 5;
    await em.flush();
    expect(await fork().findOneOrFail(Book, 1)).toMatchObject({ title: 'old', n: 5, note: null, version: 2 });
  });

  if (driver.concurrent) {
    test('in one transaction, a snapshot that is older than a locked row', async () => {
      const { fork, rival, row } = await cached();
      await fork().transactional(async (tx) => {
        await tx.find(Author, {});
        await rival();
        const book = await tx.findOneOrFail(Book, 1, { lockMode: LockMode.PESSIMISTIC_WRITE });
        expect([book.n, book.version]).toEqual([42, 2]);
        await tx.find(Book, {}, { fields: ['n'], refresh: true });
        await tx.find(Book, {}, { refresh: true });
        await tx.find(Book, {});
        expect([book.n, book.version]).toEqual([42, 2]);
        book.n += 1;
      });
      expect(await row()).toMatchObject({ n: 43, version: 3 });
    });

    test('in a transaction, em.refresh() reads what a write would see', async () => {
      const { fork, rival, row } = await cached();
      await fork().transactional(async (tx) => {
        const book = await tx.findOneOrFail(Book, 1);
        await rival();
        book.n += 1;
        expect(await thrown(() => tx.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
        await tx.refresh(book);
        expect([book.n, book.version]).toEqual([42, 2]);
        book.n += 1;
      });
      expect(await row()).toMatchObject({ n: 43, version: 3 });
    });
  }
}
