/** The version comes along with whatever is loaded, and never moves under unsaved changes. */
import { type Collection, LockMode, type Opt, type Ref, defineEntity, p, wrap } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Author {
  id!: number;
  name!: string;
  bio!: string | null;
  books!: Collection<Book>;
  version!: Opt<number>;
}
class Book {
  id!: number;
  title!: string;
  blurb!: string | null;
  author!: Ref<Author>;
  version!: Opt<number>;
}
const AuthorSchema = defineEntity({
  class: Author,
  properties: {
    id: p.integer().primary(),
    name: p.string(),
    bio: p.text().lazy().nullable(),
    books: () => p.oneToMany(Book).mappedBy('author'),
    version: p.type(VersionField),
  },
});
const BookSchema = defineEntity({
  class: Book,
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    blurb: p.string().nullable(),
    author: () => p.manyToOne(Author).ref(),
    version: p.type(VersionField),
  },
});

export function loading(driver: TestDriver): void {
  const setUp = async () => {
    const db = await open(driver, [AuthorSchema, BookSchema]);
    const em = db.fork();
    const author = em.create(Author, { id: 1, name: 'author', bio: 'bio' });
    [1, 2, 3].forEach((id) => em.create(Book, { id, title: `book ${id}`, blurb: 'blurb', author }));
    await em.flush();
    /** Somebody else renames the author and the books. */
    const rival = async () => {
      const theirs = db.fork();
      (await theirs.findOneOrFail(Author, 1)).name = 'theirs';
      (await theirs.find(Book, {})).forEach((book) => (book.title = 'theirs'));
      await theirs.flush();
    };
    return { ...db, rival };
  };

  describe('partial loading', () => {
    const ways: Record<string, (em: ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>) => Promise<object[]>> = {
      fields: (em) => em.find(Book, {}, { fields: ['title'] }),
      exclude: (em) => em.find(Book, {}, { exclude: ['version', 'blurb'] }),
      'populate with fields, joined': async (em) => {
        const [author] = await em.find(
          Author,
          {},
          { populate: ['books'], fields: ['name', 'books.title'], strategy: 'joined' },
        );
        return [...(author as unknown as Author).books.getItems()];
      },
      'populate with fields, select-in': async (em) => {
        const [author] = await em.find(
          Author,
          {},
          { populate: ['books'], fields: ['books.title'], strategy: 'select-in' },
        );
        return [...(author as unknown as Author).books.getItems()];
      },
      'populate with exclude': async (em) => {
        const [author] = await em.find(Author, {}, { populate: ['books'], exclude: ['version', 'books.version'] });
        return [...(author as unknown as Author).books.getItems()];
      },
      'em.populate': async (em) => {
        const authors = await em.find(Author, {}, { fields: ['name'] });
        await em.populate(authors, ['books'], { fields: ['books.title'] } as never);
        return [...(authors[0] as unknown as Author).books.getItems()];
      },
      'to-one, joined': async (em) => {
        const books = await em.find(Book, {}, { populate: ['author'], fields: ['title', 'author.name'] });
        return books as object[];
      },
    };
    for (const [name, load] of Object.entries(ways)) {
      test(`${name}: the version is there, checked and bumped`, async () => {
        const { fork, rival } = await setUp();
        const em = fork();
        const books = (await load(em)) as Book[];
        expect(books.map((book) => book.version)).toEqual([1, 1, 1]);
        books.forEach((book) => (book.title += '!'));
        await em.flush();
        expect(books.map((book) => book.version)).toEqual([2, 2, 2]);
        await rival();
        books.forEach((book) => (book.title += '!'));
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      });
    }

    test('what is serialised does not change', async () => {
      const { fork } = await setUp();
      for (const [name, load] of Object.entries(ways)) {
        for (const loaded of await load(fork())) {
          expect(Object.keys(JSON.parse(JSON.stringify(loaded)) as object), name).not.toContain('version');
        }
      }
      const [book] = await fork().find(Book, { id: 1 }, { fields: ['title'] });
      expect(JSON.parse(JSON.stringify(book))).toEqual({ id: 1, title: 'book 1' });
      const [other] = await fork().find(Book, { id: 1 }, { exclude: ['version'] });
      expect(JSON.parse(JSON.stringify(other))).toEqual({ id: 1, title: 'book 1', blurb: 'blurb', author: 1 });
    });

    test('a mixed batch of partial and full rows is no false conflict', async () => {
      const { fork } = await setUp();
      const em = fork();
      await em.find(Book, { id: 1 }, { fields: ['title'] });
      const books = await em.find(Book, {});
      books.forEach((book) => (book.title = 'ours'));
      await em.flush();
      expect(books.map((book) => book.version)).toEqual([2, 2, 2]);
    });

    test('a lazy scalar that is loaded later', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const author = await em.findOneOrFail(Author, 1);
      author.name = 'ours';
      await rival();
      await em.populate([author], ['bio']);
      expect(author.bio).toBe('bio');
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });

    test('grouping and counting are left alone', async () => {
      const { fork } = await setUp();
      const rows = await fork().createQueryBuilder(Book, 'b').select('title').groupBy('title').execute();
      expect(rows.length).toBe(3);
    });
  });

  describe('re-reading', () => {
    const ways: Record<string, (em: ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>) => Promise<unknown>> = {
      'em.find': (em) => em.find(Book, {}),
      'findOne by another property': (em) => em.findOne(Book, { author: 1, id: { $lt: 2 } }),
      'populate, joined': (em) => em.find(Author, {}, { populate: ['books'], strategy: 'joined' }),
      'populate, select-in': (em) => em.find(Author, {}, { populate: ['books'], strategy: 'select-in' }),
      partial: (em) => em.find(Book, {}, { fields: ['blurb'] }),
      'refresh of another entity': async (em) => em.refresh(await em.findOneOrFail(Author, 1)),
    };
    for (const [name, read] of Object.entries(ways)) {
      test(`${name}: a dirty entity keeps the version that its changes are based on, a clean one moves on`, async () => {
        const { fork, rival } = await setUp();
        const em = fork();
        const [dirty, clean] = await em.find(Book, {}, { orderBy: { id: 'asc' } });
        dirty!.title = 'ours';
        await rival();
        await read(em);
        expect(dirty!.version).toBe(1);
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ primaryKey: 1, expected: 1, actual: 2 }],
        });
        await em.refresh(dirty!);
        expect(dirty!.version).toBe(2);
        if (clean!.version === 2) {
          clean!.title = 'ours';
          await em.flush();
          expect(clean!.version).toBe(3);
        }
      });
    }

    test('a reference with a claimed version keeps the claim when it is loaded', async () => {
      const { fork, rival } = await setUp();
      await rival();
      const loads: Record<string, (em: ReturnType<typeof fork>, book: Book) => Promise<unknown>> = {
        'wrap().init()': (_, book) => wrap(book).init(),
        'Reference.load()': (em) => em.getReference(Book, 1, { wrapped: true }).load(),
        'em.find': (em) => em.find(Book, {}),
        'em.find with refresh': (em) => em.find(Book, {}, { refresh: true }),
      };
      for (const [name, load] of Object.entries(loads)) {
        for (const [claim, title] of [
          [1, 'ours'],
          [1, undefined],
          [2, 'ours'],
        ] as const) {
          const em = fork();
          const book = em.getReference(Book, 1);
          book.version = claim;
          await load(em, book);
          expect([book.version, book.blurb], name).toEqual([claim, 'blurb']);
          book.title = title ?? book.title;
          if (claim === 1) {
            expect(await thrown(() => em.flush()), name).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
            await em.refresh(book);
            expect(book.version).toBe(2);
          } else {
            await em.flush();
            await fork().nativeUpdate(Book, 1, { version: 2 });
          }
        }
      }
    });

    test('a clean entity takes the new version', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      await rival();
      await em.find(Book, {});
      expect(book).toMatchObject({ title: 'theirs', version: 2 });
    });

    const partly: Record<string, (em: ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>) => Promise<unknown>> = {
      'em.find': (em) => em.find(Book, {}, { fields: ['title'] }),
      'em.refresh': async (em) => em.refresh(await em.findOneOrFail(Book, 1), { fields: ['title'] } as never),
      'em.refresh of another entity': async (em) =>
        em.refresh(await em.findOneOrFail(Author, 1), {
          populate: ['books'],
          fields: ['name', 'books.title'],
        } as never),
      'populate, joined': (em) =>
        em.find(Author, {}, { populate: ['books'], fields: ['books.title'], strategy: 'joined' }),
      'em.find with refresh': (em) => em.find(Book, {}, { fields: ['title'], refresh: true }),
      'a query builder': (em) => em.createQueryBuilder(Book).select(['id', 'title', 'version']).getResult(),
      'em.map': async (em) => {
        const rows = await em.getConnection().execute<object[]>('select id, title, version from book');
        return rows.map((row) => em.map(Book, row as never));
      },
      'a transaction with a clear fork': (em) =>
        em.transactional((tx) => tx.find(Book, {}, { fields: ['title'] }), { clear: true }),
    };
    for (const [name, read] of Object.entries(partly)) {
      test(`${name}: an entity that is read again in part keeps the version of the rest`, async () => {
        const { fork, rival } = await setUp();
        const em = fork();
        const book = await em.findOneOrFail(Book, 1);
        await rival();
        await read(em);
        expect(book.title).toBe('theirs');
        // based on the old blurb
        book.blurb += '!';
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
        await em.refresh(book);
        book.blurb += '!';
        await em.flush();
        expect(book.version).toBe(3);
      });
    }

    test('a lazy scalar is refreshed too once it was loaded', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const author = await em.findOneOrFail(Author, 1, { populate: ['bio'] });
      await rival();
      await fork().nativeUpdate(Author, 1, { bio: 'their bio' });
      // without the biography: what it says is older than the rest now
      await em.find(Author, {});
      author.bio += '!';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 3 }] });
      for (const again of [() => em.find(Author, {}, { refresh: true }), () => wrap(author).init()]) {
        await again();
        expect([author.version, (await thrown(() => em.flush())).name]).toEqual([1, 'ConcurrentUpdate']);
      }
      await em.refresh(author);
      expect(author.bio).toBe('their bio');
      author.bio += '!';
      await em.flush();
      expect(await fork().findOneOrFail(Author, 1, { populate: ['bio'] })).toMatchObject({
        bio: 'their bio!',
        version: 4,
      });
    });

    test('a NULL that MikroORM does not take over keeps the version back', async () => {
      const { fork } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      const theirs = fork();
      (await theirs.findOneOrFail(Book, 1)).blurb = null;
      await theirs.flush();
      await em.find(Book, {});
      expect(book.blurb).toBe('blurb');
      book.blurb += '!';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      await em.refresh(book);
      expect([book.blurb, book.version]).toEqual([null, 2]);
    });

    test('a column that was assigned and flushed, but never loaded, is as old as that flush', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const book = (await em.findOneOrFail(Book, 1, { fields: ['title'] })) as unknown as Book;
      book.blurb = 'ours';
      await em.flush();
      await rival();
      await em.find(Book, {}, { fields: ['title'] });
      book.blurb += '!';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
    });

    for (const dirty of [true, false]) {
      test(`em.upsert() reads all of the row, also into an entity that is ${dirty ? 'dirty' : 'clean'}`, async () => {
        const { fork } = await setUp();
        const em = fork();
        const book = await em.findOneOrFail(Book, 1);
        await fork().nativeUpdate(Book, 1, { blurb: 'theirs' });
        book.blurb += dirty ? '!' : '';
        await em.upsert(Book, { id: 1, title: 'upserted', author: 1 });
        expect([book.blurb, book.version]).toEqual(['theirs', 3]);
        book.blurb += '!';
        await em.flush();
        expect(await fork().findOneOrFail(Book, 1)).toMatchObject({ blurb: 'theirs!', version: 4 });
      });
    }

    test('an older state, say of a replica that lags, changes nothing, with unsaved changes and without', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const [old] = await fork().getDriver().find(Book, { id: 1 });
      await rival();
      const book = await em.findOneOrFail(Book, 1);
      book.blurb = 'ours';
      em.getEntityFactory().create(Book, old as never, { merge: true, convertCustomTypes: true });
      expect([book.title, book.version]).toEqual(['theirs', 2]);
      await em.flush();
      expect(await fork().findOneOrFail(Book, 1)).toMatchObject({ title: 'theirs', blurb: 'ours', version: 3 });
      em.getEntityFactory().create(Book, old as never, { merge: true, convertCustomTypes: true });
      expect([book.title, book.version]).toEqual(['theirs', 3]);
      book.title += '!';
      await em.flush();
      expect(await fork().findOneOrFail(Book, 1)).toMatchObject({ title: 'theirs!', blurb: 'ours', version: 4 });
    });

    test('a row that was removed and created again is not the one that unsaved changes were based on', async () => {
      const { fork, rival } = await setUp();
      await rival();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      book.title = 'ours';
      const theirs = fork();
      await theirs.nativeDelete(Book, 1);
      theirs.create(Book, { id: 1, title: 'again', blurb: null, author: 1 });
      await theirs.flush();
      await em.find(Book, {});
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 1 }] });
    });

    test('an entity that is about to be removed keeps its version', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      em.remove(book);
      await rival();
      await em.find(Book, { title: 'theirs' }, { flushMode: 'commit' as never });
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ operation: 'delete', expected: 1, actual: 2 }],
      });
    });
  });

  describe('em.lock and findOne with LockMode.OPTIMISTIC', () => {
    test('a match passes, a mismatch is a ConcurrentUpdate, nonsense an InvalidVersion', async () => {
      const { fork } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      await em.lock(book, LockMode.OPTIMISTIC, 1);
      const error = await thrown(() => em.lock(book, LockMode.OPTIMISTIC, 9));
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      expect(error).toMatchObject({ conflicts: [{ operation: 'check', primaryKey: 1, expected: 9, actual: 1 }] });
      expect(await thrown(() => em.lock(book, LockMode.OPTIMISTIC, '1' as never))).toBeInstanceOf(InvalidVersion);
      const find = (lockVersion: number) =>
        fork().findOneOrFail(Book, 1, { lockMode: LockMode.OPTIMISTIC, lockVersion });
      expect((await find(1)).id).toBe(1);
      expect(await thrown(() => find(2))).toMatchObject({
        conflicts: [{ operation: 'check', expected: 2, actual: 1 }],
      });
    });

    test('a reference and a partially loaded entity', async () => {
      const { fork } = await setUp();
      const em = fork();
      await em.lock(em.getReference(Book, 1), LockMode.OPTIMISTIC, 1);
      expect(await thrown(() => em.lock(em.getReference(Book, 2), LockMode.OPTIMISTIC, 5))).toBeInstanceOf(
        ConcurrentUpdate,
      );
      const partial = await em.findOneOrFail(Book, 3, { fields: ['title'] });
      const other = fork();
      const claimed = other.getReference(Book, 3);
      claimed.version = 5;
      expect(await thrown(() => other.lock(claimed, LockMode.OPTIMISTIC, 5))).toMatchObject({
        conflicts: [{ operation: 'check', expected: 5, actual: 1 }],
      });
      await em.lock(partial as object, LockMode.OPTIMISTIC, 1);
      expect(await thrown(() => em.lock(partial as object, LockMode.OPTIMISTIC, 2))).toBeInstanceOf(ConcurrentUpdate);
    });
  });

  describe('touch', () => {
    test('bumps and checks an entity that did not change, once', async () => {
      const { fork, sent, rival } = await setUp();
      const em = fork();
      const author = await em.findOneOrFail(Author, 1);
      touch(author);
      await em.flush();
      expect(author.version).toBe(2);
      expect((await fork().findOneOrFail(Author, 1)).version).toBe(2);
      expect(await sent(() => em.flush())).toEqual([]);
      await rival();
      touch(author);
      for (let attempt = 0; attempt < 2; attempt++) {
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
      }
      await em.refresh(author);
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('with other changes and in a batch there is one bump', async () => {
      const { fork } = await setUp();
      const em = fork();
      const books = await em.find(Book, {}, { orderBy: { id: 'asc' } });
      books.forEach(touch);
      books[1]!.title = 'changed';
      await em.flush();
      expect(
        (await fork().find(Book, {}, { orderBy: { id: 'asc' } })).map((book) => [book.title, book.version]),
      ).toEqual([
        ['book 1', 2],
        ['changed', 2],
        ['book 3', 2],
      ]);
    });

    test('a claimed version is checked by it', async () => {
      const { fork } = await setUp();
      const em = fork();
      const book = em.assign(em.getReference(Book, 1), { version: 7 });
      touch(book);
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ operation: 'update', expected: 7, actual: 1 }],
      });
      book.version = Number.NaN;
      expect(await thrown(() => em.flush())).toBeInstanceOf(InvalidVersion);
    });

    test('without a version it is refused, at once or by the flush', async () => {
      const { fork, sent } = await setUp();
      const em = fork();
      expect(() => touch(em.getReference(Book, 1))).toThrow(VersionNotLoaded);
      const book = await em.findOneOrFail(Book, 2);
      touch(book);
      book.version = undefined as never;
      const log = await sent(async () => expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded));
      expect(log).toEqual([]);
    });

    test('a refresh takes it back: what is claimed then is only checked', async () => {
      const { fork } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1);
      touch(book);
      await em.refresh(book);
      await fork().nativeUpdate(Book, 1, { title: 'theirs' });
      book.version = 2;
      await em.flush();
      expect(book.version).toBe(2);
    });

    test('what is not managed or not versioned is refused', async () => {
      const { fork } = await setUp();
      const em = fork();
      const fresh = em.create(Author, { id: 9, name: 'new' });
      expect(() => touch(fresh)).toThrow(/^Author cannot be touched, because it is not managed/);
      expect(() => touch({})).toThrow(/^Object cannot be touched, because it is not managed/);
    });
  });
}
