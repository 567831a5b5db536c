/** Writes that do not go through a flush bump every row they change, once, and check nothing. */
import { defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    slug: p.string().unique(),
    title: p.string(),
    version: p.type(VersionField).fieldName('lock_version'),
  },
});

export function setBased(driver: TestDriver): void {
  /** Article 1 at version 9. */
  const setUp = async () => {
    const db = await open(driver, [Article]);
    const em = db.fork();
    em.create(Article, { id: 1, slug: 'one', title: 'saved', version: 9 });
    await em.flush();
    const row = async (id = 1) => {
      const article = await db.fork().findOne(Article, id);
      return article && [article.title, article.version];
    };
    return { ...db, row };
  };

  describe('set-based writes', () => {
    test('em.nativeUpdate and qb.update bump; there a version that is given is taken', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      await em.nativeUpdate(Article, { id: 1 }, { title: 'a' });
      expect(await row()).toEqual(['a', 10]);
      await em.createQueryBuilder(Article).update({ title: 'b' }).where({ id: 1 }).execute();
      expect(await row()).toEqual(['b', 11]);
      await em.nativeUpdate(Article, { id: 1 }, { title: 'c', version: 20 });
      expect(await row()).toEqual(['c', 20]);
      await em
        .createQueryBuilder(Article)
        .update({ version: raw('lock_version + 5') })
        .where({ id: 1 })
        .execute();
      expect(await row()).toEqual(['c', 25]);
    });

    test('a copy of a query builder bumps too, or takes a version that is given', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const update = em.createQueryBuilder(Article).update({ title: 'a' }).where({ id: 1 });
      await update.clone().execute();
      expect(await row()).toEqual(['a', 10]);
      const given = em.createQueryBuilder(Article).update({ title: 'b', version: 20 }).where({ id: 1 });
      await given.clone().clone().execute();
      expect(await row()).toEqual(['b', 20]);
      await em.createQueryBuilder(Article).clone().update({ title: 'c', version: 30 }).where({ id: 1 }).execute();
      expect(await row()).toEqual(['c', 30]);
      const data = { id: 1, slug: 'one', title: 'd', version: 3 };
      await em.createQueryBuilder(Article).clone().insert(data).onConflict('id').merge().execute();
      expect(await row()).toEqual(['d', 31]);
    });

    test('what was loaded before conflicts afterwards', async () => {
      const { fork } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      await fork().upsert(Article, { id: 1, slug: 'one', title: 'theirs' });
      article.title = 'ours';
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
    });

    for (const version of [undefined, 3, 9, 40]) {
      // an event may bring a later version of its own
      const next = Math.max(version ?? 0, 10);
      test(`em.upsert of data with version ${version}: a row that exists goes from 9 to ${next}, a new one starts as given`, async () => {
        const { fork, row } = await setUp();
        const given = version === undefined ? {} : { version };
        const existing = await fork().upsert(Article, { id: 1, slug: 'one', title: 'upserted', ...given });
        expect(existing.version).toBe(next);
        expect(await row()).toEqual(['upserted', next]);
        const fresh = await fork().upsert(Article, { id: 2, slug: 'two', title: 'new', ...given });
        expect(fresh.version).toBe(version ?? 1);
        expect(await row(2)).toEqual(['new', version ?? 1]);
      });
    }

    test('em.upsert with nothing else to read back has the version of the database too', async () => {
      const Tag = defineEntity({
        name: 'Tag',
        properties: { code: p.string().primary(), title: p.string(), version: p.type(VersionField) },
      });
      const { fork } = await open(driver, [Tag]);
      const data = { code: 'a', title: 'upserted', version: 3 };
      expect((await fork().upsert(Tag, data)).version).toBe(3);
      const em = fork();
      const tag = await em.upsert(Tag, { ...data, version: 7 });
      expect(tag.version).toBe(7);
      tag.title = 'changed';
      await em.flush();
      const [first, second] = await fork().upsertMany(Tag, [data, { ...data, code: 'b' }]);
      expect([first!.version, second!.version]).toEqual([9, 3]);
    });

    test('em.upsert of an entity bumps too, and the entity can be changed and flushed next', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const article = em.create(Article, { id: 1, slug: 'one', title: 'entity', version: 1 }, { persist: false });
      await em.upsert(article);
      expect(article.version).toBe(10);
      expect(await row()).toEqual(['entity', 10]);
      article.title = 'changed';
      await em.flush();
      expect(await row()).toEqual(['changed', 11]);
    });

    for (const exists of [true, false]) {
      test(`em.upsert over a claimed reference has the version that it left (${exists ? 'an old' : 'a new'} row)`, async () => {
        const { fork, row } = await setUp();
        const em = fork();
        const id = exists ? 1 : 2;
        const reference = em.getReference(Article, id);
        reference.version = 5;
        expect(await em.upsert(Article, { id, slug: `${id}`, title: 'upserted', version: 3 })).toBe(reference);
        expect([await row(id), reference.version]).toEqual([['upserted', exists ? 10 : 3], exists ? 10 : 3]);
        reference.title = 'changed';
        await em.flush();
        expect(await row(id)).toEqual(['changed', exists ? 11 : 4]);
      });
    }

    test('em.upsertMany bumps the rows that exist, once', async () => {
      const { fork, row } = await setUp();
      const articles = await fork().upsertMany(Article, [
        { id: 1, slug: 'one', title: 'many' },
        { id: 2, slug: 'two', title: 'many' },
      ]);
      expect(articles.map((article) => article.version)).toEqual([10, 1]);
      expect([await row(1), await row(2)]).toEqual([
        ['many', 10],
        ['many', 1],
      ]);
    });

    test('em.upsertMany of data with versions, and of entities', async () => {
      const { fork, row } = await setUp();
      const both = (title: string) => [
        { id: 1, slug: 'one', title, version: 3 },
        { id: 2, slug: 'two', title, version: 4 },
      ];
      const given = await fork().upsertMany(Article, both('data'));
      expect(given.map((article) => article.version)).toEqual([10, 4]);
      const em = fork();
      const entities = both('entity').map((data) => em.create(Article, data, { persist: false }));
      await em.upsertMany(entities);
      expect(entities.map((article) => article.version)).toEqual([11, 5]);
      expect([await row(1), await row(2)]).toEqual([
        ['entity', 11],
        ['entity', 5],
      ]);
      entities.forEach((article) => (article.title = 'changed'));
      await em.flush();
      expect([await row(1), await row(2)]).toEqual([
        ['changed', 12],
        ['changed', 6],
      ]);
    });

    test('em.insert and em.insertMany of entities take versions as given, and start at 1 without', async () => {
      const { fork } = await setUp();
      const em = fork();
      const [two, three, four] = [2, 3, 4].map((id) =>
        em.create(
          Article,
          { id, slug: `${id}`, title: 'new', ...(id === 3 ? { version: 7 } : {}) },
          { persist: false },
        ),
      );
      await em.insert(two!);
      await em.insertMany([three!, four!]);
      expect([two, three, four].map((article) => article!.version)).toEqual([1, 7, 1]);
      const rows = await fork().find(Article, { title: 'new' }, { orderBy: { id: 'asc' } });
      expect(rows.map((article) => article.version)).toEqual([1, 7, 1]);
    });

    test('conflict fields, merge fields, exclude fields and ignore', async () => {
      const { fork, row } = await setUp();
      await fork().upsert(
        Article,
        { id: 5, slug: 'one', title: 'by slug' },
        { onConflictFields: ['slug'], onConflictExcludeFields: ['id'] },
      );
      expect(await row()).toEqual(['by slug', 10]);
      await fork().upsert(
        Article,
        { id: 1, slug: 'one', title: 'merged', version: 2 },
        { onConflictMergeFields: ['title'] },
      );
      expect(await row()).toEqual(['merged', 11]);
      await fork().upsert(Article, { id: 1, slug: 'one', title: 'excluded' }, { onConflictExcludeFields: ['title'] });
      expect((await row())![0]).toBe('merged');
      const before = await row();
      await fork().upsert(Article, { id: 1, slug: 'one', title: 'ignored' }, { onConflictAction: 'ignore' });
      expect(await row()).toEqual(before);
    });

    test('qb.insert().onConflict().merge(), with a list, with values and without', async () => {
      const { fork, row } = await setUp();
      const insert = (title: string) =>
        fork().createQueryBuilder(Article).insert({ id: 1, slug: 'one', title, version: 3 }).onConflict('id');
      await insert('all').merge().execute();
      expect(await row()).toEqual(['all', 10]);
      await insert('list').merge(['title', 'version']).execute();
      expect(await row()).toEqual(['list', 11]);
      await insert('values').merge({ title: 'given', version: 3 }).execute();
      expect(await row()).toEqual(['given', 12]);
      await insert('ignored').ignore().execute();
      expect(await row()).toEqual(['given', 12]);
    });

    test('em.insertMany takes versions as given', async () => {
      const { fork, row } = await setUp();
      await fork().insertMany(Article, [
        { id: 2, slug: 'two', title: 'a', version: 7 },
        { id: 3, slug: 'three', title: 'b', version: 8 },
      ]);
      expect([await row(2), await row(3)]).toEqual([
        ['a', 7],
        ['b', 8],
      ]);
    });
  });
}
