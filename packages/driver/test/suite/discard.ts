/**
 * Rolled back is rolled back: a transaction or savepoint that rolls back after a flush in it had succeeded discards what
 * that flush wrote, in memory as in the database, and nothing of it is pending. What a flush that fails leaves pending
 * is in undo.ts.
 */
import {
  type Collection,
  DecimalType,
  type EntityManager,
  type EntityProperty,
  FlushMode,
  type Opt,
  ReferenceKind,
  TransactionPropagation,
  Utils,
  defineEntity,
  helper,
  p,
} from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

interface Address {
  city: string;
  zip: string | null;
  since: Date | null;
}
class Author {
  id!: number;
  name!: string;
  slug!: string | null;
  born!: Date | null;
  price!: string | null;
  settings!: unknown;
  words!: string[] | null;
  home!: Address | null;
  office!: Address | null;
  places!: Address[] | null;
  spouse!: Author | null;
  spouseOf!: Author | null;
  books!: Collection<Book>;
  friends!: Collection<Author>;
  friendOf!: Collection<Author>;
  version!: Opt<number>;
}
class Book {
  id!: number;
  title!: string;
  author!: Author | null;
  version!: Opt<number>;
}
class Shelf {
  author!: Author;
  no!: number;
  label!: string;
  version!: Opt<number>;
}
/** Has no version. */
class Log {
  id!: number;
  line!: string;
}

const addressOf = (name: string) =>
  defineEntity({
    name,
    embeddable: true,
    properties: { city: p.string(), zip: p.string().nullable(), since: p.datetime(3).nullable() },
  });
const Home = addressOf('Home');

function entitiesOf(generated: boolean, orphanRemoval: boolean) {
  return [
    Home,
    defineEntity({
      class: Author,
      properties: {
        id: generated ? p.integer().primary().autoincrement() : p.integer().primary().autoincrement(false),
        name: p.string(),
        slug: p.string().unique().nullable(),
        born: p.datetime(3).nullable(),
        price: p.type(DecimalType).precision(10).scale(2).nullable(),
        settings: p.json().nullable(),
        words: p.array().nullable(),
        home: () => p.embedded(Home).nullable(),
        office: () => p.embedded(Home).object().nullable(),
        places: () => p.embedded(Home).array().nullable(),
        spouse: () => p.oneToOne(Author).inversedBy('spouseOf').nullable(),
        spouseOf: () => p.oneToOne(Author).mappedBy('spouse').nullable(),
        books: () =>
          orphanRemoval ? p.oneToMany(Book).mappedBy('author').orphanRemoval() : p.oneToMany(Book).mappedBy('author'),
        friends: () => p.manyToMany(Author).inversedBy('friendOf').owner(),
        friendOf: () => p.manyToMany(Author).mappedBy('friends'),
        version: p.type(VersionField),
      },
    }),
    defineEntity({
      class: Book,
      properties: {
        id: generated ? p.integer().primary().autoincrement() : p.integer().primary().autoincrement(false),
        title: p.string(),
        author: () => p.manyToOne(Author).nullable(),
        version: p.type(VersionField),
      },
    }),
    // a foreign key in the key, and a key that may change
    defineEntity({
      class: Shelf,
      properties: {
        author: () => p.manyToOne(Author).primary(),
        no: p.integer().primary(),
        label: p.string(),
        version: p.type(VersionField),
      },
    }),
    defineEntity({ class: Log, properties: { id: p.integer().primary().autoincrement(false), line: p.string() } }),
  ] as never[];
}

class Stop extends Error {}
const stop = async () => {
  throw new Stop('changed my mind');
};

const nameOf = (entity: unknown): string | null => {
  const { name, title, label } = (entity ?? {}) as { name?: string; title?: string; label?: string };
  return name ?? title ?? label ?? null;
};

function valueOf(entity: object, { name, kind }: EntityProperty): unknown {
  const value: unknown = (entity as Record<string, unknown>)[name];
  if (Utils.isCollection(value)) {
    return value.isInitialized() ? (value.getItems(false) as object[]).map(nameOf).toSorted() : 'not loaded';
  }
  if (kind === ReferenceKind.MANY_TO_ONE || kind === ReferenceKind.ONE_TO_ONE) {
    return nameOf(value);
  }
  return value instanceof Date ? value.toISOString() : value == null ? null : JSON.parse(JSON.stringify(value));
}

/** Everything that an EntityManager has in memory. */
function memoryOf(em: EntityManager): Record<string, unknown> {
  const all = [...em.getUnitOfWork(false).getIdentityMap()].map((entity) => {
    const { __meta: meta, __managed, __em } = helper(entity);
    const props = meta.props.filter((prop: EntityProperty) => !prop.embedded);
    const name = `${meta.className} ${String(nameOf(entity) ?? helper(entity).getSerializedPrimaryKey())}`;
    const values = props.map((prop: EntityProperty) => [`${name}: ${prop.name}`, valueOf(entity, prop)]);
    return Object.fromEntries([...values, [`${name} is managed`, __managed && __em === em]]);
  });
  return Object.assign({}, ...all);
}

export function discards(driver: TestDriver): void {
  /** Ann, Bob and Cid, with two books each; Ann and Bob are married, Ann has both for friends. */
  const setUp = async (generated = false, orphanRemoval = true) => {
    const db = await open(driver, entitiesOf(generated, orphanRemoval));
    const seed = db.fork();
    const [ann, bob, cid] = ['Ann', 'Bob', 'Cid'].map((name, i) =>
      seed.create(Author, {
        ...(generated ? {} : { id: i + 1 }),
        name,
        slug: `slug ${name}`,
        born: new Date(Date.UTC(1970, 0, i + 1, 2, 3, 4, 5)),
        price: `${i}.50`,
        settings: { theme: 'dark', list: [1, { two: null }] },
        words: ['a', 'b'],
        home: { city: 'X', zip: '1', since: new Date(Date.UTC(2000, 1, 1)) },
        office: { city: 'O', zip: null, since: new Date(Date.UTC(2001, 1, 1)) },
        places: [
          { city: 'P', zip: '1', since: null },
          { city: 'Q', zip: null, since: new Date(Date.UTC(2002, 1, 1)) },
        ],
      } as never),
    );
    await seed.flush();
    for (const [i, author] of [ann!, bob!, cid!].entries()) {
      for (const no of [1, 2]) {
        const title = `${author.name} ${no}`;
        seed.create(Book, { ...(generated ? {} : { id: 10 * (i + 1) + no }), title, author } as never);
        seed.create(Shelf, { author, no, label: title } as never);
      }
    }
    ann!.spouse = bob!;
    ann!.friends.add(bob!, cid!);
    seed.create(Log, { id: 1, line: 'seed' });
    await seed.flush();
    // what was written twice has version 2; start at 1
    const connection = db.fork().getConnection();
    await connection.execute('update author set version = 1');
    const state = async () => ({
      authors: await connection.execute('select * from author order by id'),
      friends: await connection.execute('select * from author_friends order by 1, 2'),
      books: await connection.execute('select * from book order by id'),
      shelves: await connection.execute('select * from shelf order by 1, 2'),
      log: await connection.execute('select * from log order by id'),
    });
    const load = async (em: SqlEntityManager) => {
      const populate = ['books', 'friends', 'friendOf', 'spouse', 'spouseOf'] as never;
      const [a, b, c] = await em.find(Author, {}, { populate, orderBy: { name: 'asc' } });
      const shelves = await em.find(Shelf, {}, { orderBy: { label: 'asc' } });
      const log = await em.findOneOrFail(Log, 1);
      return { ann: a!, bob: b!, cid: c!, shelves, log };
    };
    type Loaded = Awaited<ReturnType<typeof load>>;
    const byTitle = ({ ann, bob, cid }: Loaded, title: string) =>
      [ann, bob, cid].flatMap((author) => author.books.getItems()).find((book) => book.title === title)!;

    /** Everything that a flush can do, in two flushes of which the second changes the same rows again. */
    const change = async (em: EntityManager, loaded: Loaded) => {
      const { ann, bob, cid, shelves, log } = loaded;
      const [moved, removed, orphan] = ['Ann 1', 'Bob 1', 'Bob 2'].map((title) => byTitle(loaded, title));
      ann.name = 'Anna';
      ann.slug = null;
      ann.born = new Date(Date.UTC(1999, 1, 1));
      ann.price = '7.25';
      (ann.settings as { theme: string }).theme = 'light';
      ann.words!.push('c');
      ann.home!.city = 'Y';
      ann.office = null;
      ann.places![0]!.city = 'R';
      bob.born = null;
      bob.home = null;
      bob.office!.city = 'Z';
      bob.settings = 'text';
      bob.words = null;
      bob.places = null;
      ann.spouse = cid;
      ann.friends.remove(bob);
      bob.friends.add(ann);
      moved!.author = cid;
      em.remove(removed!);
      bob.books.remove(orphan!);
      shelves[0]!.no = 7;
      shelves[1]!.label = 'other';
      em.remove(shelves[2]!);
      log.line = 'changed';
      const dan = em.create(Author, { ...(generated ? {} : { id: 4 }), name: 'Dan', slug: 'slug Ann' } as never);
      const book = em.create(Book, { ...(generated ? {} : { id: 99 }), title: 'new', author: dan } as never);
      const line = em.create(Log, { id: 9, line: 'new' });
      dan.friends.add(ann);
      ann.friends.add(dan);
      await em.flush();
      ann.name = 'Annie';
      ann.home = { city: 'V', zip: null, since: null };
      ann.friends.removeAll();
      touch(cid);
      dan.name = 'Daniel';
      bob.books.add(book);
      log.line = 'changed twice';
      await em.flush();
      return { dan, book, line, removed: [removed!, orphan!, shelves[2]!] };
    };
    return { ...db, state, load, change };
  };
  type Db = Awaited<ReturnType<typeof setUp>>;
  type Loaded = Awaited<ReturnType<Db['load']>>;
  type Change = Db['change'];
  type Changed = Awaited<ReturnType<Change>>;

  const failCommit = (em: EntityManager) => {
    let failing = true;
    em.getEventManager().registerSubscriber({
      beforeTransactionCommit: async () => {
        if (failing) {
          failing = false;
          await stop();
        }
      },
    });
  };

  /** Ways in which a transaction is rolled back after its flushes had succeeded. */
  const ways: Record<string, (em: EntityManager, loaded: Loaded, change: Change) => Promise<Changed>> = {
    'em.begin() and em.rollback()': async (em, loaded, change) => {
      await em.begin();
      const changed = await change(em, loaded);
      await em.rollback();
      return changed;
    },
    'em.begin() and an em.commit() that fails': async (em, loaded, change) => {
      await em.begin();
      const changed = await change(em, loaded);
      failCommit(em);
      expect(await thrown(() => em.commit())).toBeInstanceOf(Stop);
      await em.rollback();
      return changed;
    },
    'an error out of em.transactional()': async (em, loaded, change) => {
      let changed: Changed;
      await thrown(() =>
        em.transactional(async (tx) => {
          changed = await change(tx, loaded);
          await stop();
        }),
      );
      return changed!;
    },
    'em.rollback() in em.transactional()': async (em, loaded, change) => {
      let changed: Changed;
      await thrown(() =>
        em.transactional(async (tx) => {
          changed = await change(tx, loaded);
          await tx.rollback();
        }),
      ).catch(() => {});
      return changed!;
    },
    'a COMMIT of em.transactional() that fails': async (em, loaded, change) => {
      let changed: Changed;
      failCommit(em);
      const error = await thrown(() => em.transactional(async (tx) => (changed = await change(tx, loaded))));
      expect(error).toBeInstanceOf(Stop);
      return changed!;
    },
    'a savepoint in a transaction that commits': async (em, loaded, change) => {
      let changed: Changed;
      await em.transactional(async (tx) => {
        await thrown(() =>
          tx.transactional(async (inner) => {
            changed = await change(inner, loaded);
            await stop();
          }),
        );
        await tx.flush();
      });
      return changed!;
    },
    'savepoints that were released into a transaction which rolls back': async (em, loaded, change) => {
      let changed: Changed;
      await thrown(() =>
        em.transactional(async (tx) => {
          await tx.transactional(async (inner) => {
            await inner.transactional(async (innermost) => (changed = await change(innermost, loaded)));
          });
          await stop();
        }),
      );
      return changed!;
    },
    'a transaction that joins the one around it (REQUIRED)': async (em, loaded, change) => {
      let changed: Changed;
      await thrown(() =>
        em.transactional(async (tx) => {
          const propagation = TransactionPropagation.REQUIRED;
          await tx.transactional(async (same) => (changed = await change(same, loaded)), { propagation });
          await stop();
        }),
      );
      return changed!;
    },
  };

  for (const generated of [false, true]) {
    describe(`rolled back is rolled back, ${generated ? 'generated' : 'given'} keys`, () => {
      for (const [way, run] of Object.entries(ways)) {
        test(`${way}: memory is that of the database again, and nothing is pending`, async () => {
          const { fork, state, load, change, sent } = await setUp(generated);
          const em = fork();
          const loaded = await load(em);
          const before = { database: await state(), memory: memoryOf(em) };
          const { dan, book, line, removed } = await run(em, loaded, change);
          expect(await state()).toEqual(before.database);
          expect(memoryOf(em)).toEqual(before.memory);
          expect(removed.map((entity) => helper(entity).__managed)).toEqual([true, true, true]);
          for (const created of [dan, book, line]) {
            expect([helper(created).__managed, helper(created).__em]).toEqual([false, undefined]);
            expect(em.getUnitOfWork().getPersistStack().has(created)).toBe(false);
          }
          expect([dan.version, book.version, dan.name]).toEqual([undefined, undefined, 'Daniel']);
          expect([dan.id, book.id]).toEqual(generated ? [undefined, undefined] : [4, 99]);
          expect(await sent(() => em.flush())).toEqual([]);
          em.create(Log, { id: 2, line: 'only this' });
          await em.flush();
          await em.find(Author, {});
          expect(await state()).toEqual({
            ...before.database,
            log: [...before.database.log, expect.objectContaining({ id: 2, line: 'only this' })],
          });
        });
      }

      test('the same again, on the same EntityManager, and as by another one that does it once', async () => {
        const once = await setUp(generated);
        await once.fork().transactional(async (tx) => {
          await once.change(tx, await once.load(tx as SqlEntityManager));
        });
        const { fork, state, load, change } = await setUp(generated);
        const em = fork();
        const loaded = await load(em);
        for (let i = 0; i < 2; i++) {
          await ways['em.begin() and em.rollback()']!(em, loaded, change);
        }
        await em.begin();
        await change(em, loaded);
        await em.commit();
        const withoutKeys = (rows: unknown) =>
          JSON.parse(
            JSON.stringify(rows, (key, value) => (generated && /^(id|.*_id|author_[12])$/.test(key) ? 0 : value)),
          );
        expect(withoutKeys(await state())).toEqual(withoutKeys(await once.state()));
      });

      test('what was inserted can be persisted again, with what belongs to it', async () => {
        const { fork, state, load } = await setUp(generated);
        const em = fork();
        const { ann } = await load(em);
        await em.begin();
        const dan = em.create(Author, { ...(generated ? {} : { id: 4 }), name: 'Dan', home: { city: 'H' } } as never);
        dan.friends.add(ann);
        dan.spouse = ann;
        em.create(Book, { ...(generated ? {} : { id: 99 }), title: 'new', author: dan } as never);
        await em.flush();
        await em.rollback();
        dan.name = 'Daniel';
        await em.flush();
        expect((await state()).authors).toHaveLength(3);
        em.persist(dan);
        await em.flush();
        const after = await state();
        expect(after.authors[3]).toMatchObject({ name: 'Daniel', home_city: 'H', version: 1 });
        expect([after.friends.length, after.books.length]).toEqual([3, 7]);
        expect(after.books[6]).toMatchObject({ title: 'new', author_id: dan.id, version: 1 });
      });
    });
  }

  describe('rolled back is rolled back', () => {
    test('a new entity with a getter, whose value is no column', async () => {
      class Person {
        id!: number;
        name!: string;
        version?: number;
        get label(): string {
          return `${this.name}!`;
        }
      }
      const schema = defineEntity({
        class: Person,
        properties: {
          id: p.integer().primary().autoincrement(),
          name: p.string(),
          label: p.string().persist(false),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [schema]);
      const em = fork();
      const person = em.create(Person, { name: 'ann' } as never);
      await em.begin();
      await em.flush();
      await em.rollback();
      expect([person.id, person.version, person.label]).toEqual([undefined, undefined, 'ann!']);
      await em.persist(person).flush();
      expect((await fork().findOneOrFail(Person, person.id)).label).toBe('ann!');
    });

    test('what was assigned after the flush stays, unsaved', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob, cid } = await load(em);
      const [price, bobs] = [ann.price, bob.price];
      await em.begin();
      ann.name = 'Anna';
      ann.price = '7.25';
      ann.home!.city = 'Y';
      ann.home!.zip = '2';
      ann.friends.remove(bob);
      bob.version = 1;
      bob.price = '8.25';
      await em.flush();
      const dan = em.create(Author, { id: 4, name: 'Dan' } as never);
      ann.name = 'Annie';
      ann.home!.city = 'Z';
      ann.friends.remove(cid);
      ann.friends.add(dan);
      cid.name = 'Cidney';
      bob.version = 7;
      await em.rollback();
      expect([ann.name, ann.price, ann.home!.city, ann.home!.zip]).toEqual(['Annie', price, 'Z', '1']);
      expect(ann.friends.getItems().map(nameOf).toSorted()).toEqual(['Bob', 'Dan']);
      expect([ann.version, bob.version, bob.price]).toEqual([1, 7, bobs]);
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      bob.version = 1;
      await em.flush();
      const { authors, friends } = await state();
      expect(authors).toMatchObject([
        { name: 'Annie', home_city: 'Z', home_zip: '1', version: 2 },
        { name: 'Bob', version: 1 },
        { name: 'Cidney', version: 2 },
        { name: 'Dan', version: 1 },
      ]);
      expect(friends).toHaveLength(2);
    });

    test('a value that is assigned back to what an earlier flush has written is the user’s', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann } = await load(em);
      await em.begin();
      for (const name of ['one', 'two']) {
        ann.name = name;
        await em.flush();
      }
      ann.name = 'one';
      await em.rollback();
      expect([ann.name, ann.version]).toEqual(['one', 1]);
      await em.flush();
      expect((await state()).authors[0]).toMatchObject({ name: 'one', version: 2 });
    });

    test('what a flush that failed left pending stays pending when its transaction rolls back', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob, cid, shelves } = await load(em);
      await em.begin();
      ann.name = 'discarded';
      const dan = em.create(Author, { id: 4, name: 'Dan' } as never);
      em.remove(shelves[0]!);
      await em.flush();
      bob.name = 'pending';
      em.create(Author, { id: 5, name: 'Eve' } as never);
      em.remove(shelves[1]!);
      cid.version = 7;
      cid.name = 'stale';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      await em.rollback();
      cid.version = 1;
      cid.name = 'Cid';
      expect([ann.name, helper(dan).__managed, helper(shelves[0]!).__managed]).toEqual(['Ann', false, true]);
      await em.flush();
      const after = await state();
      expect(after.authors.map(nameOf)).toEqual(['Ann', 'pending', 'Cid', 'Eve']);
      expect(after.shelves).toHaveLength(5);
    });

    test('a savepoint discards its own part only', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob } = await load(em);
      await em.transactional(async (tx) => {
        ann.name = 'outer';
        const eve = tx.create(Author, { id: 5, name: 'Eve' } as never);
        await tx.flush();
        await thrown(() =>
          tx.transactional(async (inner) => {
            ann.name = 'inner';
            eve.name = 'inner';
            bob.name = 'inner';
            await inner.flush();
            await stop();
          }),
        );
        expect([ann.name, ann.version, eve.name, eve.version, bob.name, bob.version]).toEqual([
          'outer',
          2,
          'Eve',
          1,
          'Bob',
          1,
        ]);
        ann.price = '9.75';
      });
      const { authors } = await state();
      expect(authors.map(nameOf)).toEqual(['outer', 'Bob', 'Cid', 'Eve']);
      expect(authors.map((author: { version?: number }) => author.version)).toEqual([3, 1, 1, 1]);
    });

    test('what was pending outside, and was flushed and rolled back inside, is not pending outside', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob, shelves } = await load(em);
      const before = await state();
      const dan = em.create(Author, { id: 4, name: 'Dan' } as never);
      ann.name = 'Anna';
      bob.books.removeAll();
      em.remove(shelves[0]!);
      await thrown(() =>
        em.transactional(async (tx) => {
          tx.remove(shelves[0]!);
          await thrown(() =>
            tx.transactional(async (inner) => {
              await inner.flush();
              await stop();
            }),
          );
          await tx.flush();
          await stop();
        }),
      );
      await em.flush();
      expect(await state()).toEqual(before);
      expect([ann.name, bob.books.length, helper(dan).__managed]).toEqual(['Ann', 2, false]);
    });

    test('what was created for a parent that it lost again leaves the collection of that parent', async () => {
      const { fork, state, load } = await setUp(false, false);
      const em = fork();
      const { ann } = await load(em);
      const before = await state();
      await em.begin();
      const book = em.create(Book, { id: 99, title: 'lost', author: ann } as never) as Book;
      book.author = null;
      await em.flush();
      await em.rollback();
      await em.flush();
      expect(await state()).toEqual(before);
      expect(ann.books.length).toBe(2);
    });

    for (const generated of [false, true]) {
      const key = (id: number) => (generated ? {} : { id });
      test(`what was never saved and went with its parent is not inserted (${generated ? 'generated' : 'given'} keys)`, async () => {
        const { fork, state, load, sent } = await setUp(generated);
        await fork().transactional(async (tx) => tx.create(Author, { ...key(4), name: 'Dan' } as never));
        const em = fork();
        await load(em);
        const before = { database: await state(), memory: memoryOf(em) };
        const dan = await em.findOneOrFail(Author, { name: 'Dan' }, { populate: ['books'] as never });
        await thrown(() =>
          em.transactional(async (tx) => {
            dan.books.add(tx.create(Book, { ...key(98), title: 'never', author: dan } as never, { persist: false }));
            tx.remove(dan);
            await tx.flush();
            await stop();
          }),
        );
        expect(await sent(() => em.flush())).toEqual([]);
        expect([await state(), memoryOf(em)]).toEqual([before.database, before.memory]);
      });
    }

    test('the other side of a one-to-one has again what was read: null, or what was removed for a new one', async () => {
      const User = defineEntity({
        name: 'User',
        properties: {
          id: p.integer().primary().autoincrement(false),
          pet: () => p.oneToOne(Pet).mappedBy('owner').nullable(),
          version: p.type(VersionField),
        },
      });
      const Pet = defineEntity({
        name: 'Pet',
        properties: {
          id: p.integer().primary().autoincrement(false),
          owner: () => p.oneToOne(User).owner().nullable(),
          version: p.type(VersionField),
        },
      });
      const { fork, sent } = await open(driver, [User, Pet] as never[]);
      const seed = fork();
      seed.create(Pet, { id: 1, owner: seed.create(User, { id: 1 }) });
      seed.create(User, { id: 2 });
      seed.create(User, { id: 3 });
      await seed.flush();
      const em = fork();
      const [one, none] = (await em.find(User, { id: [1, 2] }, { populate: ['pet'] as never, orderBy: { id: 1 } })) as {
        pet: object | null | undefined;
      }[];
      const part = (await em.findOneOrFail(User, 3, { fields: ['id'] as never })) as unknown as { pet?: object };
      const pet = one!.pet!;
      expect([none!.pet, part.pet]).toEqual([null, undefined]);
      await thrown(() =>
        em.transactional(async (tx) => {
          tx.remove(pet);
          await tx.flush();
          one!.pet = tx.create(Pet, { id: 2 });
          none!.pet = tx.create(Pet, { id: 3 });
          part.pet = tx.create(Pet, { id: 4 });
          await tx.flush();
          await stop();
        }),
      );
      expect(one!.pet).toBe(pet);
      expect([none!.pet, part.pet]).toEqual([null, undefined]);
      expect(await sent(() => em.flush())).toEqual([]);
      one!.pet = null;
      none!.pet = pet;
      await em.flush();
      expect(await fork().findOneOrFail(Pet, 1)).toMatchObject({ owner: { id: 2 }, version: 2 });
    });

    test('a collection that had been given an item is not changed when the item goes back', async () => {
      const { fork, load, sent } = await setUp();
      const em = fork();
      const { ann, bob } = await load(em);
      await em.populate([ann, bob], ['books'] as never);
      const book = ann.books.getItems()[0]!;
      for (const move of [() => bob.books.add(book), () => (book.author = bob)]) {
        await em.begin();
        move();
        await em.flush();
        await em.rollback();
        expect([ann.books.contains(book), bob.books.contains(book)]).toEqual([true, false]);
        expect([ann.books.isDirty(), bob.books.isDirty()]).toEqual([false, false]);
        expect(await sent(() => em.flush())).toEqual([]);
      }
    });

    test('links that were removed before stay removed when what they pointed to comes back', async () => {
      const { fork, state, sent } = await setUp();
      const seed = fork();
      const friends = [4, 5].map((id) => seed.create(Author, { id, name: `friend ${id}` } as never));
      (await seed.findOneOrFail(Author, 1, { populate: ['friends'] as never })).friends.add(friends);
      await seed.flush();
      const em = fork();
      const [ann, bob, , dan, eve] = await em.find(Author, {}, { populate: ['friends'] as never, orderBy: { id: 1 } });
      const remove = (one: Author) =>
        thrown(() =>
          em.transactional(async (tx) => {
            tx.remove(one);
            await tx.flush();
            await stop();
          }),
        );
      // those of which Dan is the friend are not loaded
      ann!.friends.remove(dan!);
      await em.flush();
      const after = await state();
      await remove(dan!);
      expect([nameOf(dan), valueOf(ann!, helper(ann!).__meta.properties.friends as never)]).toEqual([
        'friend 4',
        ['Bob', 'Cid', 'friend 5'],
      ]);
      expect(await sent(() => em.flush())).toEqual([]);
      expect(await state()).toEqual(after);
      await remove(eve!);
      expect(ann!.friends.contains(eve!)).toBe(true);
      expect(await sent(() => em.flush())).toEqual([]);
      expect(await state()).toEqual(after);
      expect(bob!.friends.length).toBe(0);
    });

    test('what an earlier flush has removed does not come back with a collection', async () => {
      const { fork, state, load, sent } = await setUp();
      await fork().transactional(async (tx) => tx.create(Author, { id: 4, name: 'Dan' } as never));
      const em = fork();
      const { bob } = await load(em);
      const dan = await em.findOneOrFail(Author, 4, { populate: ['friendOf'] as never });
      const eve = em.create(Author, { id: 5, name: 'Eve' } as never);
      eve.friends.add(dan);
      em.remove(dan);
      await em.flush();
      const after = await state();
      await thrown(() =>
        em.transactional(async (tx) => {
          eve.friends.set([bob]);
          await tx.flush();
          await stop();
        }),
      );
      expect(await sent(() => em.flush())).toEqual([]);
      expect(await state()).toEqual(after);
      expect(eve.friends.getItems()).toEqual([]);
    });

    test('an orphan whose parent was loaded outside is removed by the transaction, or not at all', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob } = await load(em);
      const before = await state();
      const discarded = async (tx: EntityManager) => {
        ann.books.removeAll();
        await tx.flush();
        await stop();
      };
      await thrown(() => em.transactional(discarded));
      await em.flush();
      expect(await state()).toEqual(before);
      expect(ann.books.length).toBe(2);
      const [first, second] = bob.books.getItems();
      const books = await fork().count(Book);
      await em.transactional(async () => bob.books.remove(first!));
      expect(await fork().count(Book)).toBe(books - 1);
      // one that has its parent again is none
      bob.books.remove(second!);
      await em.transactional(async (tx) => {
        bob.books.add(second!);
        await tx.flush();
      });
      await em.flush();
      expect(await fork().count(Book)).toBe(books - 1);
    });

    test('a read that flushes first commits nothing of it', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, bob } = await load(em);
      const before = await state();
      em.setFlushMode(FlushMode.ALWAYS);
      await em.begin();
      em.create(Author, { id: 4, name: 'Dan' } as never);
      ann.name = 'Anna';
      em.remove(bob.books.getItems()[0]!);
      expect(await em.find(Author, { name: 'Anna' })).toEqual([ann]);
      await em.rollback();
      expect(await em.find(Author, { name: 'Anna' })).toEqual([]);
      expect(await em.count(Book)).toBe(6);
      expect(await state()).toEqual(before);
    });

    test('an entity of a class without a version', async () => {
      const { fork, state, load, sent } = await setUp();
      const em = fork();
      const { log } = await load(em);
      const before = await state();
      await em.begin();
      log.line = 'changed';
      const line = em.create(Log, { id: 9, line: 'new' });
      await em.flush();
      em.remove(line);
      em.remove(log);
      await em.flush();
      await em.rollback();
      expect([log.line, helper(log).__managed, helper(line).__managed]).toEqual(['seed', true, false]);
      expect(await sent(() => em.flush())).toEqual([]);
      expect(await state()).toEqual(before);
      em.remove(log);
      await em.flush();
      expect((await state()).log).toEqual([]);
    });

    test('a claim, a touch, a claimed reference, an upsert of the flush’s rows', async () => {
      const { fork, state, load, sent } = await setUp();
      const other = fork();
      const ref = other.getReference(Author, 3);
      ref.version = 1;
      ref.name = 'claimed';
      await other.begin();
      await other.flush();
      expect(ref.version).toBe(2);
      await other.rollback();
      expect([ref.name, ref.version, helper(ref).__initialized]).toEqual([undefined, undefined, false]);
      ref.name = 'again';
      expect(await thrown(() => other.flush())).toBeInstanceOf(VersionNotLoaded);

      const em = fork();
      const { ann, bob } = await load(em);
      await fork().nativeUpdate(Author, { id: 2 }, { price: '3.00' } as never);
      await em.begin();
      touch(ann);
      bob.version = 2;
      await em.flush();
      expect([ann.version, bob.version]).toEqual([2, 2]);
      await em.rollback();
      expect([ann.version, bob.version]).toEqual([1, 1]);
      expect(await sent(() => em.flush())).toEqual([]);
      bob.name = 'stale';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      await em.refresh(bob);
      touch(ann);
      await em.flush();
      expect((await state()).authors).toMatchObject([{ version: 2 }, { version: 2 }, { version: 1 }]);
    });

    test('a touch since, beside a version that is taken off: the next flush refuses it, not the rollback', async () => {
      const { fork, load } = await setUp();
      const em = fork();
      const { ann, bob } = await load(em);
      await em.begin();
      ann.name = 'inside';
      bob.name = 'inside';
      await em.flush();
      touch(ann);
      ann.version = null as never;
      await em.rollback();
      expect([ann.name, bob.name, bob.version]).toEqual(['Ann', 'Bob', 1]);
      expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded);
      ann.version = 1;
      await em.flush();
      expect(ann.version).toBe(2);
    });

    test('a removed entity that was changed before, and one that is changed since', async () => {
      const { fork, state, load } = await setUp(false, false);
      const em = fork();
      const { ann, bob } = await load(em);
      const [first] = ann.books.getItems();
      const [second] = bob.books.getItems();
      const before = await state();
      await em.begin();
      first!.title = 'changed before';
      em.remove(first!);
      em.remove(second!);
      await em.flush();
      second!.title = 'changed since';
      await em.rollback();
      expect([first!.title, second!.title, ann.books.length, bob.books.length]).toEqual([
        'Ann 1',
        'changed since',
        2,
        2,
      ]);
      expect([first!.author, second!.author, ann.books.contains(first!)]).toEqual([ann, bob, true]);
      await em.flush();
      const title = 'changed since';
      expect(await state()).toMatchObject({ ...before, books: [{}, {}, { title, version: 2 }, {}, {}, {}] });
    });

    /** An author is about to lose the shelves that would keep the row. */
    const withoutShelves = async () => {
      const { fork, state, load } = await setUp(false, false);
      const em = fork();
      const { ann, bob, cid } = await load(em);
      for (const shelf of await em.find(Shelf, { author: cid })) {
        em.remove(shelf);
      }
      return { em, state, ann, bob, cid };
    };

    test('an author whose books lose theirs (no cascade)', async () => {
      const { em, state, cid } = await withoutShelves();
      await em.flush();
      const before = { database: await state(), memory: memoryOf(em) };
      await em.begin();
      em.remove(cid);
      await em.flush();
      await em.rollback();
      expect(memoryOf(em)).toEqual(before.memory);
      await em.flush();
      expect(await state()).toEqual(before.database);
    });

    const beforeRemoval: Record<string, (cid: Author, bob: Author) => void> = {
      'is emptied': (cid) => cid.friends.removeAll(),
      'gets an item': (cid, bob) => cid.friends.add(bob),
      'has others': (cid, bob) => cid.friends.set([bob]),
      'is emptied from the other side': (cid) => cid.friendOf.removeAll(),
    };
    test.each(Object.keys(beforeRemoval))('an m:n collection that %s before its owner is removed', async (how) => {
      const { em, state, ann, bob, cid } = await withoutShelves();
      cid.friends.add(ann);
      await em.flush();
      const before = { database: await state(), memory: memoryOf(em) };
      await em.begin();
      beforeRemoval[how]!(cid, bob);
      em.remove(cid);
      await em.flush();
      await em.rollback();
      expect(memoryOf(em)).toEqual(before.memory);
      await em.flush();
      expect(await state()).toEqual(before.database);
    });

    test('an m:n collection of a removed row that was changed before, and is changed since', async () => {
      const { em, state, ann, bob, cid } = await withoutShelves();
      cid.friends.add(ann);
      await em.flush();
      const { friends } = await state();
      await em.begin();
      cid.friends.removeAll();
      em.remove(cid);
      await em.flush();
      cid.friends.add(bob);
      await em.rollback();
      expect(cid.friends.getItems()).toEqual([ann, bob]);
      await em.flush();
      expect((await state()).friends).toHaveLength(friends.length + 1);
    });

    test('em.clear() forgets all of it, and what belongs to nobody is left alone', async () => {
      const { fork, state, load } = await setUp();
      const em = fork();
      const { ann, shelves } = await load(em);
      const before = await state();
      await em.begin();
      ann.name = 'Anna';
      const dan = em.create(Author, { id: 4, name: 'Dan' } as never);
      em.remove(shelves[0]!);
      await em.flush();
      em.clear();
      const again = await em.findOneOrFail(Author, 1);
      again.price = '3.25';
      await em.rollback();
      expect([again.name, again.version]).toEqual(['Anna', 2]);
      const known = [...em.getUnitOfWork().getIdentityMap()];
      expect(known.filter((entity) => [ann, dan, shelves[0]].includes(entity as never))).toEqual([]);
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      expect(await state()).toEqual(before);
    });

    test('read again in the transaction, after a set-based write: the rows of the database count', async () => {
      const { fork, load, sent } = await setUp();
      const em = fork();
      const { ann } = await load(em);
      const { price } = ann;
      await em.begin();
      ann.name = 'Anna';
      await em.flush();
      await em.nativeUpdate(Author, { id: 1 }, { price: '9.00' } as never);
      await em.refresh(ann);
      expect([ann.name, ann.version]).toEqual(['Anna', 3]);
      ann.born = null;
      await em.flush();
      await em.rollback();
      expect([ann.name, ann.price, ann.version]).toEqual(['Ann', price, 1]);
      expect(await sent(() => em.flush())).toEqual([]);
    });

    for (const clear of [true, false]) {
      test(`a COMMIT that fails when the entities were handed to the EntityManager outside (clear: ${clear})`, async () => {
        const { fork, state, load, sent } = await setUp();
        const em = fork();
        await load(em);
        const before = { database: await state(), memory: memoryOf(em) };
        failCommit(em);
        const error = await thrown(() =>
          em.transactional(
            async (tx) => {
              const author = await tx.findOneOrFail(Author, 1);
              author.name = 'Anna';
              author.home!.city = 'Y';
              tx.create(Author, { id: 4, name: 'Dan' } as never);
              tx.remove((await tx.findOneOrFail(Shelf, { author: 2, no: 1 })) as never);
            },
            { clear },
          ),
        );
        expect(error).toBeInstanceOf(Stop);
        expect(await state()).toEqual(before.database);
        expect(memoryOf(em)).toEqual(before.memory);
        expect(await sent(() => em.flush())).toEqual([]);
      });

      test(`a nested transaction with entities of its own is released, and the one around it rolls back (clear: ${clear})`, async () => {
        const { fork, state, load, sent } = await setUp();
        const em = fork();
        const { ann } = await load(em);
        const before = { database: await state(), memory: memoryOf(em) };
        await thrown(() =>
          em.transactional(
            async (tx) => {
              await tx.transactional(
                async (inner) => {
                  (await inner.findOneOrFail(Author, 1)).name = 'Anna';
                  inner.remove((await inner.findOneOrFail(Shelf, { author: 2, no: 1 })) as never);
                },
                { clear: true },
              );
              if (!clear) {
                expect([ann.name, ann.version]).toEqual(['Anna', 2]);
                ann.price = '5.25';
                await tx.flush();
              }
              await stop();
            },
            { clear },
          ),
        );
        expect(await state()).toEqual(before.database);
        expect(memoryOf(em)).toEqual(before.memory);
        expect(await sent(() => em.flush())).toEqual([]);
      });
    }

    const joining: Record<string, (ann: Author, book: Book) => void> = {
      'by its reference': (ann, book) => void (book.author = ann),
      'by the collection': (ann, book) => ann.books.add(book),
    };
    for (const [how, join] of Object.entries(joining)) {
      for (const orphanRemoval of [true, false]) {
        test(`what had no parent, and was given one ${how}, leaves its collection${orphanRemoval ? ', with orphan removal' : ''}`, async () => {
          const { fork, sent, state, load } = await setUp(false, orphanRemoval);
          await fork().insert(Book, { id: 77, title: 'free' } as never);
          const em = fork();
          const { ann, bob } = await load(em);
          const book = await em.findOneOrFail(Book, 77);
          const before = { memory: memoryOf(em), state: await state() };
          const work = async (tx: SqlEntityManager) => {
            join(ann, book);
            await tx.flush();
            await stop();
          };
          expect(await thrown(() => em.transactional(work))).toBeInstanceOf(Stop);
          expect(memoryOf(em)).toEqual(before.memory);
          expect(await state()).toEqual(before.state);
          expect(await sent(() => em.flush())).toEqual([]);
          ann.books.removeAll();
          join(bob, book);
          await em.flush();
          expect((await fork().findOneOrFail(Book, 77)).author!.id).toBe(bob.id);
        });
      }
    }

    if (driver.concurrent) {
      test('a transaction of its own (REQUIRES_NEW) that commits stays, whatever becomes of the one around it', async () => {
        const { fork, state, load } = await setUp();
        const em = fork();
        const { ann, bob } = await load(em);
        await thrown(() =>
          em.transactional(async (tx) => {
            ann.name = 'discarded';
            await tx.flush();
            await tx.transactional(
              async (own) => {
                bob.name = 'kept';
                own.create(Author, { id: 4, name: 'Dan' } as never);
                await own.flush();
              },
              { propagation: TransactionPropagation.REQUIRES_NEW },
            );
            await stop();
          }),
        );
        expect([ann.name, ann.version, bob.name, bob.version]).toEqual(['Ann', 1, 'kept', 2]);
        expect((await state()).authors.map(nameOf)).toEqual(['Ann', 'kept', 'Cid', 'Dan']);
        bob.name = 'kept, and changed';
        await em.flush();
        expect(bob.version).toBe(3);
      });
    }
  });
}
