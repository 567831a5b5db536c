/** An upsert that wrote nothing, because it was ignored or its condition did not hold, hands back what is in the database. */
import { type EntityManager, defineEntity, p, raw } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    slug: p.string().unique(),
    title: p.string(),
    n: p.integer().default(0),
    note: p.string().nullable(),
    version: p.type(VersionField),
  },
});

type Given = { id: number; slug: string; title: string; n: number };
type Options = { onConflictAction?: 'ignore'; onConflictWhere?: object };

export function unwrittenUpserts(driver: TestDriver): void {
  /** Article 1 with number 42 at version 9. */
  const setUp = async (more = {}) => {
    const db = await open(driver, [Article], more);
    const em = db.fork();
    em.create(Article, { id: 1, slug: 'one', title: 'theirs', n: 42, note: 'theirs', version: 9 });
    await em.flush();
    const row = async (id = 1) => {
      const article = await db.fork().findOne(Article, id);
      return article && [article.title, article.n, article.note, article.version];
    };
    return { ...db, row };
  };
  const given: Given = { id: 1, slug: 'one', title: 'rejected', n: 0 };
  const kinds: Record<string, Options> = { ignored: { onConflictAction: 'ignore' } };
  if (driver.conditionalUpserts) {
    kinds['not met by onConflictWhere'] = { onConflictWhere: { n: { $lt: 10 } } };
  }
  const ways: Record<string, (em: EntityManager, options: Options) => Promise<object | undefined>> = {
    'em.upsert() of data': (em, options) => em.upsert(Article, given, options as never),
    'em.upsert() of data with a version': (em, options) =>
      em.upsert(Article, { ...given, version: 3 }, options as never),
    'em.upsert() by another unique column': (em, options) =>
      em.upsert(Article, { ...given }, { ...options, onConflictFields: ['slug'] } as never),
    'em.upsert() of an entity': (em, options) =>
      em.upsert(Article, em.create(Article, given as never, { persist: false }), options as never),
    'em.upsertMany() of data': async (em, options) =>
      (await em.upsertMany(Article, [given, { ...given, id: 2, slug: 'two' }], options as never))[0],
    'em.upsertMany() of entities': async (em, options) => {
      const rows = [given, { ...given, id: 2, slug: 'two' }];
      const entities = rows.map((data) => em.create(Article, data as never, { persist: false }));
      return (await em.upsertMany(Article, entities, options as never))[0];
    },
    'over a reference': (em, options) => {
      em.getReference(Article, 1);
      return em.upsert(Article, given, { ...options } as never);
    },
  };

  describe('upserts that write nothing', () => {
    for (const [kind, options] of Object.entries(kinds)) {
      for (const [name, way] of Object.entries(ways)) {
        test(`${name}, ${kind}: what is handed back is what is stored`, async () => {
          const { fork, row } = await setUp();
          const em = fork() as EntityManager;
          const article = (await way(em, options)) as Given & { note: string; version: number };
          expect(await row()).toEqual(['theirs', 42, 'theirs', 9]);
          expect([article.title, article.n, article.note, article.version]).toEqual(['theirs', 42, 'theirs', 9]);
          await em.flush();
          expect(await row()).toEqual(['theirs', 42, 'theirs', 9]);
          article.n += 1;
          await em.flush();
          expect(await row()).toEqual(['theirs', 43, 'theirs', 10]);
        });
      }
    }

    for (const [name, way] of Object.entries(ways)) {
      test(`${name} in a transaction: what is handed back is what the transaction sees`, async () => {
        const { fork, row } = await setUp();
        await fork().transactional(async (tx) => {
          await tx.nativeUpdate(Article, 1, { n: 50 });
          const article = (await way(tx as EntityManager, { onConflictAction: 'ignore' })) as Given & {
            version: number;
          };
          expect([article.title, article.n, article.version]).toEqual(['theirs', 50, 10]);
          article.n += 1;
        });
        expect(await row()).toEqual(['theirs', 51, 'theirs', 11]);
      });
    }

    for (const [name, options] of Object.entries({
      ignored: { onConflictAction: 'ignore' } as const,
      'with merge fields': { onConflictMergeFields: ['title'] } as never,
      'with exclude fields': { onConflictExcludeFields: ['n'] } as never,
      merged: {},
    })) {
      test(`upserts ${name}: memory is what is stored, of rows that existed and of new ones`, async () => {
        const { fork, row } = await setUp();
        const em = fork() as EntityManager;
        const rows = [1, 2].map((id) => ({ ...given, id, slug: ['', 'one', 'two'][id]! }));
        const [first, second] = await em.upsertMany(Article, rows, options);
        const third = await em.upsert(Article, { ...given, id: 3, slug: 'three' }, options as never);
        for (const [id, article] of [first!, second!, third!].entries()) {
          expect([article.title, article.n, article.note ?? null, article.version]).toEqual(await row(id + 1));
        }
      });
    }

    for (const [kind, options] of Object.entries(kinds)) {
      test(`upserts ${kind}: generated keys and lazy columns are those of the row, some of many were written`, async () => {
        const Tag = defineEntity({
          name: 'Tag',
          properties: {
            id: p.integer().primary(),
            slug: p.string().unique(),
            n: p.integer(),
            text: p.text().lazy(),
            version: p.type(VersionField),
          },
        });
        const { fork } = await open(driver, [Tag]);
        const tag = (slug: string, n: number) => ({ slug, n, text: `${n}` });
        await fork().insertMany(
          Tag,
          ['a', 'b', 'c'].map((slug, i) => ({ ...tag(slug, 41 + i), version: 9 })),
        );
        const em = fork();
        const sent = [tag('new', 1), tag('c', 0), { ...tag('a', 0), id: 77 }];
        const tags = await em.upsertMany(Tag, sent, { ...options, onConflictFields: ['slug'] } as never);
        tags.push(
          await em.upsert(Tag, { ...tag('b', 0), id: 78 }, { ...options, onConflictFields: ['slug'] } as never),
        );
        const seen = tags.map(({ slug, n, text, version }) => [slug, n, String(text), version]);
        expect(seen).toEqual([
          ['new', 1, '1', 1],
          ['c', 43, '43', 9],
          ['a', 41, '41', 9],
          ['b', 42, '42', 9],
        ]);
        tags.forEach((one) => (one.n += 1));
        await em.flush();
        const rows = await fork().find(Tag, {}, { orderBy: { slug: 'asc' } });
        expect(rows.map(({ id, slug, n }) => [id, slug, n])).toEqual([
          [1, 'a', 42],
          [2, 'b', 43],
          [3, 'c', 44],
          [tags[0]!.id, 'new', 2],
        ]);
      });

      test(`upserts ${kind}: with \`upsertManaged: false\`, an entity that is managed is only assigned to`, async () => {
        const { fork, row } = await setUp({ upsertManaged: false });
        const em = fork();
        const article = await em.findOneOrFail(Article, 1);
        article.note = 'mine';
        await em.upsert(Article, given, options as never);
        await em.upsertMany(Article, [given], options as never);
        expect([article.title, article.n, article.note, article.version]).toEqual(['rejected', 0, 'mine', 9]);
        await em.flush();
        expect(await row()).toEqual(['rejected', 0, 'mine', 10]);
      });
    }

    test('onConflictWhere with the versions of events: an older event is not taken, a newer one is', async () => {
      if (!driver.conditionalUpserts) {
        return;
      }
      const { fork, row } = await setUp();
      const event = (version: number) =>
        fork().upsert(
          Article,
          { ...given, title: `event ${version}`, version },
          { onConflictWhere: { version: { $lt: raw('excluded.version') } } as never },
        );
      const older = await event(5);
      expect([older.title, older.version]).toEqual(['theirs', 9]);
      expect(await row()).toEqual(['theirs', 42, 'theirs', 9]);
    });
  });
}
