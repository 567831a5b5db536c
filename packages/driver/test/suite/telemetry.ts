/** Conflicts are published on a diagnostics channel, each once. */
import diagnostics from 'node:diagnostics_channel';
import { LockMode, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Article {
  id!: number;
  title!: string;
  version!: Opt<number>;
}
const ArticleSchema = defineEntity({
  class: Article,
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

export function telemetry(driver: TestDriver): void {
  describe('telemetry', () => {
    const setUp = async () => {
      const db = await open(driver, [ArticleSchema]);
      const seed = db.fork();
      [1, 2, 3].forEach((id) => seed.create(Article, { id, title: 'old' }));
      await seed.flush();
      const heard: unknown[] = [];
      const listen = (message: unknown) => heard.push((message as { error: unknown }).error);
      diagnostics.subscribe('mikro-ool:conflict', listen);
      onTestFinished(() => void diagnostics.unsubscribe('mikro-ool:conflict', listen));
      return { ...db, heard };
    };

    for (const count of [1, 3]) {
      for (const operation of ['update', 'delete'] as const) {
        for (const around of ['alone', 'in a transaction'] as const) {
          test(`${operation} of ${count}, ${around}`, async () => {
            const { fork, heard } = await setUp();
            const em = fork();
            const articles = await em.find(Article, {}, { orderBy: { id: 'asc' }, limit: count });
            await fork().nativeUpdate(Article, 1, { title: 'theirs' });
            const work = (on: typeof em) => {
              articles.forEach((article) => (operation === 'update' ? (article.title = 'ours') : on.remove(article)));
              return on.flush();
            };
            const error = await thrown(() => (around === 'alone' ? work(em) : em.transactional((tx) => work(tx))));
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            expect(heard).toEqual([error]);
          });
        }
      }
    }

    test('em.lock()', async () => {
      const { fork, heard } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      const error = await thrown(() => em.lock(article, LockMode.OPTIMISTIC, 7));
      expect(heard).toEqual([error]);
    });

    test('no conflict, and other errors: nothing', async () => {
      const { fork, heard } = await setUp();
      const em = fork();
      (await em.findOneOrFail(Article, 1)).title = 'ours';
      await em.flush();
      em.create(Article, { id: 2, title: 'there is one' });
      await thrown(() => em.flush());
      expect(heard).toEqual([]);
    });
  });
}
