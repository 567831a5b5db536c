/** How many statements a flush sends: the lock costs none, and a conflict at most two. */
import { type Opt, type Options, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { dialectOf } from '../../src/write/dialects/index.ts';
import { type TestDriver, inTransaction, open, openOwn, thrown } from '../harness.ts';

class Article {
  id!: number;
  title!: string;
  version!: Opt<number>;
}
const ArticleSchema = defineEntity({
  class: Article,
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

const KIND = /^(?:with .*?_w as \(|with .*?\) )?(begin|commit|rollback|release|savepoint|insert|update|delete|select)/s;
const kindsOf = (log: string[]) => log.map((sql) => sql.match(KIND)![1]);

export function statements(driver: TestDriver): void {
  describe('statements', () => {
    const setUp = async (count: number, more: Partial<Options> = {}, start = open) => {
      const db = await start(driver, [ArticleSchema], more);
      const seed = db.fork();
      for (let id = 1; id <= count; id++) {
        seed.create(Article, { id, title: 'old' });
      }
      await seed.flush();
      const em = db.fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      /** The kinds of the statements that were sent. */
      const kinds = async (work: () => Promise<unknown>) => kindsOf(await db.sent(work));
      const conflict = async () => expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      return { ...db, em, articles, kinds, conflict };
    };
    /** Rows of a batch are one statement, up to 300 of them. */
    const repeat = (kind: string, rows: number) => {
      const count = driver.batches ? Math.ceil(rows / 300) : rows;
      return Array.from({ length: count }, () => kind);
    };

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
        expect(await kinds(() => em.flush())).toEqual(inTransaction(driver, repeat('update', count)));
        expect(await kinds(() => em.flush())).toEqual([]);
        articles.forEach((article) => touch(article));
        expect(await kinds(() => em.flush())).toEqual(inTransaction(driver, repeat('update', count)));
      });

      test(`${count} removed rows`, async () => {
        const { em, articles, kinds } = await setUp(count);
        articles.forEach((article) => em.remove(article));
        expect(await kinds(() => em.flush())).toEqual(inTransaction(driver, repeat('delete', count)));
      });
    }

    test('a conflict of one row: one statement more, which says what is there now', async () => {
      const { em, articles, kinds, fork, conflict } = await setUp(1);
      await fork().nativeUpdate(Article, 1, { title: 'theirs' });
      articles[0]!.title = 'ours';
      const sent = (kind: string) =>
        driver.alone === 'nothing' ? ['begin', kind, 'select', 'rollback'] : [kind, 'select'];
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
        const isWatched = event === 'beforeTransactionCommit' || driver.alone === 'nothing';
        expect(await db.kinds(() => em.flush())).toEqual(isWatched ? ['begin', 'delete', 'commit'] : ['delete']);
      });
    }

    for (const count of [1, 2, 300]) {
      test(`${count} new rows`, async () => {
        const { em, kinds } = await setUp(0);
        for (let id = 1; id <= count; id++) {
          em.create(Article, { id, title: 'new' });
        }
        const isAlone = driver.alone === 'every statement';
        expect(await kinds(() => em.flush())).toEqual(isAlone ? ['insert'] : ['begin', 'insert', 'commit']);
      });
    }

    test('columns that the version excludes: a statement of their own, and locked with the others before both', async () => {
      const Counted = defineEntity({
        name: 'Counted',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          likes: p.integer().default(0),
          version: p.type(new VersionField({ exclude: ['likes'] })),
        },
      });
      const db = await open(driver, [Counted]);
      const em = db.fork();
      const rows = Array.from({ length: 4 }, (_, i) => em.create(Counted, { id: i + 1, title: 'old' }));
      await em.flush();
      rows[0]!.likes = 1;
      expect(kindsOf(await db.sent(() => em.flush()))).toEqual(inTransaction(driver, ['update']));
      rows.forEach((row, i) => (i < 2 ? (row.likes = 2) : (row.title = 'new')));
      const locking = dialectOf(db.orm.em.getPlatform())?.locksRows ? ['select'] : [];
      const both = driver.batches ? ['update', 'update'] : ['update', 'update', 'update', 'update'];
      expect(kindsOf(await db.sent(() => em.flush()))).toEqual(['begin', ...locking, ...both, 'commit']);
    });

    test('an aggregate: one UPDATE more for all of its roots, the first one, and nothing for a class without', async () => {
      const Chapter = defineEntity({
        name: 'Chapter',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          pages: () => p.oneToMany(Page).mappedBy('chapter'),
          cover: () => p.oneToOne(Cover).inversedBy('chapter').nullable(),
          version: p.type(new VersionField({ aggregate: ['pages', 'cover'] })),
        },
      });
      const Page = defineEntity({
        name: 'Page',
        properties: { id: p.integer().primary(), text: p.string(), chapter: () => p.manyToOne(Chapter) },
      });
      const Cover = defineEntity({
        name: 'Cover',
        properties: {
          id: p.integer().primary(),
          text: p.string(),
          chapter: () => p.oneToOne(Chapter).mappedBy('cover').nullable(),
        },
      });
      const { fork, sent } = await open(driver, [ArticleSchema, Chapter, Page, Cover]);
      const seed = fork();
      [1, 2].forEach((id) => {
        seed.create(Article, { id, title: 'old' });
        seed.create(Chapter, { id, title: 'old', pages: [{ id, text: 'old' }], cover: { id, text: 'old' } });
      });
      await seed.flush();
      const em = fork();
      const chapters = await em.find(Chapter, {}, { populate: ['pages', 'cover'], orderBy: { id: 'desc' } });
      const articles = await em.find(Article, {});
      const tables = async () => {
        const log = await sent(() => em.flush());
        const table = (sql: string) => sql.match(/(?:update|insert into|delete from) [`"](\w+)[`"]/)?.[1];
        return log.map((sql, i) => [kindsOf(log)[i], table(sql)].filter(Boolean).join(' '));
      };
      const rows = (kind: string, count: number) => Array.from({ length: driver.batches ? 1 : count }, () => kind);
      chapters.forEach((chapter) => (chapter.pages[0]!.text = 'new'));
      // MikroORM writes rows without a version in one statement
      expect((await tables()).filter((kind) => kind !== 'update page')).toEqual([
        'begin',
        ...rows('update chapter', 2),
        'commit',
      ]);
      chapters[0]!.cover!.text = 'new';
      expect(await tables()).toEqual(['begin', 'update chapter', 'update cover', 'commit']);
      em.create(Page, { id: 3, text: 'new', chapter: chapters[0]! });
      em.remove(chapters[1]!.pages[0]!);
      expect(await tables()).toEqual(['begin', ...rows('update chapter', 2), 'insert page', 'delete page', 'commit']);
      // a root that takes a row which is new comes later, but before its parts
      chapters[0]!.cover = em.create(Cover, { id: 3, text: 'new' });
      chapters[0]!.pages[0]!.text = 'newer';
      expect(await tables()).toEqual(['begin', 'insert cover', 'update chapter', 'update page', 'commit']);
      articles.forEach((article) => (article.title = 'new'));
      expect(await tables()).toEqual(inTransaction(driver, rows('update article', 2)));
      const versions = (await fork().find(Chapter, {}, { orderBy: { id: 'asc' } })).map(({ version }) => version);
      expect([versions, chapters.map(({ version }) => version).toReversed()]).toEqual([
        [3, 5],
        [3, 5],
      ]);
    });

    test('a claim beside a change: in a transaction, as ever', async () => {
      const { em, kinds } = await setUp(2);
      em.clear();
      em.assign(em.getReference(Article, 1), { version: 1 });
      (await em.findOneOrFail(Article, 2)).title = 'new';
      expect(await kinds(() => em.flush())).toEqual(['begin', 'select', 'update', 'commit']);
    });

    if (driver.keepsBack && driver.alone !== 'nothing') {
      test('where something on the table may keep back rows, there is a transaction', async () => {
        // the first flush that updates asks for it
        const { em, articles, kinds, fork } = await setUp(3, {}, openOwn);
        for (const sql of Object.values(driver.keepsBack!)[0]!('article', 'update', 99)) {
          await fork().getConnection().execute(sql);
        }
        articles.forEach((article) => (article.title = 'new'));
        expect(await kinds(() => em.flush())).toEqual(['begin', 'update', 'commit']);
        articles.forEach((article) => (article.title = 'newer'));
        expect(await kinds(() => em.flush())).toEqual(['begin', 'update', 'commit']);
      });
    }

    if (driver.batches) {
      test('a conflict of a batch: one statement more', async () => {
        const { em, articles, kinds, fork, conflict } = await setUp(100);
        await fork().nativeUpdate(Article, 50, { title: 'theirs' });
        articles.forEach((article) => (article.title = 'ours'));
        expect(await kinds(conflict)).toEqual(['update', 'select']);
        articles.forEach((article) => em.remove(article));
        expect(await kinds(conflict)).toEqual(['delete', 'select']);
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
