/** A changed row is written only where it still has the version that was read. */
import { defineEntity, p } from '@mikro-orm/core';
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

export function updates(driver: TestDriver): void {
  const setUp = async (count: number) => {
    const db = await open(driver, [Article]);
    const em = db.fork();
    for (let id = 1; id <= count; id++) {
      em.create(Article, { id, title: `title ${id}` });
    }
    await em.flush();
    const rows = async () =>
      db
        .fork()
        .getConnection()
        .execute<{ id: number; title: string; hits: number; version: number }[]>('select * from article order by id');
    return { ...db, rows };
  };

  describe('update', () => {
    test('starts at 1 and goes up by one with every change', async () => {
      const { fork } = await setUp(1);
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      expect(article.version).toBe(1);
      for (let version = 2; version <= 4; version++) {
        article.title = `version ${version}`;
        await em.flush();
        expect(article.version).toBe(version);
        expect((await fork().findOneOrFail(Article, 1)).version).toBe(version);
      }
    });

    test('without a change, nothing is sent and nothing is bumped', async () => {
      const { fork, sent } = await setUp(1);
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.title = 'title 1';
      expect(await sent(() => em.flush())).toEqual([]);
      expect(article.version).toBe(1);
    });

    test('the second of two editors conflicts, and the first one keeps what was saved', async () => {
      const { fork, rows } = await setUp(1);
      const ours = fork();
      const theirs = fork();
      const mine = await ours.findOneOrFail(Article, 1);
      (await theirs.findOneOrFail(Article, 1)).title = 'theirs';
      await theirs.flush();
      mine.title = 'mine';
      const error = await thrown(() => ours.flush());
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      const [conflict] = (error as unknown as ConcurrentUpdate).conflicts;
      expect(conflict).toMatchObject({
        entityName: 'Article',
        primaryKey: 1,
        operation: 'update',
        expected: 1,
        actual: 2,
      });
      expect(conflict!.entity).toBe(mine);
      expect(await rows()).toMatchObject([{ title: 'theirs', version: 2 }]);
      expect(mine).toMatchObject({ title: 'mine', version: 1 });
    });

    test('a stale entity stays stale until it is refreshed', async () => {
      const { fork, rows } = await setUp(1);
      const em = fork();
      const mine = await em.findOneOrFail(Article, 1);
      const theirs = fork();
      (await theirs.findOneOrFail(Article, 1)).title = 'theirs';
      await theirs.flush();
      mine.title = 'mine';
      for (let attempt = 0; attempt < 3; attempt++) {
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      }
      await em.refresh(mine);
      mine.title = 'mine';
      await em.flush();
      expect(await rows()).toMatchObject([{ title: 'mine', version: 3 }]);
    });

    test('a row that was removed meanwhile is a conflict without an actual version', async () => {
      const { fork } = await setUp(1);
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      await fork().nativeDelete(Article, 1);
      article.title = 'late';
      const error = await thrown(() => em.flush());
      expect(error).toMatchObject({ conflicts: [{ expected: 1, actual: null }] });
      expect(error.message).toContain('the row is gone');
    });

    test('50 changed rows are one statement', async () => {
      const { fork, sent, rows } = await setUp(50);
      const em = fork();
      for (const article of await em.find(Article, {})) {
        article.hits++;
      }
      const log = await sent(() => em.flush());
      if (driver.batches) {
        expect(log.map((sql) => sql.match(/begin|update|commit/)?.[0])).toEqual(['update']);
      }
      expect(log.some((sql) => sql.startsWith('select'))).toBe(false);
      expect((await rows()).every((row) => row.hits === 1 && row.version === 2)).toBe(true);
    });

    test('a batch names every stale row, and writes none', async () => {
      const { fork, rows } = await setUp(10);
      const em = fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'desc' } });
      const theirs = fork();
      for (const id of [3, 7]) {
        (await theirs.findOneOrFail(Article, id)).title = 'theirs';
      }
      await theirs.flush();
      await fork().nativeDelete(Article, 5);
      articles.forEach((article) => (article.title = 'ours'));
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      if (driver.batches) {
        expect(error.conflicts).toMatchObject([
          { primaryKey: 3, expected: 1, actual: 2 },
          { primaryKey: 5, expected: 1, actual: null },
          { primaryKey: 7, expected: 1, actual: 2 },
        ]);
      }
      expect(error.getEntity()).toBe(articles.find((article) => article.id === 3));
      expect((await rows()).filter((row) => row.title === 'ours')).toEqual([]);
      expect(articles.every((article) => article.version === 1)).toBe(true);
    });

    test('700 changed rows with one stale: one conflict, nothing written, all versions as before, and a retry works', async () => {
      const { fork, rows } = await setUp(700);
      const em = fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      const theirs = fork();
      (await theirs.findOneOrFail(Article, 650)).title = 'theirs';
      await theirs.flush();
      articles.forEach((article) => article.hits++);
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toMatchObject([{ primaryKey: 650, expected: 1, actual: 2 }]);
      expect((await rows()).filter((row) => row.hits !== 0)).toEqual([]);
      expect(articles.every((article) => article.version === 1)).toBe(true);
      await em.refresh(articles[649]!);
      articles[649]!.hits++;
      await em.flush();
      expect((await rows()).every((row) => row.hits === 1 && row.version === (row.id === 650 ? 3 : 2))).toBe(true);
    });

    test('rows of one batch that change different columns keep the other columns', async () => {
      const { fork, rows } = await setUp(3);
      const em = fork();
      const [a, b, c] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      await fork().getConnection().execute("update article set hits = 77, title = 'by raw sql'");
      a!.title = 'a';
      b!.hits = 5;
      c!.title = 'c';
      c!.hits = 6;
      await em.flush();
      expect(await rows()).toMatchObject([
        { title: 'a', hits: 77, version: 2 },
        { title: 'by raw sql', hits: 5, version: 2 },
        { title: 'c', hits: 6, version: 2 },
      ]);
    });
  });
}
