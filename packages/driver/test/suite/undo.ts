/** A flush that failed, or that was rolled back later, has not happened in memory either. */
import { type Collection, type Opt, defineEntity, p } from '@mikro-orm/core';
import { BasePostgreSqlPlatform } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Tag {
  id!: number;
  name!: string;
}
class Note {
  id!: number;
  text!: string;
  article!: Article;
}
class Article {
  id!: number;
  title!: string;
  slug!: string | null;
  next!: Article | null;
  tags!: Collection<Tag>;
  notes!: Collection<Note>;
  version!: Opt<number>;
}
const entities = (generated: boolean) => [
  defineEntity({ class: Tag, properties: { id: p.integer().primary(), name: p.string() } }),
  defineEntity({
    class: Note,
    properties: {
      id: p.integer().primary(),
      text: p.string(),
      article: () => p.manyToOne(Article),
    },
  }),
  defineEntity({
    class: Article,
    properties: {
      id: generated ? p.integer().primary().autoincrement() : p.integer().primary().autoincrement(false),
      title: p.string(),
      slug: p.string().unique().nullable(),
      next: () => p.manyToOne(Article).nullable(),
      tags: () => p.manyToMany(Tag),
      notes: () => p.oneToMany(Note).mappedBy('article').orphanRemoval(),
      version: p.type(VersionField),
    },
  }),
];

export function undo(driver: TestDriver): void {
  for (const generated of [true, false]) {
    describe(`undo, ${generated ? 'generated' : 'given'} keys`, () => {
      const setUp = async () => {
        const db = await open(driver, entities(generated));
        const seed = db.fork();
        const tags = [1, 2, 3].map((id) => seed.create(Tag, { id, name: `tag ${id}` }));
        ['A', 'B', 'C'].forEach((title, i) => {
          const article = seed.create(Article, { id: i + 1, title, slug: `slug ${title}` } as never);
          article.tags.add(tags[0]!, tags[1]!);
          article.notes.add(seed.create(Note, { id: 10 + i, text: 'old', article }));
        });
        await seed.flush();
        if (generated && db.orm.em.getPlatform() instanceof BasePostgreSqlPlatform) {
          await db.fork().getConnection().execute("select setval('article_id_seq', 100)");
        }
        const rival = async (title: string) => {
          const em = db.fork();
          (await em.findOneOrFail(Article, { title })).next = await em.findOneOrFail(Article, { title: 'C' });
          await em.flush();
        };
        /** What is in the database, by title, without generated keys. */
        const state = async () => {
          const articles = await db
            .fork()
            .find(Article, {}, { populate: ['tags', 'notes', 'next'], orderBy: { title: 'asc' } });
          return articles.map((article) => ({
            title: article.title,
            slug: article.slug,
            next: article.next?.title ?? null,
            tags: article.tags
              .getItems()
              .map((tag) => tag.id)
              .toSorted(),
            notes: article.notes
              .getItems()
              .map((note) => note.text)
              .toSorted(),
            version: article.version,
          }));
        };
        return { ...db, rival, state };
      };
      type Em = ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>;

      const load = async (em: Em) => {
        const articles = await em.find(Article, {}, { populate: ['tags', 'notes'], orderBy: { title: 'asc' } });
        return { a: articles[0]!, b: articles[1]!, c: articles[2]! };
      };
      /** A bit of everything: insert, updates, removal, M:N, 1:M with orphan removal, a unique value that moves on. */
      const change = (em: Em, { a, b, c }: Awaited<ReturnType<typeof load>>, tags: Tag[]) => {
        const x = em.create(Article, { ...(generated ? {} : { id: 50 }), title: 'X', slug: 'slug A' } as never);
        a.slug = null;
        a.title = 'A2';
        a.tags.remove(tags[0]!);
        a.tags.add(tags[2]!);
        a.notes.removeAll();
        a.notes.add(em.create(Note, { id: 99, text: 'new', article: a }));
        b.title = 'B2';
        b.next = x;
        em.remove(c);
        return x;
      };
      const expected = (versions: { a: number; b: number }) => [
        { title: 'A2', slug: null, next: null, tags: [2, 3], notes: ['new'], version: versions.a },
        { title: 'B2', slug: 'slug B', next: 'X', tags: [1, 2], notes: ['old'], version: versions.b },
        { title: 'X', slug: 'slug A', next: null, tags: [], notes: [], version: 1 },
      ];

      test('a conflict, twice; then refresh, reapply and flush write everything, once', async () => {
        const { fork, rival, state, sent } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const tags = await em.find(Tag, {}, { orderBy: { id: 'asc' } });
        await rival('B');
        const before = await state();
        const x = change(em, loaded, tags);
        for (let attempt = 0; attempt < 2; attempt++) {
          expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
          expect(await state()).toEqual(before);
          expect([loaded.a.version, loaded.b.version, loaded.c.version]).toEqual([1, 1, 1]);
          expect(x.version).toBeUndefined();
          expect(x.id).toBe(generated ? undefined : 50);
          expect(em.getUnitOfWork().getIdentityMap().values().includes(x)).toBe(!generated);
          expect(loaded.a.slug).toBeNull();
        }
        await em.refresh(loaded.b);
        loaded.b.title = 'B2';
        loaded.b.next = x;
        await em.flush();
        expect(await state()).toEqual(expected({ a: 2, b: 3 }));
        expect(await sent(() => em.flush())).toEqual([]);
      });

      test('any other error, here a unique violation', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const tags = await em.find(Tag, {}, { orderBy: { id: 'asc' } });
        const x = change(em, loaded, tags);
        const duplicate = em.create(Article, { ...(generated ? {} : { id: 60 }), title: 'Y', slug: 'slug B' } as never);
        expect(await thrown(() => em.flush())).not.toBeInstanceOf(ConcurrentUpdate);
        em.remove(duplicate);
        expect(x.version).toBeUndefined();
        await em.flush();
        expect(await state()).toEqual(expected({ a: 2, b: 2 }));
      });

      test('em.begin, flush, rollback, and all of it once more', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const tags = await em.find(Tag, {}, { orderBy: { id: 'asc' } });
        const before = await state();
        for (const end of ['rollback', 'commit'] as const) {
          await em.begin();
          change(em, loaded, tags);
          await em.flush();
          expect(loaded.a.version).toBe(2);
          loaded.b.title = 'B3';
          await em.flush();
          expect(loaded.b.version).toBe(3);
          loaded.b.title = 'B2';
          if (end === 'commit') {
            await em.flush();
          }
          await em[end]();
          loaded.b.title = end === 'commit' ? 'B2' : 'B';
          if (end === 'rollback') {
            expect(await state()).toEqual(before);
            expect([loaded.a.version, loaded.b.version]).toEqual([1, 1]);
            await em.flush();
            expect(await state()).toEqual(before);
          }
        }
        expect(await state()).toEqual(expected({ a: 2, b: 4 }));
      });

      test('em.transactional that rolls back after a flush, whose entities were loaded outside', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const error = await thrown(() =>
          em.transactional(async (tx) => {
            loaded.a.title = 'A2';
            tx.remove(loaded.c);
            await tx.flush();
            expect(loaded.a.version).toBe(2);
            throw new Error('changed my mind');
          }),
        );
        expect(error.message).toBe('changed my mind');
        expect([loaded.a.version, (await state()).length]).toEqual([1, 3]);
        loaded.b.title = 'B2';
        em.remove(loaded.c);
        await em.flush();
        expect((await state()).map((row) => [row.title, row.version])).toEqual([
          ['A', 1],
          ['B2', 2],
        ]);
      });

      test('a savepoint that rolls back while the transaction around it commits', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        await em.transactional(async (tx) => {
          const { a, b } = await load(tx as Em);
          b.title = 'B2';
          await tx.flush();
          await thrown(() =>
            tx.transactional(async (inner) => {
              a.title = 'A2';
              await inner.flush();
              throw new Error('changed my mind');
            }),
          );
          expect([a.version, b.version]).toEqual([1, 2]);
          a.title = 'A3';
        });
        expect((await state()).map((row) => [row.title, row.version])).toEqual([
          ['A3', 2],
          ['B2', 2],
          ['C', 1],
        ]);
      });

      test('a COMMIT that fails', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const tags = await em.find(Tag, {}, { orderBy: { id: 'asc' } });
        let fail = true;
        em.getEventManager().registerSubscriber({
          beforeTransactionCommit: () => {
            if (fail) {
              throw new Error('the connection broke');
            }
          },
        });
        const before = await state();
        const x = change(em, loaded, tags);
        expect((await thrown(() => em.flush())).message).toBe('the connection broke');
        expect(await state()).toEqual(before);
        expect([loaded.a.version, loaded.b.version, x.version]).toEqual([1, 1, undefined]);
        fail = false;
        await em.flush();
        expect(await state()).toEqual(expected({ a: 2, b: 2 }));
      });

      test('bad input takes nothing along: new and removed entities stay pending', async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const tags = await em.find(Tag, {}, { orderBy: { id: 'asc' } });
        change(em, loaded, tags);
        loaded.b.version = -1;
        await thrown(() => em.flush());
        loaded.b.version = 1;
        await em.flush();
        expect(await state()).toEqual(expected({ a: 2, b: 2 }));
      });
    });
  }

  describe('concurrent flushes of one EntityManager', () => {
    test('settle all, also when the first one fails', async () => {
      const { fork } = await open(driver, entities(false));
      const seed = fork();
      seed.create(Article, { id: 1, title: 'A', slug: null, next: null });
      await seed.flush();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      await fork().nativeUpdate(Article, 1, { title: 'theirs' });
      article.title = 'ours';
      const results = await Promise.allSettled([em.flush(), em.flush(), em.flush()]);
      expect(results.map((result) => result.status)).toEqual(['rejected', 'rejected', 'rejected']);
      await em.refresh(article);
      article.title = 'ours';
      await Promise.all([em.flush(), em.flush()]);
      expect(article.version).toBe(3);
    });

    test('a flush inside a flush is refused by MikroORM, as ever', async () => {
      const { fork } = await open(driver, entities(false));
      const em = fork();
      em.getEventManager().registerSubscriber({ onFlush: () => em.flush() });
      em.create(Article, { id: 1, title: 'A', slug: null, next: null });
      expect((await thrown(() => em.flush())).message).toContain(
        'You cannot call em.flush() from inside lifecycle hook',
      );
    });
  });
}
