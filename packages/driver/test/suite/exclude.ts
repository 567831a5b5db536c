/** Columns that a version does not cover: a change of these alone checks and bumps nothing, and finds its row by the key. */
import { randomUUID } from 'node:crypto';
import { EntitySchema, type Opt, defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, describeWhere, inTransaction, open, refusal, testWhere, thrown } from '../harness.ts';
import { openRatings } from './ratings.ts';

const version = () => p.type(new VersionField({ exclude: ['likes', 'seen', 'stats', 'extra'] }));

const Stats = defineEntity({
  name: 'Stats',
  embeddable: true,
  properties: { views: p.integer().default(0), shares: p.integer().default(0) },
});
const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    likes: p.integer().default(0),
    seen: p.string().nullable(),
    extra: p.json<object>().nullable(),
    stats: () => p.embedded(Stats),
    version: version(),
  },
});
const entities = [Article, Stats] as EntitySchema[];
type Row = { title: string; likes: number; version: number };

const WORKERS = 8;
const ROUNDS = 10;

export function excludes(driver: TestDriver): void {
  const setUp = async (count = 1, more = {}) => {
    const db = await open(driver, entities, more);
    const seed = db.fork();
    for (let id = 1; id <= count; id++) {
      seed.create(Article, { id, title: 'old', stats: {} });
    }
    await seed.flush();
    const rows = () =>
      db.fork().getConnection().execute<Row[]>('select title, likes, version from article order by id');
    const load = (em = db.fork()) => em.find(Article, {}, { orderBy: { id: 1 } });
    return { ...db, rows, load };
  };
  const kinds = (log: string[]) =>
    log.map((sql) => sql.match(/^(?:with .*?_w as \(|with .*?\) )?(begin|commit|select|update)/s)![1]);

  describe('columns that a version excludes', () => {
    for (const count of [1, 2, 100]) {
      test(`${count} rows: a change of them alone says nothing of the version, and does not bump`, async () => {
        const { fork, load, sent, rows } = await setUp(count);
        const em = fork();
        const articles = await load(em);
        articles.forEach((article, i) => Object.assign(article, { likes: i + 1, seen: `at ${i}` }));
        const log = await sent(() => em.flush());
        expect(kinds(log)).toEqual(inTransaction(driver, driver.batches ? ['update'] : articles.map(() => 'update')));
        expect(log.filter((sql) => /version/.test(sql))).toEqual([]);
        expect(articles.map((article) => article.version)).toEqual(articles.map(() => 1));
        expect(await rows()).toEqual(articles.map((_, i) => ({ title: 'old', likes: i + 1, version: 1 })));
        expect(await sent(() => em.flush())).toEqual([]);
      });

      test(`${count} rows that others have changed meanwhile: both changes stay, and nobody conflicts`, async () => {
        const { fork, load, rows } = await setUp(count);
        const [em, rival] = [fork(), fork()];
        const [ours, theirs] = [await load(em), await load(rival)];
        theirs.forEach((article) => (article.title = 'theirs'));
        await rival.flush();
        ours.forEach((article) => (article.likes = 7));
        await em.flush();
        theirs.forEach((article) => (article.title = 'again'));
        await rival.flush();
        expect(await rows()).toEqual(ours.map(() => ({ title: 'again', likes: 7, version: 3 })));
        // what was loaded beside is as old as before
        ours[0]!.title = 'ours';
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 3 }] });
      });

      test(`${count} rows of which the last is gone: a conflict, and nothing is written`, async () => {
        const { fork, load, rows } = await setUp(count);
        const em = fork();
        const articles = await load(em);
        await fork().nativeDelete(Article, count);
        articles.forEach((article) => (article.likes = 7));
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect(error).toMatchObject({
          conflicts: [{ primaryKey: count, operation: 'update', expected: null, actual: null }],
          message: expect.stringMatching(
            /^Article \d+ could not be updated: any version would do, but the row is gone\./,
          ),
        });
        expect((await rows()).map(({ likes }) => likes)).toEqual(articles.slice(1).map(() => 0));
      });
    }

    test('the same values once more: rows that match are no conflict', async () => {
      const { load, fork } = await setUp(3);
      const [em, rival] = [fork(), fork()];
      const [ours, theirs] = [await load(em), await load(rival)];
      [...ours, ...theirs].forEach((article) => (article.likes = 7));
      await rival.flush();
      await em.flush();
      expect(ours.map(({ version: loaded }) => loaded)).toEqual([1, 1, 1]);
    });

    test('together with any other column, with touch() or an assigned version: as ever', async () => {
      const { load, fork, rows } = await setUp(5);
      const [em, stale] = [fork(), fork()];
      const [a, b, c, d, e] = await load(em);
      const [, other, another] = await load(stale);
      Object.assign(a!, { likes: 1, title: 'new' });
      b!.likes = 2;
      touch(b!);
      c!.likes = 3;
      d!.likes = 4;
      e!.likes = raw('likes + 5') as never;
      touch(e!);
      await em.flush();
      expect((await rows()).map((row) => `${row.likes} ${row.version}`)).toEqual(['1 2', '2 2', '3 1', '4 1', '5 2']);
      Object.assign(other!, { likes: 9, title: 'late' });
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ primaryKey: 2, expected: 1, actual: 2 }],
      });
      stale.clear();
      const late = fork();
      late.assign(late.getReference(Article, another!.id), { likes: 9, version: 8 });
      expect(await thrown(() => late.flush())).toMatchObject({
        conflicts: [{ primaryKey: 3, expected: 8, actual: 1 }],
      });
    });

    test('rows of both kinds in one flush are a statement each, and all or nothing', async () => {
      const { load, fork, sent, rows } = await setUp(6);
      const em = fork();
      const articles = await load(em);
      const change = () =>
        articles.forEach((article, i) =>
          Object.assign(article, i % 2 ? { likes: article.likes + 1 } : { title: 'new' }),
        );
      change();
      const log = kinds(await sent(() => em.flush()));
      if (driver.batches) {
        expect(log.filter((kind) => kind === 'update')).toHaveLength(2);
      }
      expect((await rows()).map((row) => row.version)).toEqual([2, 1, 2, 1, 2, 1]);
      await fork().nativeDelete(Article, 6);
      articles.forEach((article, i) => Object.assign(article, i % 2 ? { likes: 8 } : { title: 'newer' }));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 6, actual: null }] });
      expect((await rows()).map((row) => `${row.title} ${row.likes} ${row.version}`)).toEqual([
        'new 0 2',
        'old 1 1',
        'new 0 2',
        'old 1 1',
        'new 0 2',
      ]);
    });

    test('an embeddable, of which each part is a column, and a JSON', async () => {
      const { load, fork } = await setUp(2);
      const em = fork();
      const [a, b] = await load(em);
      a!.stats.views = 5;
      b!.extra = { a: [1, "it's"] };
      await em.flush();
      const [c, d] = await load();
      expect([c, d]).toMatchObject([
        { version: 1, stats: { views: 5, shares: 0 } },
        { version: 1, extra: { a: [1, "it's"] } },
      ]);
    });

    test('a reference without a version needs none', async () => {
      const { fork, sent, rows } = await setUp();
      const em = fork();
      em.getReference(Article, 1).likes = 5;
      expect(kinds(await sent(() => em.flush()))).toEqual(inTransaction(driver, ['update']));
      expect(await rows()).toEqual([{ title: 'old', likes: 5, version: 1 }]);
      const late = fork();
      late.getReference(Article, 9).likes = 5;
      expect(await thrown(() => late.flush())).toMatchObject({
        conflicts: [{ primaryKey: 9, expected: null, actual: null }],
      });
    });

    test('what a listener adds counts', async () => {
      const { orm, load, rows } = await setUp();
      const em = orm.em.fork({ freshEventManager: true });
      em.getEventManager().registerSubscriber({
        beforeUpdate: async ({ entity }) => void ((entity as { title: string }).title = 'by a listener'),
      });
      const [article] = await load(em as never);
      article!.likes = 1;
      await em.flush();
      expect(await rows()).toEqual([{ title: 'by a listener', likes: 1, version: 2 }]);
      expect(article!.version).toBe(2);
    });

    test('raw SQL as a value: the entity has what the database computed', async () => {
      const { load, fork, rows } = await setUp();
      const em = fork();
      const [article] = await load(em);
      await fork().nativeUpdate(Article, 1, { likes: 40 });
      article!.likes = raw('likes + 1') as never;
      await em.flush();
      expect(article).toMatchObject({ likes: 41, version: 1 });
      expect(await rows()).toEqual([{ title: 'old', likes: 41, version: 1 }]);
    });

    test('memory follows the database: a failed flush, and a rollback later', async () => {
      const { load, fork, rows } = await setUp(2);
      const em = fork();
      const [a, b] = await load(em);
      await fork().nativeUpdate(Article, 2, { title: 'theirs' });
      a!.likes = 3;
      b!.title = 'ours';
      await expect(em.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
      await em.refresh(b!);
      await em.flush();
      expect((await rows())[0]).toEqual({ title: 'old', likes: 3, version: 1 });
      await thrown(() =>
        em.transactional(async (tx) => {
          a!.likes = 4;
          await tx.flush();
          throw new Error('changed my mind');
        }),
      );
      expect(a).toMatchObject({ likes: 3, version: 1 });
      a!.title = 'new';
      await em.flush();
      expect((await rows())[0]).toEqual({ title: 'new', likes: 3, version: 2 });
    });

    test('set-based writes of them alone bump nothing either', async () => {
      const { fork, rows } = await setUp();
      const em = fork();
      const versionIs = async (expected: number) => expect((await rows())[0]!.version).toBe(expected);
      await em.nativeUpdate(Article, 1, { likes: 1 });
      await em.nativeUpdate(Article, 1, { likes: raw('likes + 1') });
      await em.createQueryBuilder(Article).update({ likes: 3, seen: 'now' }).where({ id: 1 });
      await versionIs(1);
      await em.nativeUpdate(Article, 1, { likes: 4, title: 'new' });
      await versionIs(2);
      await em.nativeUpdate(Article, 1, { likes: 5, version: 9 });
      await versionIs(9);
      const article = await em.upsert(
        Article,
        { id: 1, title: 'x', likes: 6, stats: {} },
        { onConflictMergeFields: ['likes'] },
      );
      await versionIs(9);
      expect(article).toMatchObject({ version: 9 });
      await em.upsert(
        Article,
        { id: 1, title: 'x', likes: 7, stats: {} },
        { onConflictMergeFields: ['likes', 'title'] },
      );
      await versionIs(10);
    });

    testWhere(driver.batches)(
      `counters: ${WORKERS} workers add 1 while others change the title, and all of it is exact`,
      async () => {
        const run = async (add: (article: { likes: number }) => void) => {
          const { fork, load, rows } = await setUp(2, { pool: { min: 0, max: WORKERS } });
          let [saved, titles, conflicts] = [0, 0, 0];
          const failed = (error: unknown) => {
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            expect((error as ConcurrentUpdate).cause).toBeUndefined();
            conflicts++;
          };
          const count = async () => {
            for (let i = 0; i < ROUNDS; i++) {
              const em = fork();
              const articles = await load(em);
              articles.forEach(add);
              await em.flush().then(() => saved++, failed);
            }
          };
          const edit = async (editor: string) => {
            for (let i = 0; i < ROUNDS; i++) {
              const em = fork();
              const articles = await load(em);
              // one of each kind: both rows are locked by two statements
              articles[i % 2]!.title = `${editor} ${i}`;
              articles[(i + 1) % 2]!.seen = `at ${i}`;
              await em.flush().then(() => titles++, failed);
            }
          };
          await Promise.all([...Array.from({ length: WORKERS }, count), edit('ann'), edit('bob')]);
          return { saved, titles, conflicts, rows: await rows() };
        };
        const exact = await run((article) => (article.likes = raw('likes + 1') as never));
        expect(exact.saved).toBe(WORKERS * ROUNDS);
        expect(exact.rows.map(({ likes }) => likes)).toEqual([WORKERS * ROUNDS, WORKERS * ROUNDS]);
        expect(exact.rows.reduce((sum, row) => sum + row.version - 1, 0)).toBe(exact.titles);
        // computed in memory, updates get lost, which is what was asked for
        const lost = await run((article) => article.likes++);
        expect(lost.saved).toBe(WORKERS * ROUNDS);
        expect(lost.rows[0]!.likes).toBeLessThan(WORKERS * ROUNDS);
      },
    );

    for (const inheritance of ['single-table', 'joined-table'] as const) {
      test(`${inheritance} inheritance: in the table of the version, and in one of another`, async () => {
        class Animal {
          id!: number;
          name!: string;
          visits!: Opt<number>;
          version!: Opt<number>;
        }
        class Dog extends Animal {
          bark!: string;
          pats!: Opt<number>;
        }
        const base = defineEntity({
          class: Animal,
          ...(inheritance === 'joined-table' ? { inheritance: 'tpt' } : { discriminatorColumn: 'kind' }),
          properties: {
            id: p.integer().primary(),
            name: p.string(),
            visits: p.integer().default(0),
            version: p.type(new VersionField({ exclude: ['visits', 'pats'] })),
          },
        } as never) as EntitySchema;
        const dog = defineEntity({
          class: Dog,
          extends: base,
          properties: { bark: p.string(), pats: p.integer().default(0) },
        } as never) as EntitySchema;
        const { fork } = await open(driver, [base, dog]);
        const seed = fork();
        [1, 2, 3].forEach((id) => seed.create(Dog, { id, name: 'Rex', bark: 'wow' }));
        await seed.flush();
        const em = fork();
        const dogs = await em.find(Dog, {}, { orderBy: { id: 1 } });
        const change = (changes: object[]) => dogs.forEach((one, i) => Object.assign(one, changes[i]));
        const expectAll = async (versions: number[]) => {
          await em.flush();
          expect(dogs.map((one) => one.version)).toEqual(versions);
          const stored = await fork().find(Dog, {}, { orderBy: { id: 1 } });
          const values = (one: Dog) => [one.name, one.visits, one.bark, one.pats, one.version];
          expect(stored.map(values)).toEqual(dogs.map(values));
        };
        change([{ visits: 1 }, { pats: 1 }, { visits: 2, pats: 2 }]);
        await expectAll([1, 1, 1]);
        change([{ visits: 2, bark: 'wif' }, { pats: 2, name: 'Max' }, { pats: 3 }]);
        await expectAll([2, 2, 1]);
        await fork().nativeDelete(Animal, 3);
        dogs[2]!.pats = 9;
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 3, actual: null }] });
      });
    }

    test('an EntitySchema, in a schema of its own', async () => {
      const schema = `north_${randomUUID().slice(0, 8)}`;
      const Fixed = new EntitySchema<{ id: number; title: string; likes: number; version: Opt<number> }>({
        name: 'Fixed',
        schema,
        properties: {
          id: { type: 'integer', primary: true, autoincrement: false },
          title: { type: 'string' },
          likes: { type: 'integer' },
          version: { type: new VersionField({ exclude: ['likes'] }) },
        },
      });
      const { fork } = await open(driver, [Fixed], await driver.schemas([schema]));
      const em = fork();
      const rows = [1, 2, 3].map((id) => em.create(Fixed, { id, title: 'old', likes: 0 }));
      await em.flush();
      rows.forEach((row, i) => Object.assign(row, i ? { likes: 5 } : { title: 'new', likes: 5 }));
      await em.flush();
      const stored = await fork().find(Fixed, {}, { orderBy: { id: 1 } });
      expect(stored.map((row) => [row.title, row.likes, row.version])).toEqual([
        ['new', 5, 2],
        ['old', 5, 1],
        ['old', 5, 1],
      ]);
    });

    test('a composite key, of which a part is a relation', async () => {
      const { fork, Rating } = await openRatings(driver, new VersionField({ exclude: ['hits'] }));
      const em = fork();
      const ratings = await em.find(Rating, {}, { orderBy: { by: 1 } });
      ratings.forEach((rating, i) => (i < 2 ? (rating.hits = i + 1) : (rating.stars = 4)));
      await em.flush();
      const stored = await fork().find(Rating, {}, { orderBy: { by: 1 } });
      expect(stored.map((one) => [one.stars, one.hits, one.version])).toEqual([
        [3, 1, 1],
        [3, 2, 1],
        [4, 0, 2],
      ]);
    });
  });

  describe('what may not be excluded is refused on discovery', () => {
    const said = async (exclude: string[], more: EntitySchema[] = []) => {
      const Bad = defineEntity({
        name: 'Bad',
        properties: {
          id: p.integer().primary(),
          n: p.integer(),
          double: p.integer().generated('(n * 2) stored').$type<Opt<number>>(),
          other: p.string().concurrencyCheck(),
          parent: () => p.manyToOne(Bad).nullable(),
          children: () => p.oneToMany(Bad).mappedBy('parent'),
          version: p.type(new VersionField({ exclude })),
        },
      });
      return refusal(driver, [Bad as unknown as EntitySchema, ...more]);
    };
    for (const [name, sentence] of [
      ['lieks', 'but Bad has no such property'],
      ['id', 'but that is a key'],
      ['version', 'but that is the version itself'],
      ['parent', 'but that is a relation'],
      ['children', 'but that is a relation'],
      ['double', 'but that is no column that a flush writes'],
      ['other', 'but that is compared by MikroORM'],
    ] as const) {
      test(name, async () => {
        expect(await said(['n', name])).toContain(`Bad.version excludes "${name}", ${sentence}`);
      });
    }

    test('a discriminator', async () => {
      const Base = defineEntity({
        name: 'Base',
        discriminatorColumn: 'kind',
        discriminatorMap: { base: 'Base' } as never,
        properties: {
          id: p.integer().primary(),
          kind: p.string(),
          version: p.type(new VersionField({ exclude: ['kind'] })),
        },
      });
      expect(await refusal(driver, [Base])).toContain('Base.version excludes "kind", but that is the discriminator');
    });
  });

  describeWhere(driver.concurrent)('excluded columns beside others', () => {
    test('flushes of rows of both kinds wait for each other instead of deadlocking', async () => {
      const { fork, load } = await setUp(4, { pool: { min: 0, max: WORKERS } });
      const causes: unknown[] = [];
      const work = async () => {
        for (let i = 0; i < 15; i++) {
          const em = fork();
          const articles = await load(em);
          const at = Math.floor(Math.random() * 4);
          articles.forEach((article, j) => (j === at ? (article.title = `${i}`) : article.likes++));
          await em.flush().catch((error: ConcurrentUpdate) => void (error.cause && causes.push(error.cause)));
        }
      };
      await Promise.all(Array.from({ length: WORKERS }, work));
      expect(causes).toEqual([]);
    });
  });
}
