/** How many statements a flush sends: the lock costs none, and a conflict at most two. */
import { type Opt, type Options, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
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

export function statements(driver: TestDriver): void {
  describe('statements', () => {
    const setUp = async (count: number, more: Partial<Options> = {}) => {
      const db = await open(driver, [ArticleSchema], more);
      const seed = db.fork();
      for (let id = 1; id <= count; id++) {
        seed.create(Article, { id, title: 'old' });
      }
      await seed.flush();
      const em = db.fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      /** The kinds of the statements that were sent. */
      const kinds = async (work: () => Promise<unknown>) => {
        const log = await db.sent(work);
        return log.map(
          (sql) =>
            sql.match(/^(?:with .*?\) )?(begin|commit|rollback|release|savepoint|insert|update|delete|select)/s)![1],
        );
      };
      const conflict = async () => expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      return { ...db, em, articles, kinds, conflict };
    };
    /** Rows of a batch are one statement, up to 300 of them. */
    const repeat = (kind: string, rows: number) => {
      const count = driver.batches ? Math.ceil(rows / 300) : rows;
      return Array.from({ length: count }, () => kind);
    };
    /** A single row needs no transaction around its statement. */
    const inTransaction = (rows: number, ...kinds: string[]) =>
      rows === 1 && driver.autocommits ? kinds : ['begin', ...kinds, 'commit'];

    test('batchSize: 1 writes row by row, each checked, by plain statements without a list or a lock', async () => {
      const { em, articles, sent, fork } = await setUp(4, { batchSize: 1 });
      const [a, b, c, d] = articles;
      [a!, b!].forEach((article) => (article.title = 'new'));
      [c!, d!].forEach((article) => em.remove(article));
      const plain =
        /^(?:begin|commit|savepoint .*|release .*|(?:update|delete from) \S+ (?:set .* )?where \S+ = \d and \S+ = 1)$/;
      const log = await sent(() => em.flush());
      expect(log.filter((sql) => !plain.test(sql))).toEqual([]);
      expect(log.filter((sql) => /^(update|delete)/.test(sql))).toHaveLength(4);
      const theirs = fork();
      (await theirs.find(Article, {})).forEach((article) => (article.title = 'theirs'));
      await theirs.flush();
      [a!, b!].forEach((article) => (article.title = 'ours'));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
    });

    for (const count of [1, 2, 300, 700]) {
      test(`${count} changed rows`, async () => {
        const { em, articles, kinds } = await setUp(count);
        articles.forEach((article) => (article.title = 'new'));
        expect(await kinds(() => em.flush())).toEqual(inTransaction(count, ...repeat('update', count)));
        expect(await kinds(() => em.flush())).toEqual([]);
        articles.forEach((article) => touch(article));
        expect(await kinds(() => em.flush())).toEqual(inTransaction(count, ...repeat('update', count)));
      });

      test(`${count} removed rows`, async () => {
        const { em, articles, kinds } = await setUp(count);
        articles.forEach((article) => em.remove(article));
        expect(await kinds(() => em.flush())).toEqual(inTransaction(count, ...repeat('delete', count)));
      });
    }

    test('a conflict of one row: one statement more, which says what is there now', async () => {
      const { em, articles, kinds, fork, conflict } = await setUp(1);
      await fork().nativeUpdate(Article, 1, { title: 'theirs' });
      articles[0]!.title = 'ours';
      const sent = (kind: string) => (driver.autocommits ? [kind, 'select'] : ['begin', kind, 'select', 'rollback']);
      expect(await kinds(conflict)).toEqual(sent('update'));
      em.remove(articles[0]!);
      expect(await kinds(conflict)).toEqual(sent('delete'));
    });

    for (const event of ['beforeUpdate', 'afterUpdate', 'beforeTransactionCommit'] as const) {
      test(`a listener for ${event}: one row has a transaction, which is rolled back when it fails`, async () => {
        const db = await setUp(1);
        const em = db.orm.em.fork({ freshEventManager: true });
        const article = await em.findOneOrFail(Article, 1);
        let failing = true;
        em.getEventManager().registerSubscriber({
          [event]: async () => {
            if (failing) {
              throw new Error('changed my mind');
            }
          },
        });
        article.title = 'new';
        expect((await thrown(() => em.flush())).message).toBe('changed my mind');
        expect(await db.fork().findOneOrFail(Article, 1)).toMatchObject({ title: 'old', version: 1 });
        failing = false;
        expect(await db.kinds(() => em.flush())).toEqual(['begin', 'update', 'commit']);
        em.remove(article);
        const isWatched = event === 'beforeTransactionCommit' || !driver.autocommits;
        expect(await db.kinds(() => em.flush())).toEqual(isWatched ? ['begin', 'delete', 'commit'] : ['delete']);
      });
    }

    test('a new row, and one with a claim beside it: in a transaction, as ever', async () => {
      const { em, kinds } = await setUp(2);
      em.create(Article, { id: 3, title: 'new' });
      expect(await kinds(() => em.flush())).toEqual(['begin', 'insert', 'commit']);
      em.clear();
      em.assign(em.getReference(Article, 1), { version: 1 });
      (await em.findOneOrFail(Article, 2)).title = 'new';
      expect(await kinds(() => em.flush())).toEqual(['begin', 'select', 'update', 'commit']);
    });

    if (driver.batches) {
      test('a conflict of a batch: two more where a rival has bumped by one, as we do', async () => {
        const { em, articles, kinds, fork, conflict } = await setUp(100);
        await fork().nativeUpdate(Article, 50, { title: 'theirs' });
        articles.forEach((article) => (article.title = 'ours'));
        expect(await kinds(conflict)).toEqual(['begin', 'update', 'select', 'rollback', 'select']);
        await fork().nativeUpdate(Article, 50, { title: 'theirs again' });
        expect(await kinds(conflict)).toEqual(['begin', 'update', 'select', 'rollback']);
        articles.forEach((article) => em.remove(article));
        expect(await kinds(conflict)).toEqual(['begin', 'delete', 'select', 'rollback']);
      });
    }

    test('in a transaction: a savepoint around a flush of more than one row', async () => {
      const { em, articles, kinds } = await setUp(100);
      await em.transactional(async (tx) => {
        articles[0]!.title = 'new';
        expect(await kinds(() => tx.flush())).toEqual(['update']);
        articles.forEach((article) => (article.title = 'newer'));
        const sent = await kinds(() => tx.flush());
        expect(sent).toEqual(['savepoint', ...repeat('update', 100), 'release']);
      });
    });
  });
}
