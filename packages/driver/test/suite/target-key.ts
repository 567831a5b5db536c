/** References by a unique column that is not the primary key (`targetKey`): the entity is the same, and so is its version. */
import { type Opt, type Options, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown, withoutLock } from '../harness.ts';

class Author {
  id!: number;
  code!: string;
  name!: string;
  version!: Opt<number>;
}
class Book {
  id!: number;
  title!: string;
  author!: Author;
  version!: Opt<number>;
}
const entities = [
  defineEntity({
    class: Author,
    properties: {
      id: p.integer().primary(),
      code: p.string().unique(),
      name: p.string(),
      version: p.type(VersionField),
    },
  }),
  defineEntity({
    class: Book,
    properties: {
      id: p.integer().primary(),
      title: p.string(),
      author: () => p.manyToOne(Author).targetKey('code').deleteRule('cascade').updateRule('cascade'),
      version: p.type(VersionField),
    },
  }),
];

export function targetKeys(driver: TestDriver): void {
  describe('references by another key', () => {
    const setUp = async (options: Partial<Options> = {}) => {
      const db = await open(driver, entities, options);
      const em = db.fork();
      const author = em.create(Author, { id: 1, code: 'a', name: 'old' });
      em.create(Book, { id: 1, title: 'old', author });
      await em.flush();
      const rename = async (name: string) => {
        const theirs = db.fork();
        (await theirs.findOneOrFail(Author, 1)).name = name;
        await theirs.flush();
      };
      return { ...db, rename };
    };

    test('what a reference by key leads to is the entity that is loaded, and is checked', async () => {
      const { fork, rename } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1, { populate: ['author'] });
      expect([book.author.name, book.author.version]).toEqual(['old', 1]);
      await rename('theirs');
      book.author.name = 'ours';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, expected: 1, actual: 2 }] });
      await em.refresh(book.author);
      book.author.name = 'ours';
      book.title = 'ours';
      await em.flush();
      expect(await fork().findOneOrFail(Book, 1, { populate: ['author'] })).toMatchObject({
        title: 'ours',
        version: 2,
        author: { name: 'ours', version: 3 },
      });
    });

    test('loaded in part, it is checked too', async () => {
      const { fork, rename } = await setUp();
      const em = fork();
      const book = await em.findOneOrFail(Book, 1, { populate: ['author'], fields: ['title', 'author.name'] });
      await rename('theirs');
      (book.author as Author).name = 'ours';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
    });

    /** Is what the book refers to, by this key, the author that is loaded? Not before MikroORM 7.2.5. */
    const leadsTo = async (em: EntityManager, author: Author) => {
      const book = await em.findOneOrFail(Book, 1);
      return (book.author as Author) === author;
    };

    test('a key that was changed and rolled back leads to the same entity again', async () => {
      const { fork } = await setUp();
      const untouched = fork();
      const expected = await leadsTo(untouched, await untouched.findOneOrFail(Author, 1));
      const em = fork();
      const author = await em.findOneOrFail(Author, 1);
      await em.begin();
      author.code = 'b';
      await em.flush();
      await em.rollback();
      expect([author.code, author.version]).toEqual(['a', 1]);
      expect(await leadsTo(em, author)).toBe(expected);
      expect(await fork().findOneOrFail(Author, 1)).toMatchObject({ code: 'a', version: 1 });
    });

    test('a key that a failed flush has changed leads to the same entity again', async () => {
      const { fork } = await setUp();
      const seed = fork();
      seed.create(Book, { id: 2, title: 'old', author: await seed.findOneOrFail(Author, 1) });
      await seed.flush();
      const [untouched, em] = [fork(), fork()];
      const expected = await leadsTo(untouched, await untouched.findOneOrFail(Author, 1));
      const author = await em.findOneOrFail(Author, 1);
      const other = await em.findOneOrFail(Book, 2);
      const theirs = fork();
      (await theirs.findOneOrFail(Book, 2)).title = 'theirs';
      await theirs.flush();
      // books are written after authors
      author.code = 'b';
      other.title = 'ours';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      expect(author.code).toBe('b');
      expect(await leadsTo(em, author)).toBe(expected);
    });

    test('a key that was changed and saved leads to the same entity as without us', async () => {
      const found = [];
      for (const options of [{}, withoutLock(driver)]) {
        const { fork } = await setUp(options);
        const em = fork();
        const author = await em.findOneOrFail(Author, 1);
        author.code = 'b';
        await em.flush();
        const reference: object = em.getReference(Author, 'b', { key: 'code' } as never);
        found.push([await leadsTo(em, author), reference === author]);
      }
      expect(found[0]).toEqual(found[1]);
    });

    test('a reference that is known by its key only is not written blindly', async () => {
      const { fork, sent } = await setUp();
      const em = fork();
      const reference = em.getReference(Author, 'a', { key: 'code' } as never);
      let log: string[] = [];
      const remove = async () => {
        log = await sent(async () => {
          em.remove(reference);
          await em.flush();
        });
      };
      await thrown(remove);
      expect(log.filter((sql) => sql.startsWith('delete'))).toEqual([]);
      expect(await fork().count(Author)).toBe(1);
    });
  });
}
