/** A flush is all or nothing, also inside a transaction that goes on. */
import { defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    hits: p.integer().default(0),
    version: p.type(VersionField),
  },
});
const Note = defineEntity({
  name: 'Note',
  properties: { id: p.integer().primary(), text: p.string().unique(), version: p.type(VersionField) },
});

const Tag = defineEntity({
  name: 'Tag',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

export function transactions(driver: TestDriver): void {
  const setUp = async (count = 3) => {
    const db = await open(driver, [Article, Note]);
    const em = db.fork();
    for (let id = 1; id <= count; id++) {
      em.create(Article, { id, title: 'saved' });
      em.create(Note, { id, text: `note ${id}` });
    }
    await em.flush();
    const state = async () => {
      const connection = db.fork().getConnection();
      return {
        articles: await connection.execute<{ id: number; title: string; version: number }[]>(
          'select * from article order by id',
        ),
        notes: await connection.execute<{ id: number; text: string; version: number }[]>(
          'select * from note order by id',
        ),
      };
    };
    return { ...db, state };
  };

  describe('transactions', () => {
    test('a conflict that is caught in a transaction leaves nothing of its flush behind', async () => {
      const { fork, state } = await setUp(700);
      const em = fork();
      await em.transactional(async (tx) => {
        const notes = await tx.find(Note, {}, { orderBy: { id: 'asc' } });
        const articles = await tx.find(Article, {}, { orderBy: { id: 'asc' } });
        notes[0]!.text = 'kept';
        await tx.flush();
        notes.forEach((note) => (note.text += '!'));
        articles.forEach((article) => (article.title = 'lost'));
        tx.create(Note, { id: 9000, text: 'lost' });
        tx.remove(articles[0]!);
        articles[650]!.version = 7;
        const error = await thrown(() => tx.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        tx.clear();
      });
      const { articles, notes } = await state();
      expect(articles.every((row) => row.title === 'saved' && row.version === 1)).toBe(true);
      expect(notes.map((row) => row.text)).toEqual(['kept', ...notes.slice(1).map((_, i) => `note ${i + 2}`)]);
      expect(notes.length).toBe(700);
    });

    test('one single-row statement in a transaction needs no savepoint', async () => {
      const { fork, sent } = await setUp(1);
      const log = await sent(() =>
        fork().transactional(async (tx) => {
          (await tx.findOneOrFail(Article, 1)).title = 'changed';
        }),
      );
      expect(log.some((sql) => sql.startsWith('savepoint'))).toBe(false);
    });

    test('any other error restores the versions too', async () => {
      const { fork, state } = await setUp(3);
      const em = fork();
      const [article] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      article!.title = 'changed';
      const duplicate = em.create(Note, { id: 99, text: 'note 1' });
      expect((await thrown(() => em.flush())).name).toBe('UniqueConstraintViolationException');
      expect(article!.version).toBe(1);
      duplicate.text = 'other';
      await em.flush();
      expect(article!.version).toBe(2);
      expect((await state()).articles[0]).toMatchObject({ title: 'changed', version: 2 });
    });

    for (const stale of ['articles', 'tags'] as const) {
      test(`what was written before a conflict of ${stale} is written again by a retry`, async () => {
        const { fork } = await open(driver, [Article, Tag]);
        const seed = fork();
        for (const id of [1, 2]) {
          seed.create(Article, { id, title: 'saved' });
          seed.create(Tag, { id, title: 'saved' });
        }
        await seed.flush();
        const em = fork();
        const loaded = { articles: await em.find(Article, {}), tags: await em.find(Tag, {}) };
        const all = [...loaded.articles, ...loaded.tags];
        const theirs = fork();
        const find = stale === 'articles' ? theirs.findOneOrFail(Article, 1) : theirs.findOneOrFail(Tag, 1);
        (await find).title = 'theirs';
        await theirs.flush();
        all.forEach((entity) => (entity.title = 'ours'));
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect(all.map((entity) => entity.version)).toEqual([1, 1, 1, 1]);
        await em.refresh(loaded[stale][0]!);
        loaded[stale][0]!.title = 'ours';
        await em.flush();
        const stored = [...(await fork().find(Article, {})), ...(await fork().find(Tag, {}))];
        expect(stored.map((entity) => entity.title)).toEqual(['ours', 'ours', 'ours', 'ours']);
      });
    }

    test('without implicit transactions a flush is still all or nothing', async () => {
      const db = await open(driver, [Article], { implicitTransactions: false });
      const seed = db.fork();
      for (let id = 1; id <= 400; id++) {
        seed.create(Article, { id, title: 'saved' });
      }
      await seed.flush();
      const em = db.fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      articles.forEach((article) => (article.title = 'lost'));
      articles[390]!.version = 5;
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      expect(await db.fork().count(Article, { title: 'lost' })).toBe(0);
    });

    test('expressions are written row by row, and read back', async () => {
      const { fork, state } = await setUp(3);
      const em = fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      articles.forEach((article) => (article.hits = raw('hits + 10') as unknown as number));
      await em.flush();
      expect(articles.map((article) => article.version)).toEqual([2, 2, 2]);
      expect(articles.map((article) => article.hits)).toEqual([10, 10, 10]);
      expect((await fork().find(Article, {})).map((article) => article.hits)).toEqual([10, 10, 10]);
      const stale = fork();
      const late = await stale.find(Article, {}, { orderBy: { id: 'asc' } });
      articles[1]!.title = 'theirs';
      await em.flush();
      late.forEach((article) => (article.hits = raw('hits + 10') as unknown as number));
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ primaryKey: 2, expected: 2, actual: 3 }],
      });
      expect((await state()).articles.map((row) => row.version)).toEqual([2, 3, 2]);
    });
  });
}
