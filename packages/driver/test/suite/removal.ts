/** Removal in all its forms: what goes is checked, what a cascade of the same flush took along is no conflict. */
import { Cascade, Collection, type EntitySchema, type Options, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, stored, thrown } from '../harness.ts';

const version = p.type(VersionField);

class Author {
  id!: number;
  name!: string;
  books = new Collection<Book>(this);
  drafts = new Collection<Draft>(this);
  owned = new Collection<Owned>(this);
  tags = new Collection<Tag>(this);
  profile?: Profile | null;
  version!: number;
}
/** Belongs to nobody when it is taken out. */
class Book {
  id!: number;
  title!: string;
  author?: Author | null;
  version!: number;
}
/** Removed when it is taken out. */
class Draft {
  id!: number;
  title!: string;
  author?: Author | null;
  version!: number;
}
/** Removed with its author, by MikroORM. */
class Owned {
  id!: number;
  author!: Author;
  version!: number;
}
class Profile {
  id!: number;
  bio!: string;
  author!: Author;
  version!: number;
}
class Tag {
  id!: number;
  name!: string;
  version!: number;
}

const library = [
  defineEntity({
    class: Author,
    properties: {
      id: p.integer().primary(),
      name: p.string(),
      books: () => p.oneToMany(Book).mappedBy('author'),
      drafts: () => p.oneToMany(Draft).mappedBy('author').orphanRemoval(),
      owned: () => p.oneToMany(Owned).mappedBy('author').cascade(Cascade.PERSIST, Cascade.REMOVE),
      tags: () => p.manyToMany(Tag),
      profile: () => p.oneToOne(Profile).mappedBy('author').orphanRemoval().nullable(),
      version,
    },
  }),
  ...[Book, Draft].map((item) =>
    defineEntity({
      class: item,
      properties: {
        id: p.integer().primary(),
        title: p.string(),
        author: () => p.manyToOne(Author).nullable(),
        version,
      },
    } as never),
  ),
  defineEntity({
    class: Owned,
    properties: { id: p.integer().primary(), author: () => p.manyToOne(Author), version },
  }),
  defineEntity({
    class: Profile,
    properties: { id: p.integer().primary(), bio: p.string(), author: () => p.oneToOne(Author), version },
  }),
  defineEntity({ class: Tag, properties: { id: p.integer().primary(), name: p.string().unique(), version } }),
] as EntitySchema[];

export function removals(driver: TestDriver): void {
  /** Authors 1 and 2, with two of everything each: 11, 12 and 21, 22. */
  const setUp = async () => {
    const db = await open(driver, library);
    const em = db.fork();
    for (const id of [1, 2]) {
      const author = em.create(Author, { id, name: `author ${id}`, version: 1 });
      em.create(Profile, { id: id * 10, bio: 'bio', author, version: 1 });
      for (const n of [id * 10 + 1, id * 10 + 2]) {
        em.create(Book, { id: n, title: 'old', author, version: 1 });
        em.create(Draft, { id: n, title: 'old', author, version: 1 });
        em.create(Owned, { id: n, author, version: 1 });
        author.tags.add(em.create(Tag, { id: n, name: `tag ${n}`, version: 1 }));
      }
    }
    await em.flush();
    const authors = async (...populate: string[]) => {
      const ours = db.fork();
      return [ours, ...(await ours.find(Author, {}, { populate: populate as never, orderBy: { id: 1 } }))] as const;
    };
    return { ...db, authors, rows: () => stored(driver, db, 'with versions') };
  };

  const touchTheirs = async (db: Database, entity: new () => object, id: number) => {
    const theirs = db.fork();
    touch(await theirs.findOneOrFail(entity, id as never));
    await theirs.flush();
  };

  /** Each takes rows away from the entities of two authors: which class, and which of its rows. */
  const ways: { name: string; entity: new () => { id: number }; populate: string; take: (author: Author) => void }[] = [
    {
      name: 'orphans of a 1:m',
      entity: Draft,
      populate: 'drafts',
      take: (author) => author.drafts.remove(author.drafts[1]!),
    },
    {
      name: 'all of a 1:m with orphan removal',
      entity: Draft,
      populate: 'drafts',
      take: (author) => author.drafts.removeAll(),
    },
    {
      name: 'a 1:m that is set anew',
      entity: Draft,
      populate: 'drafts',
      take: (author) => author.drafts.set([author.drafts[0]!]),
    },
    { name: 'the orphan of a 1:1', entity: Profile, populate: 'profile', take: (author) => (author.profile = null) },
  ];

  describe('removal', () => {
    for (const { name, entity, populate, take } of ways) {
      for (const count of [1, 2]) {
        test(`${name}, of ${count === 1 ? 'one owner' : 'two owners'}`, async () => {
          const db = await setUp();
          const left = async () => (await db.fork().find(entity, {})).length;
          const before = await left();
          const remove = async () => {
            const [em, ...authors] = await db.authors(populate);
            authors.slice(2 - count).forEach(take);
            return em;
          };
          const stale = await remove();
          const last = Math.max(...(await db.fork().find(entity, {})).map((row) => row.id));
          await touchTheirs(db, entity, last);
          const untouched = await db.rows();
          const error = (await thrown(() => stale.flush())) as unknown as ConcurrentUpdate;
          expect(error.conflicts).toMatchObject([{ primaryKey: last, operation: 'delete', expected: 1, actual: 2 }]);
          expect(await db.rows()).toEqual(untouched);
          const fresh = await remove();
          await fresh.flush();
          expect(await left()).toBe(before - count * (name.startsWith('all') ? 2 : 1));
          expect((await db.fork().find(Author, {})).map((author) => author.version)).toEqual([1, 1]);
        });
      }
    }

    test('an owner takes its parts and pivot rows along, unless one of the parts is stale', async () => {
      const db = await setUp();
      const load = () => db.authors('owned', 'tags', 'books', 'profile', 'drafts');
      const [stale, ...both] = await load();
      both.forEach((author) => stale.remove(author));
      await touchTheirs(db, Owned, 22);
      const untouched = await db.rows();
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ entityName: 'Owned', primaryKey: 22, operation: 'delete', expected: 1, actual: 2 }],
      });
      expect(await db.rows()).toEqual(untouched);
      const [em, ...fresh] = await load();
      fresh.forEach((author) => em.remove(author));
      await em.flush();
      const counts = [Author, Owned, Profile, Draft, Book, Tag].map((entity) => db.fork().count<object>(entity));
      expect(await Promise.all(counts)).toEqual([0, 0, 0, 0, 4, 4]);
      // books lost their author by this flush, tags only a pivot row
      expect((await db.fork().find(Book, {})).map((book) => book.version)).toEqual([2, 2, 2, 2]);
      expect((await db.fork().find(Tag, {})).map((tag) => tag.version)).toEqual([1, 1, 1, 1]);
    });

    const setUpShelf = async (key: string) => {
      const Shelf = defineEntity({
        name: 'Shelf',
        properties: {
          id: p.integer().primary(),
          items: () => p.oneToMany(Item).mappedBy('shelf').orphanRemoval(),
          lid: () => p.oneToOne(Lid).mappedBy('shelf').orphanRemoval().nullable(),
          version,
        },
      });
      const Item = defineEntity({
        name: 'Item',
        properties: { id: p.integer().primary(), shelf: () => p.manyToOne(Shelf), version },
      });
      const Lid = defineEntity({
        name: 'Lid',
        properties: { id: p.integer().primary(), shelf: () => p.oneToOne(Shelf).owner(), version },
      });
      const entities = [Shelf, Item, Lid] as EntitySchema[];
      const { fork } = await open(driver, entities);
      await fork().insert(Shelf, { id: 1 });
      const em = fork();
      const shelf = await em.findOneOrFail(Shelf, 1, { populate: ['items', 'lid'] });
      const item = (id: number) =>
        em.create(Item, { ...(key === 'given' ? { id } : {}), shelf } as never, { persist: false });
      const counts = () => Promise.all(entities.map((entity) => fork().count(entity)));
      return { em, shelf, item, counts, Item, Lid };
    };

    for (const key of ['given', 'generated']) {
      test(`a new item with a ${key} key that is taken out again before it was saved is none`, async () => {
        const { em, shelf, counts, Item } = await setUpShelf(key);
        shelf.items.remove(em.create(Item, { ...(key === 'given' ? { id: 7 } : {}), shelf }));
        await em.flush();
        expect([await em.findOne(Item, 7), await counts(), shelf.version]).toEqual([null, [1, 0, 0], 1]);
      });

      test(`the same (${key} key), and a transaction that flushes twice`, async () => {
        const { em, shelf, item, counts } = await setUpShelf(key);
        const never = item(7);
        shelf.items.add(never);
        shelf.items.remove(never);
        await em.flush();
        await em.transactional(async (tx) => {
          await tx.flush();
          shelf.items.add(item(8));
          await tx.flush();
        });
        expect(await counts()).toEqual([1, 1, 0]);
      });

      test(`a new item with a ${key} key is none when a transaction removes its parent`, async () => {
        const { em, shelf, item, counts } = await setUpShelf(key);
        await em.transactional(async (tx) => {
          shelf.items.add(item(7));
          tx.remove(shelf);
        });
        await em.flush();
        expect(await counts()).toEqual([0, 0, 0]);
      });

      test(`beside a new item with a ${key} key that is none, rows of other classes are removed`, async () => {
        const { em, shelf, item, counts, Lid } = await setUpShelf(key);
        shelf.lid = em.create(Lid, { id: 3, shelf });
        await em.flush();
        const never = item(7);
        shelf.items.add(never);
        shelf.items.remove(never);
        em.remove(shelf);
        await em.flush();
        expect(await counts()).toEqual([0, 0, 0]);
      });
    }

    test('what a removed row refers to, and has no key as it was never saved, is none', async () => {
      const { em, shelf, counts, Lid } = await setUpShelf('generated');
      shelf.lid = em.create(Lid, { shelf }, { persist: false });
      em.remove(shelf);
      await em.flush();
      expect(await counts()).toEqual([0, 0, 0]);
    });

    test('pivot rows change without their owner, and a removed item is checked', async () => {
      const db = await setUp();
      const [em, first, second] = await db.authors('tags');
      second!.tags.set(first!.tags.getItems());
      first!.tags.removeAll();
      await em.flush();
      expect([first!.version, second!.version]).toEqual([1, 1]);
      const tags = second!.tags.getItems();
      await touchTheirs(db, Tag, 12);
      tags.forEach((tag) => em.remove(tag));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ entityName: 'Tag', primaryKey: 12 }] });
      expect((await db.authors('tags'))[2]!.tags.getIdentifiers()).toEqual([11, 12]);
    });

    test('taken out of a collection that is loaded, items are updated and checked', async () => {
      const db = await setUp();
      const [stale, ...both] = await db.authors('books');
      both.forEach((author) => author.books.removeAll());
      await touchTheirs(db, Book, 21);
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ entityName: 'Book', primaryKey: 21, operation: 'update', expected: 1, actual: 2 }],
      });
      const [em, first] = await db.authors('books');
      const books = first!.books.getItems();
      first!.books.removeAll();
      await em.flush();
      expect(books.map((book) => book.version)).toEqual([2, 2]);
      const rows = await db.fork().find(Book, {}, { orderBy: { id: 1 } });
      expect(rows.map((book) => [book.author?.id, book.version])).toEqual([
        [undefined, 2],
        [undefined, 2],
        [2, 2],
        [2, 1],
      ]);
    });

    test('removeAll() of a collection that is not loaded is a set-based write: bumped once, not checked', async () => {
      const db = await setUp();
      const [em, first] = await db.authors();
      first!.books.removeAll();
      first!.drafts.removeAll();
      await em.flush();
      const rows = await db.fork().find(Book, {}, { orderBy: { id: 1 } });
      expect(rows.map((book) => [book.author?.id, book.version])).toEqual([
        [undefined, 2],
        [undefined, 2],
        [2, 1],
        [2, 1],
      ]);
      expect(await db.fork().count(Draft)).toBe(2);
      // who has loaded them before is stale
      expect(await em.find(Book, {})).toHaveLength(4);
    });

    test('a removed item and removeAll() of its collection with orphan removal that is not loaded', async () => {
      const db = await setUp();
      const remove = async () => {
        const [em, first] = await db.authors();
        (await em.find(Draft, [11, 21])).forEach((draft) => em.remove(draft));
        first!.drafts.removeAll();
        return em;
      };
      const stale = await remove();
      await touchTheirs(db, Draft, 11);
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ primaryKey: 11, operation: 'delete', expected: 1, actual: 2 }],
      });
      expect(await db.fork().count(Draft)).toBe(4);
      await (await remove()).flush();
      expect((await db.fork().find(Draft, {})).map((draft) => draft.id)).toEqual([22]);
    });

    test('a changed item and removeAll() of its collection that is not loaded, in one flush', async () => {
      const db = await setUp();
      const [em, first] = await db.authors();
      const book = await em.findOneOrFail(Book, 11);
      book.title = 'ours';
      first!.books.removeAll();
      await em.flush();
      const row = await db.fork().findOneOrFail(Book, 11);
      expect(row).toMatchObject({ title: 'ours', author: null, version: 3 });
      // MikroORM does not know which items lost their author, so a loaded one is stale, and says so
      book.title = 'late';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
      await em.refresh(book);
      book.title = 'next';
      await em.flush();
      expect(book).toMatchObject({ author: null, version: 4 });
    });

    test('items added to a collection, loaded or claimed, are bumped once', async () => {
      const db = await setUp();
      const [em, first] = await db.authors('books');
      const loaded = await em.findOneOrFail(Book, 21);
      const claimed = em.getReference(Book, 22);
      claimed.version = 1;
      first!.books.add(loaded, claimed);
      await em.flush();
      expect([loaded.version, claimed.version]).toEqual([2, 2]);
      const rows = await db.fork().find(Book, {}, { orderBy: { id: 1 } });
      expect(rows.map((book) => [book.author!.id, book.version])).toEqual([
        [1, 1],
        [1, 1],
        [1, 2],
        [1, 2],
      ]);
      loaded.title = 'next';
      await em.flush();

      const blind = await db.authors();
      blind[2]!.books.add(blind[0].getReference(Book, 11));
      expect(await thrown(() => blind[0].flush())).toBeInstanceOf(VersionNotLoaded);
    });

    test('a removed row that is changed too, or claimed, or unknown', async () => {
      const db = await setUp();
      const em = db.fork();
      const [dirty, other] = await em.find(Tag, {}, { orderBy: { id: 1 } });
      dirty!.name = 'changed';
      em.remove(dirty!);
      const claimed = em.getReference(Tag, 21);
      claimed.version = 1;
      em.remove(claimed);
      await em.flush();
      expect((await db.fork().find(Tag, {})).map((tag) => tag.id)).toEqual([12, 22]);
      other!.version = 3;
      em.remove(other!);
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ operation: 'delete', expected: 3, actual: 1 }],
      });
      const blind = db.fork();
      blind.remove(blind.getReference(Tag, 22));
      expect(await thrown(() => blind.flush())).toBeInstanceOf(VersionNotLoaded);
      expect(await db.fork().count(Tag)).toBe(2);
    });

    test('updated, then removed in one transaction', async () => {
      const db = await setUp();
      const em = db.fork();
      await em.transactional(async (tx) => {
        const tags = await tx.find(Tag, {});
        tags.forEach((tag) => (tag.name += ' of ours'));
        await tx.flush();
        tags.forEach((tag) => tx.remove(tag));
      });
      expect(await db.fork().count(Tag)).toBe(0);
      // or the other way round: what was removed is created again
      await em.transactional(async (tx) => {
        const books = await tx.find(Book, {});
        books.forEach((book) => tx.remove(book));
        await tx.flush();
        books.forEach(({ id }) => tx.create(Book, { id, title: 'again', version: 1 }));
      });
      expect((await db.fork().find(Book, {})).map((book) => `${book.title} ${book.version}`)).toEqual(
        Array(4).fill('again 1'),
      );
    });

    for (const by of ['key', 'unique value']) {
      for (const count of [1, 4]) {
        test(`${count} removed and created again with the same ${by} in one flush`, async () => {
          const db = await setUp();
          const replace = async () => {
            const em = db.fork();
            const tags = (await em.find(Tag, {}, { orderBy: { id: -1 } })).slice(0, count);
            tags.forEach((tag) => em.remove(tag));
            const created = tags.map(({ id, name }) =>
              Object.assign(new Tag(), by === 'key' ? { id, name: `again ${id}` } : { id: id + 100, name }),
            );
            em.persist(created);
            return { em, created, stale: tags[0]! };
          };
          const { em, created, stale } = await replace();
          await touchTheirs(db, Tag, 22);
          const untouched = await db.rows();
          expect(await thrown(() => em.flush())).toMatchObject({
            conflicts: [{ primaryKey: 22, operation: 'delete', expected: 1, actual: 2 }],
          });
          expect(await db.rows()).toEqual(untouched);
          stale.version = 2;
          await em.flush();
          expect(created.map((tag) => tag.version)).toEqual(Array(count).fill(1));
          created.forEach((tag) => (tag.name += '!'));
          await em.flush();
          const rows = await db.fork().find(Tag, { name: { $like: '%!' } }, { orderBy: { id: -1 } });
          expect(rows.map((tag) => [tag.id, tag.version])).toEqual(created.map((tag) => [tag.id, 2]));
          expect(await db.fork().count(Tag)).toBe(4);
        });
      }
    }

    for (const inheritance of ['sti', 'tpt'] as const) {
      test(`what refers to it by a class above does not bring it back (${inheritance})`, async () => {
        class Person {
          id!: number;
          n!: number;
          boss?: Person | null;
          staff = new Collection<Person>(this);
          deputy?: Person | null;
          version!: number;
        }
        class Employee extends Person {
          salary?: number | null;
        }
        const person = defineEntity({
          class: Person,
          ...(inheritance === 'sti' ? { discriminatorColumn: 'kind' } : { inheritance }),
          properties: {
            id: p.integer().primary().autoincrement(false),
            n: p.integer().default(0),
            boss: () => p.manyToOne(Person).nullable(),
            staff: () => p.oneToMany(Person).mappedBy('boss'),
            deputy: () => p.manyToOne(Person).nullable().deleteRule('set null'),
            version,
          },
        } as never);
        const employee = defineEntity({
          class: Employee,
          extends: Person,
          properties: { salary: p.integer().nullable() },
        } as never);
        const { fork } = await open(driver, [person, employee]);
        const seed = fork();
        const boss = seed.create(Person, { id: 1, n: 0 } as never);
        await seed.flush();
        boss.deputy = seed.create(Employee, { id: 2, n: 0, boss } as never);
        await seed.flush();
        const em = fork();
        const [first, second] = await em.find(Person, {}, { populate: ['staff'], orderBy: { id: 1 } });
        const removed = async () => {
          em.remove(second!);
          await em.flush();
          first!.n++;
          await em.flush();
        };
        await em.begin();
        await removed();
        expect([first!.staff.length, first!.deputy ?? null]).toEqual([0, null]);
        await em.rollback();
        expect([first!.staff.getItems(), first!.deputy]).toEqual([[second], second]);
        await removed();
        expect((await fork().find(Person, {})).map(({ id }) => id)).toEqual([1]);
      });
    }
  });

  cascades(driver);
}

interface Part {
  id: number;
  label: string | null;
  next: Part | null;
  version: number;
}

class Base {
  id!: number;
}

/** Classes of which each refers to the next one, `on delete cascade`; in a ring, the last one to the first. */
function chain(names: string[], more: { ring?: boolean; byDefault?: boolean; unversioned?: string } = {}) {
  const classes = names.map((name) => ({ [name]: class extends Base {} })[name] as unknown as new () => Part);
  return classes.map((Class, i) => {
    const next = () => {
      const relation = p.manyToOne(classes[(i + 1) % classes.length]!);
      return more.byDefault ? relation : relation.nullable().deleteRule('cascade');
    };
    const properties = {
      id: p.integer().primary(),
      label: p.string().nullable().unique(),
      ...(more.ring || i < names.length - 1 ? { next } : {}),
      ...(more.unversioned === names[i] ? {} : { version }),
    };
    return defineEntity({ class: Class, properties } as never) as unknown as EntitySchema<Part>;
  });
}

function cascades(driver: TestDriver): void {
  describe('cascades of the database', () => {
    for (const names of [['Folder'], ['Ping', 'Pong'], ['Red', 'Green', 'Blue']]) {
      for (const length of [names.length, names.length * 4]) {
        test(`a ring of ${length} rows in ${names.join(', ')}`, async () => {
          const entities = chain(names, { ring: true });
          const db = await open(driver, entities, { batchSize: 3 });
          const entityOf = (i: number) => entities[i % entities.length]!;
          const id = (i: number) => Math.floor(i / entities.length) + 1;
          const seed = db.fork();
          const rows = Array.from({ length }, (_, i) => seed.create(entityOf(i), { id: id(i), version: 1 } as never));
          await seed.flush();
          rows.forEach((row, i) => (row.next = rows[(i + 1) % length]!));
          await seed.flush();
          const load = async () => {
            const em = db.fork();
            const found: Part[] = [];
            for (let i = 0; i < length; i++) {
              found.push(await em.findOneOrFail(entityOf(i), id(i)));
            }
            return [em, found] as const;
          };
          const count = async () => {
            const counts = await Promise.all(entities.map((entity) => db.fork().count(entity)));
            return counts.reduce((a, b) => a + b);
          };

          // one of them is stale, then one is gone
          for (let i = 0; i < length; i += Math.ceil(length / 3)) {
            const [em, parts] = await load();
            const [theirs, same] = await load();
            touch(same[i]!);
            await theirs.flush();
            parts.forEach((part) => em.remove(part));
            expect(await thrown(() => em.flush())).toMatchObject({
              conflicts: [{ primaryKey: id(i), operation: 'delete', expected: 2, actual: 3 }],
            });
            expect(await count()).toBe(length);
            await db.fork().nativeUpdate(entityOf(i), id(i), { version: 2 } as never);
          }
          const [em, parts] = await load();
          parts.forEach((part) => em.remove(part));
          await em.flush();
          expect(await count()).toBe(0);
        });
      }
    }

    /** Rows 1 and 2 of every class, which refer to the same row of the next class. */
    const setUp = async (entities: EntitySchema<Part>[], more: Partial<Options> = {}) => {
      const db = await open(driver, entities, more);
      const em = db.fork();
      for (const id of [1, 2]) {
        let next = null as Part | null;
        for (const entity of entities.toReversed()) {
          next = em.create(entity, { id, label: `label ${id}`, ...(next ? { next } : {}) } as never);
        }
      }
      await em.flush();
      const load = async (...of: EntitySchema<Part>[]) => {
        const ours = db.fork();
        const parts: Part[] = [];
        for (const entity of of) {
          parts.push(...(await ours.find(entity, {}, { orderBy: { id: 1 } })));
        }
        return [ours, parts] as const;
      };
      const left = async () => (await load(...entities))[1].length;
      return { ...db, load, left };
    };

    test('parts and wholes that are removed together cost no SELECT', async () => {
      const entities = chain(['Page', 'Chapter', 'Volume']);
      const { load, sent, left } = await setUp(entities);
      const [em, parts] = await load(...entities);
      parts.forEach((part) => em.remove(part));
      const log = await sent(() => em.flush());
      expect(log.some((sql) => sql.startsWith('select'))).toBe(false);
      expect(await left()).toBe(0);
    });

    for (const more of [{}, { unversioned: 'Chapter' }, { unversioned: 'Volume' }, { byDefault: true }]) {
      for (const order of ['downwards', 'upwards']) {
        test(`the table between is not loaded, ${order}, ${JSON.stringify(more)}`, async () => {
          const entities = chain(['Page', 'Chapter', 'Volume'], more);
          const { fork, load, left } = await setUp(entities, { schemaGenerator: { defaultDeleteRule: 'cascade' } });
          const [page, , volume] = entities as [EntitySchema<Part>, EntitySchema<Part>, EntitySchema<Part>];
          const remove = async () => {
            const [em, parts] = await load(...(order === 'upwards' ? [page, volume] : [volume, page]));
            parts.forEach((part) => em.remove(part));
            return em;
          };
          const stale = await remove();
          const theirs = fork();
          touch(await theirs.findOneOrFail(page, 2));
          await theirs.flush();
          expect(await thrown(() => stale.flush())).toMatchObject({
            conflicts: [{ entityName: 'Page', primaryKey: 2, operation: 'delete', expected: 1, actual: 2 }],
          });
          expect(await left()).toBe(6);
          await (await remove()).flush();
          expect(await left()).toBe(0);
        });
      }
    }

    test('a whole that is removed and created again, and its parts are removed', async () => {
      const [page, volume] = chain(['Page', 'Volume']) as [EntitySchema<Part>, EntitySchema<Part>];
      const { fork, load, left } = await setUp([page, volume]);
      const replace = async () => {
        const [em, parts] = await load(page, volume);
        parts.forEach((part) => em.remove(part));
        em.create(volume, { id: 3, label: 'label 1' } as never);
        return em;
      };
      const stale = await replace();
      const theirs = fork();
      touch(await theirs.findOneOrFail(page, 2));
      await theirs.flush();
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ entityName: 'Page', primaryKey: 2, operation: 'delete', expected: 1, actual: 2 }],
      });
      expect(await left()).toBe(4);
      await (await replace()).flush();
      expect(await left()).toBe(1);
    });
  });
}
