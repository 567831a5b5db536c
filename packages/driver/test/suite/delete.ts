/** A row is deleted only where it still has the version that was read. */
import { defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

class Folder {
  id!: number;
  parent?: Folder | null;
  version!: number;
}
const FolderSchema = defineEntity({
  class: Folder,
  properties: {
    id: p.integer().primary(),
    parent: () => p.manyToOne(Folder).nullable().deleteRule('cascade'),
    version: p.type(VersionField),
  },
});

export function deletes(driver: TestDriver): void {
  const setUp = async (count: number) => {
    const db = await open(driver, [Article]);
    const em = db.fork();
    for (let id = 1; id <= count; id++) {
      em.create(Article, { id, title: `title ${id}` });
    }
    await em.flush();
    const touch = async (...ids: number[]) => {
      const theirs = db.fork();
      for (const article of await theirs.find(Article, { id: ids })) {
        article.title = 'theirs';
      }
      await theirs.flush();
    };
    return { ...db, touch, count: () => db.fork().count(Article) };
  };

  describe('delete', () => {
    test('a fresh row goes, a stale one stays and is a conflict', async () => {
      const { fork, touch, count } = await setUp(2);
      const em = fork();
      const [fresh, stale] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      await em.remove(fresh!).flush();
      expect(await count()).toBe(1);
      await touch(2);
      const error = (await thrown(() => em.remove(stale!).flush())) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      expect(error.conflicts).toMatchObject([{ primaryKey: 2, operation: 'delete', expected: 1, actual: 2 }]);
      expect(error.getEntity()).toBe(stale);
      expect(await count()).toBe(1);
    });

    test('a row that is already gone is a conflict', async () => {
      const { fork } = await setUp(1);
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      await fork().nativeDelete(Article, 1);
      const error = await thrown(() => em.remove(article).flush());
      expect(error).toMatchObject({ conflicts: [{ operation: 'delete', expected: 1, actual: null }] });
    });

    test('20 removed rows are one statement', async () => {
      const { fork, sent, count } = await setUp(20);
      const em = fork();
      for (const article of await em.find(Article, {})) {
        em.remove(article);
      }
      const log = await sent(() => em.flush());
      if (driver.batches) {
        expect(log.map((sql) => sql.match(/begin|delete|commit/)?.[0])).toEqual(['delete']);
      }
      expect(await count()).toBe(0);
    });

    test('a batch names every stale row, and deletes none', async () => {
      const { fork, touch, count } = await setUp(10);
      const em = fork();
      const articles = await em.find(Article, {});
      await touch(2, 4);
      await fork().nativeDelete(Article, 6);
      articles.forEach((article) => em.remove(article));
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      if (driver.batches) {
        expect(error.conflicts).toMatchObject([
          { primaryKey: 2, expected: 1, actual: 2 },
          { primaryKey: 4, expected: 1, actual: 2 },
          { primaryKey: 6, expected: 1, actual: null },
        ]);
      }
      expect(await count()).toBe(9);
    });

    test('700 removed rows with one stale: nothing is deleted', async () => {
      const { fork, touch, count } = await setUp(700);
      const em = fork();
      (await em.find(Article, {})).forEach((article) => em.remove(article));
      await touch(690);
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toMatchObject([{ primaryKey: 690, expected: 1, actual: 2 }]);
      expect(await count()).toBe(700);
    });

    test('rows that a cascade of the same flush takes along are no conflict', async () => {
      const db = await open(driver, [FolderSchema]);
      const seed = db.fork();
      let parent: Folder | null = null;
      for (let id = 1; id <= driver.cascadeDepth; id++) {
        parent = seed.create(Folder, { id, parent, version: 1 });
      }
      await seed.flush();
      const em = db.fork();
      (await em.find(Folder, {}, { orderBy: { id: 'asc' } })).forEach((folder) => em.remove(folder));
      await em.flush();
      expect(await db.fork().count(Folder)).toBe(0);
    });

    test('a cascade does not hide a stale row', async () => {
      const db = await open(driver, [FolderSchema]);
      const seed = db.fork();
      const root = seed.create(Folder, { id: 1, version: 1 });
      seed.create(Folder, { id: 2, parent: root, version: 1 });
      seed.create(Folder, { id: 3, parent: root, version: 1 });
      await seed.flush();
      const em = db.fork();
      (await em.find(Folder, {})).forEach((folder) => em.remove(folder));
      const theirs = db.fork();
      (await theirs.findOneOrFail(Folder, 3)).parent = await theirs.findOneOrFail(Folder, 2);
      await theirs.flush();
      const error = await thrown(() => em.flush());
      expect(error).toMatchObject({ conflicts: [{ primaryKey: 3, expected: 1, actual: 2 }] });
      expect(await db.fork().count(Folder)).toBe(3);
    });
  });
}
