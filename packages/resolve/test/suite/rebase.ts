/** After a conflict: nothing of mine is lost, nothing of theirs, and what both changed is reported. */
import { type Collection, type Opt, type Ref, Type, ValidationError, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { rebase } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../../../driver/test/harness.ts';

/** Stored as text, in memory an object of its own. */
class Money {
  readonly cents: number;
  constructor(cents: number) {
    this.cents = cents;
  }
}
class MoneyType extends Type<Money | null, number | null> {
  override convertToDatabaseValue(value: Money | null) {
    return value instanceof Money ? value.cents : value;
  }
  override convertToJSValue(value: number | null) {
    return value == null ? null : new Money(Number(value));
  }
  override getColumnType() {
    return 'integer';
  }
}

class Author {
  id!: number;
  name!: string;
  articles!: Collection<Article>;
}
class Tag {
  id!: number;
  name!: string;
}
class Note {
  id!: number;
  text!: string;
  article!: Article | null;
  version!: Opt<number>;
}
class Place {
  city!: string | null;
  street!: string | null;
  author!: Author | null;
}
class Article {
  id!: number;
  title!: string;
  body!: string | null;
  price!: Money | null;
  data!: unknown;
  at!: Date | null;
  updated!: Opt<Date> | null;
  secret!: string | null;
  author!: Ref<Author> | null;
  place!: Place | null;
  boxed!: Place | null;
  tags!: Collection<Tag>;
  notes!: Collection<Note>;
  version!: Opt<number>;
}

const AuthorSchema = defineEntity({
  class: Author,
  properties: {
    id: p.integer().primary(),
    name: p.string(),
    articles: () => p.oneToMany(Article).mappedBy('author').orphanRemoval(),
  },
});
const TagSchema = defineEntity({ class: Tag, properties: { id: p.integer().primary(), name: p.string() } });
const PlaceSchema = defineEntity({
  class: Place,
  embeddable: true,
  properties: {
    city: p.string().nullable(),
    street: p.string().nullable(),
    author: () => p.manyToOne(Author).nullable(),
  },
});
const NoteSchema = defineEntity({
  class: Note,
  properties: {
    id: p.integer().primary(),
    text: p.string(),
    article: () => p.manyToOne(Article).nullable(),
    version: p.type(VersionField),
  },
});
const ArticleSchema = defineEntity({
  class: Article,
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    body: p.text().nullable(),
    price: p.type(MoneyType).nullable(),
    data: p.json().nullable(),
    at: p.datetime().nullable(),
    updated: p
      .datetime()
      .nullable()
      .onUpdate(() => new Date()),
    secret: p.string().nullable().lazy(),
    author: () => p.manyToOne(Author).ref().nullable(),
    place: () => p.embedded(Place).nullable(),
    boxed: () => p.embedded(Place).object().nullable(),
    tags: () => p.manyToMany(Tag),
    notes: () => p.oneToMany(Note).mappedBy('article'),
    version: p.type(VersionField),
  },
});
class Shelf {
  id!: number;
  title!: string;
  body!: string;
  tags!: Collection<Tag>;
  version!: Opt<number>;
}
const ShelfSchema = defineEntity({
  class: Shelf,
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    body: p.string(),
    tags: () => p.manyToMany(Tag),
    version: p.type(VersionField),
  },
});
const entities = [AuthorSchema, TagSchema, PlaceSchema, NoteSchema, ArticleSchema];

type Em = ReturnType<Database['fork']>;
const ids = (items: Iterable<{ id: number }>) => [...items].map(({ id }) => id).toSorted((a, b) => a - b);

export function rebases(driver: TestDriver): void {
  describe('rebase', () => {
    test('a column that the version excludes is no clash, and mine stays', async () => {
      const Counted = defineEntity({
        name: 'Counted',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          likes: p.integer().default(0),
          version: p.type(new VersionField({ exclude: ['likes'] })),
        },
      });
      const { fork } = await open(driver, [Counted]);
      const seed = fork();
      seed.create(Counted, { id: 1, title: 'old' });
      await seed.flush();
      const [em, rival] = [fork(), fork()];
      const [mine, theirs] = [await em.findOneOrFail(Counted, 1), await rival.findOneOrFail(Counted, 1)];
      Object.assign(theirs, { title: 'theirs', likes: 5 });
      await rival.flush();
      Object.assign(mine, { title: 'mine', likes: 7 });
      const error = await thrown(() => em.flush());
      const { clashes } = await rebase(em, error as never as ConcurrentUpdate);
      expect(clashes.map(({ property }) => property)).toEqual(['title']);
      await em.flush();
      expect(await fork().findOneOrFail(Counted, 1)).toMatchObject({ title: 'mine', likes: 7, version: 3 });
    });

    const setUp = async () => {
      const db = await open(driver, entities);
      const seed = db.fork();
      const authors = [1, 2, 3].map((id) => seed.create(Author, { id, name: `author ${id}` }));
      const tags = [1, 2, 3, 4].map((id) => seed.create(Tag, { id, name: `tag ${id}` }));
      for (const id of [1, 2]) {
        const article = seed.create(Article, {
          id,
          title: 'title',
          body: 'body',
          price: new Money(100),
          data: { a: 1, b: [1] },
          at: new Date('2020-01-01T00:00:00Z'),
          secret: 'secret',
          author: authors[0],
          place: { city: 'city', street: 'street', author: authors[0] },
          boxed: { city: 'city', street: 'street', author: authors[0] },
        } as never);
        article.tags.add(tags[0]!, tags[1]!);
        [1, 2].forEach((note) => seed.create(Note, { id: id * 10 + note, text: 'text', article }));
      }
      await seed.flush();
      const load = (em: Em, id = 1) => em.findOneOrFail(Article, id);
      /** Mine is unsaved, theirs is in the database, and a flush has conflicted. */
      const conflict = async (
        mine: (article: Article, em: Em) => unknown,
        theirs: (article: Article, em: Em) => unknown,
      ) => {
        const em = db.fork();
        const article = await load(em);
        await mine(article, em);
        const rival = db.fork();
        await theirs(await load(rival), rival);
        await rival.flush();
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        return { em, article, error: error as unknown as ConcurrentUpdate };
      };
      const now = (id = 1) => db.fork().findOneOrFail(Article, id, { populate: ['secret', 'tags', 'notes'] });
      return { ...db, load, conflict, now };
    };

    test('changes of different properties are merged', async () => {
      const { conflict, now, sent } = await setUp();
      const { em, article, error } = await conflict(
        (a) => (a.title = 'mine'),
        (a) => (a.body = 'theirs'),
      );
      expect(await rebase(em, error)).toEqual({ clashes: [], deleted: [], removed: [] });
      expect(article).toMatchObject({ title: 'mine', body: 'theirs', version: 2 });
      const [update, ...rest] = (await sent(() => em.flush())).filter((sql) => !/^(begin|commit)/.test(sql));
      expect(rest).toEqual([]);
      expect(update).toMatch(/^update .*.title. = 'mine'.*.version. = .version. \+ 1 where .id. = 1 and .version. = 2/);
      expect(update).not.toContain('theirs');
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', version: 3 });
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('a property that both changed is reported; client wins', async () => {
      const { conflict, now } = await setUp();
      const { em, article } = await conflict(
        (a) => Object.assign(a, { title: 'mine', body: 'mine' }),
        (a) => Object.assign(a, { title: 'theirs' }),
      );
      const { clashes } = await rebase(em, article);
      expect(clashes.map((clash) => ({ ...clash }))).toEqual([
        { property: 'title', base: 'title', mine: 'mine', theirs: 'theirs' },
      ]);
      expect(clashes[0]!.entity).toBe(article);
      expect(JSON.stringify(clashes)).not.toContain('secret');
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', body: 'mine', version: 3 });
    });

    test('store wins, and merged', async () => {
      const { conflict, now, sent } = await setUp();
      const change = async () =>
        conflict(
          (a) => Object.assign(a, { title: 'mine', data: { mine: 1 }, price: new Money(1) }),
          (a) => Object.assign(a, { title: 'theirs', data: { theirs: 1 }, price: new Money(2) }),
        );
      const first = await change();
      const all = (await rebase(first.em, first.error)).clashes;
      expect(all).toMatchObject([
        { property: 'title', base: 'title', mine: 'mine', theirs: 'theirs' },
        { property: 'price', base: new Money(100), mine: new Money(1), theirs: new Money(2) },
        { property: 'data', base: { a: 1, b: [1] }, mine: { mine: 1 }, theirs: { theirs: 1 } },
      ]);
      all.forEach((clash) => clash.takeTheirs());
      expect(await sent(() => first.em.flush())).toEqual([]);
      expect(await now()).toMatchObject({ title: 'theirs', data: { theirs: 1 }, price: { cents: 2 }, version: 2 });

      const second = await conflict(
        (a) => (a.title = 'mine'),
        (a) => (a.title = 'others'),
      );
      for (const clash of (await rebase(second.em, second.article)).clashes) {
        if (clash.property === 'title') {
          clash.entity.title = [clash.base, clash.mine, clash.theirs].join(' ');
        }
      }
      await second.em.flush();
      expect(await now()).toMatchObject({ title: 'theirs mine others' });
    });

    test('the same change on both sides is no clash', async () => {
      const { conflict, sent } = await setUp();
      const same = (a: Article) =>
        Object.assign(a, {
          title: 'x',
          price: new Money(5),
          data: { b: [2] },
          at: new Date('2021-01-01T00:00:00Z'),
          author: null,
        });
      const { em, article, error } = await conflict(same, same);
      expect((await rebase(em, error)).clashes).toEqual([]);
      expect(await sent(() => em.flush())).toEqual([]);
      expect(article.version).toBe(2);
    });

    test('a read that fails: the entity stays stale, so that nothing unseen is overwritten', async () => {
      const { fork } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1, { populate: ['notes'] });
      article.title = 'mine';
      await fork().nativeUpdate(Article, 1, { title: 'theirs' });
      await em.getConnection().execute('alter table note rename to hidden');
      await thrown(() => rebase(em, article));
      await em.getConnection().execute('alter table hidden rename to note');
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      expect(await rebase(em, article)).toMatchObject({
        clashes: [{ property: 'title', mine: 'mine', theirs: 'theirs' }],
      });
    });

    test('a third writer conflicts again', async () => {
      const { conflict, fork, load, now } = await setUp();
      const { em, error } = await conflict(
        (a) => (a.title = 'mine'),
        (a) => (a.body = 'theirs'),
      );
      await rebase(em, error);
      const third = fork();
      (await load(third)).at = null;
      await third.flush();
      const again = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(again.conflicts).toMatchObject([{ expected: 2, actual: 3 }]);
      expect((await rebase(em, again)).clashes).toEqual([]);
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', at: null, version: 4 });
    });

    test('NULL, dates, JSON and custom types', async () => {
      const { conflict, now } = await setUp();
      const { em, error } = await conflict(
        (a) => Object.assign(a, { body: null, data: { a: 1, b: [1], mine: true } }),
        (a) => Object.assign(a, { price: null, at: new Date('2022-02-02T00:00:00Z') }),
      );
      expect((await rebase(em, error)).clashes).toEqual([]);
      await em.flush();
      expect(await now()).toMatchObject({
        body: null,
        price: null,
        data: { a: 1, b: [1], mine: true },
        at: new Date('2022-02-02T00:00:00Z'),
      });
    });

    test('relations, by key', async () => {
      const { conflict, now, sent } = await setUp();
      const to = (id: number) => (a: Article, em: Em) => (a.author = em.getReference(Author, id, { wrapped: true }));
      const { em, article, error } = await conflict((a) => (a.title = 'mine'), to(2));
      expect((await rebase(em, error)).clashes).toEqual([]);
      expect(article.author!.unwrap()).toBe(em.getReference(Author, 2));
      await em.flush();
      expect((await now()).author!.id).toBe(2);

      const both = await conflict(to(1), to(3));
      const { clashes } = await rebase(both.em, both.article);
      const clash = clashes.find(({ property }) => property === 'author');
      expect(clashes).toHaveLength(1);
      if (clash?.property !== 'author') {
        throw new Error('no clash');
      }
      expect([clash.base, clash.mine, clash.theirs].map((author) => author!.id)).toEqual([2, 1, 3]);
      expect(clash.theirs!.unwrap()).toBe(both.em.getReference(Author, 3));
      clash.takeTheirs();
      expect(await sent(() => both.em.flush())).toEqual([]);
      expect((await now()).author!.id).toBe(3);
    });

    test('a relation that they moved on is no orphan of a collection that is loaded', async () => {
      const { conflict, now } = await setUp();
      const { em, error } = await conflict(
        async (a, em) => {
          await em.findAll(Author, { populate: ['articles'] });
          a.title = 'mine';
        },
        (a, em) => (a.author = em.getReference(Author, 2, { wrapped: true })),
      );
      await rebase(em, error);
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', author: { id: 2 } });
    });

    for (const place of ['place', 'boxed'] as const) {
      describe(place === 'place' ? 'embeddable' : 'embeddable as an object', () => {
        test('is merged property by property', async () => {
          const { conflict, now } = await setUp();
          const { em, article, error } = await conflict(
            (a) => (a[place]!.city = 'mine'),
            (a, em) => Object.assign(a[place]!, { street: 'theirs', author: em.getReference(Author, 2) }),
          );
          const mine = article[place];
          expect((await rebase(em, error)).clashes).toEqual([]);
          expect(article[place]).toBe(mine);
          expect(article[place]!.author).toBe(em.getReference(Author, 2));
          await em.flush();
          expect((await now())[place]).toMatchObject({ city: 'mine', street: 'theirs', author: { id: 2 } });
        });

        test('reports what both changed inside', async () => {
          const { conflict, now } = await setUp();
          const { em, error } = await conflict(
            (a) => Object.assign(a[place]!, { city: 'mine', street: 'mine' }),
            (a) => (a[place]!.city = 'theirs'),
          );
          const { clashes } = await rebase(em, error);
          expect(clashes.map((clash) => ({ ...clash }))).toEqual([
            { property: `${place}.city`, base: 'city', mine: 'mine', theirs: 'theirs' },
          ]);
          clashes[0]!.takeTheirs();
          await em.flush();
          expect((await now())[place]).toMatchObject({ city: 'theirs', street: 'mine' });
        });

        test('is one whole where a side has none', async () => {
          const { conflict, now } = await setUp();
          const { em, article, error } = await conflict(
            (a) => (a[place] = null),
            (a) => (a[place]!.city = 'theirs'),
          );
          const { clashes } = await rebase(em, error);
          expect(clashes).toMatchObject([
            { property: place, base: { city: 'city' }, mine: null, theirs: { city: 'theirs', street: 'street' } },
          ]);
          clashes[0]!.takeTheirs();
          expect(article[place]!.author).toBe(em.getReference(Author, 1));
          await em.flush();
          expect((await now())[place]).toMatchObject({ city: 'theirs', street: 'street' });

          const other = await conflict(
            (a) => (a.title = 'mine'),
            (a) => (a[place] = null),
          );
          expect((await rebase(other.em, other.error)).clashes).toEqual([]);
          await other.em.flush();
          expect(await now()).toMatchObject({ title: 'mine', [place]: null });
        });
      });
    }

    test('a row that they removed: left alone it conflicts again, drop forgets it', async () => {
      const { conflict, fork } = await setUp();
      const { em, article, error } = await conflict(
        (a) => (a.title = 'mine'),
        async (a, em) => {
          await em.nativeDelete(Note, { article: a });
          em.remove(a);
        },
      );
      const { clashes, deleted } = await rebase(em, error);
      expect(clashes).toEqual([]);
      expect(deleted.map(({ entity }) => entity)).toEqual([article]);
      await expect(em.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
      deleted[0]!.drop();
      await em.flush();
      expect(await fork().count(Article, { id: 1 })).toBe(0);
    });

    test('a row that they removed: recreate inserts it again, with its m:n items', async () => {
      const { conflict, now } = await setUp();
      const { em, article, error } = await conflict(
        async (a, em) => {
          await em.populate(a, ['secret', 'tags']);
          a.title = 'mine';
        },
        async (a, em) => {
          await em.nativeDelete(Note, { article: a });
          em.remove(a);
        },
      );
      (await rebase(em, error)).deleted[0]!.recreate();
      await em.flush();
      expect(article.version).toBe(2);
      const stored = await now();
      expect(stored).toMatchObject({
        title: 'mine',
        body: 'body',
        price: { cents: 100 },
        secret: 'secret',
        version: 2,
      });
      expect(ids(stored.tags)).toEqual([1, 2]);
      article.title = 'again';
      await em.flush();
      expect(await now()).toMatchObject({ title: 'again', version: 3 });
    });

    test('what was loaded in part is not created again', async () => {
      const { fork } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 2, { fields: ['body'] });
      article.body = 'mine';
      await fork().nativeDelete(Note, { article: 2 });
      await fork().nativeDelete(Article, 2);
      const { deleted } = await rebase(em, article as object as Article);
      expect(() => deleted[0]!.recreate()).toThrow(/Article cannot be created again.*without title.*Assign/);
    });

    test('a column that was not loaded is not created again as NULL', async () => {
      const { fork } = await setUp();
      for (const [fields, missing] of [
        [undefined, 'secret'],
        [['title', 'place.city', 'at'], 'body'],
      ] as const) {
        const em = fork();
        const id = fields ? 1 : 2;
        const article = (await em.findOneOrFail(Article, id, { fields } as object)) as Article;
        article.title = 'mine';
        await fork().nativeDelete(Note, { article: id });
        await fork().nativeDelete(Article, id);
        const { deleted } = await rebase(em, article);
        expect(() => deleted[0]!.recreate()).toThrow(`it was loaded only in part, without ${missing}. Assign`);
        if (!fields) {
          article.secret = 'known again';
          deleted[0]!.recreate();
          deleted[0]!.recreate(); // once is enough
          await em.flush();
          expect(await fork().findOneOrFail(Article, id, { populate: ['secret'] })).toMatchObject({
            secret: 'known again',
            version: 2,
          });
        }
      }
    });

    test('an embeddable that is always there is created again, too', async () => {
      const Spot = defineEntity({ name: 'Spot', embeddable: true, properties: { x: p.integer(), y: p.integer() } });
      const Shape = defineEntity({
        name: 'Shape',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          spot: () => p.embedded(Spot),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [Spot, Shape]);
      await fork().insert(Shape, { id: 1, title: 'old', spot: { x: 1, y: 2 } });
      const em = fork();
      const shape = await em.findOneOrFail(Shape, 1);
      shape.title = 'mine';
      await fork().nativeDelete(Shape, 1);
      (await rebase(em, shape)).deleted[0]!.recreate();
      await em.flush();
      expect(await fork().findOneOrFail(Shape, 1)).toMatchObject({ title: 'mine', spot: { x: 1, y: 2 }, version: 2 });
    });

    test('a collection of more items than a condition may have branches', async () => {
      const { fork } = await open(driver, [TagSchema, ShelfSchema]);
      const count = 1100;
      const numbers = Array.from({ length: count }, (_, i) => i + 1);
      await fork().insertMany(
        Tag,
        numbers.map((id) => ({ id, name: 'tag' })),
      );
      const seed = fork();
      seed.create(Shelf, { id: 1, title: 'old', body: 'old', tags: numbers } as never);
      await seed.flush();
      const em = fork();
      const shelf = await em.findOneOrFail(Shelf, 1, { populate: ['tags'] });
      shelf.title = 'mine';
      shelf.tags.remove(em.getReference(Tag, 1));
      const rival = fork();
      const theirs = await rival.findOneOrFail(Shelf, 1, { populate: ['tags'] });
      theirs.body = 'theirs';
      theirs.tags.remove(rival.getReference(Tag, 2));
      await rival.flush();
      expect((await rebase(em, shelf)).clashes).toEqual([]);
      await em.flush();
      const found = await fork().findOneOrFail(Shelf, 1, { populate: ['tags'] });
      expect(found).toMatchObject({ title: 'mine', body: 'theirs', version: 3 });
      expect(found.tags).toHaveLength(count - 2);
    });

    test('an orphan that is kept belongs to what it belonged to', async () => {
      const { fork } = await setUp();
      const em = fork();
      const author = await em.findOneOrFail(Author, 1, { populate: ['articles'] });
      const [article] = author.articles;
      author.articles.remove(article!);
      await fork().nativeUpdate(Article, article!.id, { title: 'theirs' });
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { removed } = await rebase(em, error);
      expect(removed.map(({ entity }) => entity)).toEqual([article]);
      removed[0]!.keep();
      await em.flush();
      expect(await fork().findOneOrFail(Article, article!.id)).toMatchObject({
        title: 'theirs',
        author: { id: 1 },
        version: 2,
      });
    });

    test('a stale removal is reported; it stays, or is kept', async () => {
      const { conflict, fork, now, sent } = await setUp();
      const remove = (a: Article, em: Em) => void em.remove(a);
      const first = await conflict(remove, (a) => (a.title = 'theirs'));
      expect(first.error.conflicts).toMatchObject([{ operation: 'delete' }]);
      const kept = await rebase(first.em, first.error);
      expect(kept.removed.map(({ entity }) => entity)).toEqual([first.article]);
      kept.removed[0]!.keep();
      expect(first.article.title).toBe('theirs');
      expect(await sent(() => first.em.flush())).toEqual([]);
      expect(await now()).toMatchObject({ title: 'theirs', version: 2 });

      const second = await conflict(remove, (a) => (a.title = 'theirs again'));
      await fork().nativeDelete(Note, { article: 1 });
      expect((await rebase(second.em, second.error)).removed).toHaveLength(1);
      await second.em.flush();
      expect(await fork().count(Article, { id: 1 })).toBe(0);
    });

    test('removed by both is what both wanted', async () => {
      const { conflict, sent } = await setUp();
      const remove = async (a: Article, em: Em) => {
        await em.nativeDelete(Note, { article: a });
        em.remove(a);
      };
      const { em, error } = await conflict(remove, remove);
      expect(await rebase(em, error)).toEqual({ clashes: [], deleted: [], removed: [] });
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('collections: adds and removes of both', async () => {
      const { conflict, now } = await setUp();
      const { em, article, error } = await conflict(
        async (a, em) => {
          await em.populate(a, ['tags', 'notes']);
          a.title = 'mine';
          a.tags.remove(em.getReference(Tag, 1));
          a.tags.add(em.getReference(Tag, 3));
          em.create(Note, { id: 90, text: 'mine', article: a });
          a.notes.remove(em.getReference(Note, 11));
        },
        async (a, em) => {
          await em.populate(a, ['tags', 'notes']);
          a.title = 'theirs';
          a.tags.remove(em.getReference(Tag, 2));
          a.tags.add(em.getReference(Tag, 4));
          em.create(Note, { id: 91, text: 'theirs', article: a });
          em.remove(em.getReference(Note, 12));
        },
      );
      const { clashes } = await rebase(em, error);
      expect(clashes.map(({ property }) => property)).toEqual(['title']);
      expect(ids(article.tags)).toEqual([3, 4]);
      expect(ids(article.notes)).toEqual([90, 91]);
      expect(article.notes.getItems().find(({ id }) => id === 91)).toMatchObject({ text: 'theirs', version: 1 });
      await em.flush();
      const stored = await now();
      expect(stored).toMatchObject({ title: 'mine', version: 3 });
      expect(ids(stored.tags)).toEqual([3, 4]);
      expect(ids(stored.notes)).toEqual([90, 91]);
    });

    test('unsaved changes of a collection’s items stay', async () => {
      const { conflict, fork, now } = await setUp();
      const { em, article, error } = await conflict(
        async (a) => {
          a.title = 'mine';
          (await a.notes.loadItems())[0]!.text = 'mine';
        },
        (a) => (a.title = 'theirs'),
      );
      const other = fork();
      (await other.findOneOrFail(Note, 12)).text = 'theirs';
      await other.flush();
      await rebase(em, error);
      expect(
        article.notes
          .getItems()
          .map(({ text }) => text)
          .toSorted(),
      ).toEqual(['mine', 'theirs']);
      await em.flush();
      expect(
        (await now()).notes
          .getItems()
          .map(({ text }) => text)
          .toSorted(),
      ).toEqual(['mine', 'theirs']);
    });

    test('what was loaded in part stays so', async () => {
      const { fork, load, now, sent } = await setUp();
      const em = fork();
      const article = (await em.findOneOrFail(Article, 1, { fields: ['title'] })) as object as Article;
      article.title = 'mine';
      article.at = null;
      const rival = fork();
      Object.assign(await load(rival), { title: 'theirs', body: 'theirs', at: new Date(0) });
      await rival.flush();
      await thrown(() => em.flush());
      const { clashes } = await rebase(em, article);
      // it is not known what the date was, so it cannot be said that nobody changed it
      expect(clashes).toMatchObject([
        { property: 'title', base: 'title', mine: 'mine', theirs: 'theirs' },
        { property: 'at', base: undefined, mine: null, theirs: new Date(0) },
      ]);
      expect(article.body).toBeUndefined();
      clashes[1]!.takeTheirs();
      const [update] = (await sent(() => em.flush())).filter((sql) => sql.startsWith('update'));
      expect(update).not.toContain('"at"');
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', at: new Date(0), version: 3 });
    });

    test('a lazy property that is loaded', async () => {
      const { conflict, now } = await setUp();
      const { em, article, error } = await conflict(
        async (a, em) => {
          await em.populate(a, ['secret']);
          a.title = 'mine';
        },
        async (a, em) => {
          await em.populate(a, ['secret']);
          a.secret = 'theirs';
        },
      );
      expect((await rebase(em, error)).clashes).toEqual([]);
      expect(article.secret).toBe('theirs');
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', secret: 'theirs' });
    });

    test('an assigned version: base is not known, so whatever differs is a clash', async () => {
      const { fork, load, now } = await setUp();
      const rival = fork();
      Object.assign(await load(rival), { title: 'theirs' });
      await rival.flush();
      // a form that was shown at version 1, applied to what is loaded at version 2
      const em = fork();
      const article = await load(em);
      em.assign(article, { title: 'mine', body: 'mine', version: 1 });
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { clashes } = await rebase(em, error);
      expect(clashes.map((clash) => ({ ...clash }))).toEqual([
        { property: 'title', base: undefined, mine: 'mine', theirs: 'theirs' },
        { property: 'body', base: undefined, mine: 'mine', theirs: 'body' },
      ]);
      clashes[0]!.takeTheirs();
      await em.flush();
      expect(await now()).toMatchObject({ title: 'theirs', body: 'mine', version: 3 });
    });

    test('a reference with an assigned version', async () => {
      const { fork, load, now } = await setUp();
      const rival = fork();
      Object.assign(await load(rival), { title: 'theirs', body: 'theirs' });
      await rival.flush();
      const em = fork();
      const article = em.getReference(Article, 1);
      Object.assign(article, { title: 'mine', version: 1 });
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { clashes } = await rebase(em, error);
      expect(clashes.map((clash) => ({ ...clash }))).toEqual([
        { property: 'title', base: undefined, mine: 'mine', theirs: 'theirs' },
      ]);
      expect(article.body).toBe('theirs');
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', version: 3 });
    });

    test('a base that comes back with the form', async () => {
      const { fork, load, now } = await setUp();
      const rival = fork();
      Object.assign(await load(rival), { title: 'theirs', body: 'theirs' });
      await rival.flush();
      const em = fork();
      const article = em.merge(Article, { id: 1, title: 'title', body: 'body', version: 1 } as never);
      em.assign(article, { title: 'mine', body: 'body' } as never);
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { clashes } = await rebase(em, error);
      expect(clashes.map((clash) => ({ ...clash }))).toEqual([
        { property: 'title', base: 'title', mine: 'mine', theirs: 'theirs' },
      ]);
      await em.flush();
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', price: { cents: 100 }, version: 3 });
    });

    test.each([
      ['without an assigned version: what does not overlap is no clash', undefined, []],
      ['with one: what was changed is a clash where it differs', 1, ['body']],
    ])('after touch(), %s', async (_, version, expected) => {
      const { fork, load, now } = await setUp();
      const change = async (body: object) => {
        const rival = fork();
        Object.assign(await load(rival), body);
        await rival.flush();
      };
      await change({ title: 'first' });
      const em = fork();
      const article = await load(em);
      touch(article);
      em.assign(article, { body: 'mine', ...(version && { version }) });
      await change({ title: 'theirs' });
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { clashes } = await rebase(em, error);
      expect(clashes.map(({ property }) => property)).toEqual(expected);
      await em.flush();
      expect(await now()).toMatchObject({ body: 'mine', version: 4 });
    });

    test('touch() stays', async () => {
      const { conflict, now } = await setUp();
      const { em, error } = await conflict(touch, (a) => (a.title = 'theirs'));
      expect((await rebase(em, error)).clashes).toEqual([]);
      await em.flush();
      expect(await now()).toMatchObject({ title: 'theirs', version: 3 });
    });

    test('several conflicts at once', async () => {
      const { fork, now } = await setUp();
      const em = fork();
      const mine = await em.findAll(Article, { orderBy: { id: 'asc' } });
      mine.forEach((a) => (a.title = `mine ${a.id}`));
      const rival = fork();
      (await rival.findAll(Article)).forEach((a) =>
        Object.assign(a, { title: a.id === 1 ? 'theirs' : 'title', body: 'theirs' }),
      );
      await rival.flush();
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toHaveLength(driver.batches ? 2 : 1);
      const { clashes } = await rebase(em, error);
      expect(clashes.map(({ entity, property }) => [entity, property])).toEqual([[mine[0], 'title']]);
      await em.flush();
      expect(await now(1)).toMatchObject({ title: 'mine 1', body: 'theirs', version: 3 });
      expect(await now(2)).toMatchObject({ title: 'mine 2', body: 'theirs', version: 3 });
    });

    test('in a transaction', async () => {
      const { conflict, now } = await setUp();
      const { em, article } = await conflict(
        (a) => (a.title = 'mine'),
        (a) => (a.body = 'theirs'),
      );
      await em.begin();
      await rebase(em, article);
      await em.commit();
      expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', version: 3 });
    });

    if (driver.concurrent) {
      test('in a transaction that has begun before others changed the row: the loop of the documentation ends', async () => {
        const { fork, load, now } = await setUp();
        const em = fork();
        await em.begin();
        const article = await load(em);
        await article.notes.load();
        await article.tags.load();
        article.title = 'mine';
        const theirs = fork();
        const other = await theirs.findOneOrFail(Article, 1, { populate: ['tags', 'notes'] });
        other.body = 'theirs';
        other.tags.remove(theirs.getReference(Tag, 1));
        theirs.remove(other.notes[0]!);
        await theirs.flush();
        let attempts = 0;
        for (; attempts < 3; attempts++) {
          try {
            await em.flush();
            break;
          } catch (error) {
            const { clashes } = await rebase(em, error as ConcurrentUpdate);
            expect(clashes).toEqual([]);
          }
        }
        await em.commit();
        expect(attempts).toBe(1);
        expect([ids(article.tags), ids(article.notes)]).toEqual([[2], [12]]);
        expect(await now()).toMatchObject({ title: 'mine', body: 'theirs', version: 3 });
      });
    }

    test('past a global result cache', async () => {
      const Row = defineEntity({
        name: 'Row',
        properties: { id: p.integer().primary(), a: p.integer(), b: p.integer(), version: p.type(VersionField) },
      });
      const { fork } = await open(driver, [Row], { resultCache: { global: 60_000 } });
      await fork().insert(Row, { id: 1, a: 0, b: 0 });
      const em = fork();
      const row = await em.findOneOrFail(Row, 1);
      // the second time, what was read the first time may be cached
      for (const n of [7, 8]) {
        await fork().nativeUpdate(Row, 1, { b: n });
        row.a = n;
        const error = await thrown(() => em.flush());
        await rebase(em, error as never as ConcurrentUpdate);
        await em.flush();
        expect([row.a, row.b]).toEqual([n, n]);
      }
      expect(await fork().findOneOrFail(Row, 1, { cache: false })).toMatchObject({ a: 8, b: 8, version: 5 });
    });

    test('without a conflict it changes nothing', async () => {
      const { fork, load, sent } = await setUp();
      const em = fork();
      const article = await load(em);
      expect(await rebase(em, article)).toEqual({ clashes: [], deleted: [], removed: [] });
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('refuses what it cannot do, with a sentence', async () => {
      const { fork, load } = await setUp();
      const em = fork();
      const aborted = new ConcurrentUpdate([], new Error('deadlock detected'));
      await expect(rebase(em, aborted)).rejects.toThrow(/nothing to rebase.*Run the whole transaction again/);
      await expect(rebase(em, new Article())).rejects.toThrow(/Article cannot be rebased, because this EntityManager/);
      await expect(rebase(em, await load(fork()))).rejects.toThrow(/does not manage it/);
      await expect(rebase(em, await em.findOneOrFail(Author, 1))).rejects.toThrow(/Author cannot.*no VersionField/);
      await expect(rebase(em, {})).rejects.toBeInstanceOf(ValidationError);
    });

    test('composite keys with a relation in them', async () => {
      const Product = defineEntity({ name: 'Product', properties: { id: p.integer().primary() } });
      const Line = defineEntity({
        name: 'Line',
        properties: {
          order: p.integer().primary(),
          product: () => p.manyToOne(Product).primary(),
          amount: p.integer(),
          text: p.string(),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [Product, Line]);
      const seed = fork();
      for (const id of [1, 2]) {
        seed.create(Line, { order: 7, product: seed.create(Product, { id }), amount: 1, text: 'text' });
      }
      await seed.flush();
      const key = (product: number) => ({ order: 7, product });
      const em = fork();
      (await em.findOneOrFail(Line, key(2))).amount = 5;
      const rival = fork();
      (await rival.findOneOrFail(Line, key(2))).text = 'theirs';
      await rival.flush();
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect((await rebase(em, error)).clashes).toEqual([]);
      await em.flush();
      expect(await fork().findOneOrFail(Line, key(2))).toMatchObject({ amount: 5, text: 'theirs', version: 3 });
      expect(await fork().findOneOrFail(Line, key(1))).toMatchObject({ amount: 1, text: 'text', version: 1 });
    });

    for (const inheritance of ['sti', 'tpt'] as const) {
      test(`inheritance: ${inheritance}, with an adopted version: true`, async () => {
        class Animal {
          id!: number;
          name!: string;
          version!: Opt<number>;
        }
        class Dog extends Animal {
          breed!: string;
        }
        const AnimalSchema = defineEntity({
          class: Animal,
          ...(inheritance === 'sti' ? { discriminatorColumn: 'type' } : { inheritance: 'tpt' as const }),
          properties: { id: p.integer().primary(), name: p.string(), version: p.integer().version() },
        } as never);
        const DogSchema = defineEntity({
          class: Dog,
          extends: AnimalSchema,
          properties: { breed: p.string() },
        } as never);
        const { fork } = await open(driver, [AnimalSchema, DogSchema] as never);
        const seed = fork();
        seed.create(Dog, { id: 1, name: 'name', breed: 'breed' } as never);
        await seed.flush();
        const em = fork();
        const dog = (await em.findOneOrFail(Animal, 1)) as Dog;
        Object.assign(dog, { name: 'mine', breed: 'mine' });
        const rival = fork();
        (await rival.findOneOrFail(Dog, 1)).breed = 'theirs';
        await rival.flush();
        const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
        const { clashes } = await rebase(em, error);
        expect(clashes).toMatchObject([{ property: 'breed', base: 'breed', mine: 'mine', theirs: 'theirs' }]);
        clashes[0]!.takeTheirs();
        await em.flush();
        expect(await fork().findOneOrFail(Dog, 1)).toMatchObject({ name: 'mine', breed: 'theirs', version: 3 });
      });
    }

    test('the parts of an aggregate are read again, and merged', async () => {
      const Order = defineEntity({
        name: 'Order',
        tableName: 'orders',
        properties: {
          id: p.integer().primary(),
          lines: () => p.oneToMany(Line).mappedBy('order').orphanRemoval(),
          version: p.type(new VersionField({ aggregate: ['lines', 'lines.extras'] })),
        },
      });
      const Line = defineEntity({
        name: 'Line',
        properties: {
          id: p.integer().primary(),
          amount: p.integer().default(0),
          text: p.string().default(''),
          order: () => p.manyToOne(Order),
          extras: () => p.oneToMany(Extra).mappedBy('line'),
        },
      });
      const Extra = defineEntity({
        name: 'Extra',
        properties: { id: p.integer().primary(), text: p.string().default(''), line: () => p.manyToOne(Line) },
      });
      const { fork } = await open(driver, [Order, Line, Extra] as never);
      const seed = fork();
      seed.create(Order, { id: 1, lines: [1, 2, 3].map((id) => ({ id, extras: [{ id }] })) });
      await seed.flush();
      const [em, rival] = [fork(), fork()];
      const load = (from: typeof em) => from.findOneOrFail(Order, 1, { populate: ['lines.extras'] });
      const [mine, theirs] = [await load(em), await load(rival)];
      Object.assign(theirs.lines[0]!, { amount: 5, text: 'theirs' });
      theirs.lines[1]!.extras[0]!.text = 'theirs';
      rival.create(Line, { id: 4, order: theirs });
      await rival.flush();
      mine.lines[0]!.amount = 7;
      mine.lines[2]!.text = 'mine';
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      const { clashes, deleted, removed } = await rebase(em, error);
      expect([clashes, deleted, removed]).toMatchObject([
        [{ property: 'amount', base: 0, mine: 7, theirs: 5 }],
        [],
        [],
      ]);
      expect(clashes[0]!.entity).toBe(mine.lines[0]);
      expect(mine.lines.getItems().map(({ id, amount, text }) => [id, amount, text])).toEqual([
        [1, 7, 'theirs'],
        [2, 0, ''],
        [3, 0, 'mine'],
        [4, 0, ''],
      ]);
      expect(mine.lines[1]!.extras[0]!.text).toBe('theirs');
      await em.flush();
      const found = await load(fork());
      expect([mine.version, found.version]).toEqual([3, 3]);
      expect(
        found.lines
          .getItems()
          .toSorted((a, b) => a.id - b.id)
          .map((line) => `${line.amount} ${line.text}`),
      ).toEqual(['7 theirs', '0 ', '0 mine', '0 ']);
    });
  });
}
