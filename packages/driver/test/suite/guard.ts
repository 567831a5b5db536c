/** A version with a guard: who writes past the ORM bumps it all the same, and we do not bump it twice. */
import { type Opt, EntitySchema, defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { type TestDriver, describeWhere, inTransaction, open, testWhere, thrown, untilNoticed } from '../harness.ts';
import { schemaDifference } from './guard-schema.ts';

const version = () => p.type(new VersionField({ guard: true, exclude: ['likes', 'stats'] }));
const Stats = defineEntity({
  name: 'Stats',
  embeddable: true,
  properties: { views: p.integer().default(0), shares: p.integer().default(0) },
});
const Author = defineEntity({
  name: 'Author',
  properties: { id: p.integer().primary(), name: p.string() },
});
const Article = defineEntity({
  name: 'Article',
  tableName: 'calendar_article',
  properties: {
    id: p.integer().primary().autoincrement(false),
    title: p.string().fieldName('the title'),
    weekend: p.string().nullable(),
    likes: p.integer().default(0),
    data: p.json<object>().nullable(),
    blob: p.blob().nullable(),
    at: p.datetime().nullable(),
    price: p.double().nullable(),
    author: () => p.manyToOne(Author).nullable(),
    double: p.integer().generated('(id * 2) stored').$type<Opt<number>>(),
    stats: () => p.embedded(Stats),
    version: version().fieldName('row_version'),
  },
});
const Line = defineEntity({
  name: 'Line',
  properties: {
    order: p.integer().primary(),
    line: p.integer().primary(),
    amount: p.integer(),
    version: p.type(new VersionField({ guard: true })),
  },
});
class Node {
  id!: number;
  slug!: string | null;
  next!: Node | null;
  version!: Opt<number>;
}
const NodeSchema = defineEntity({
  class: Node,
  properties: {
    id: p.integer().primary().autoincrement(),
    slug: p.string().unique().nullable(),
    next: () => p.manyToOne(Node).nullable(),
    version: p.type(new VersionField({ guard: true })),
  },
});
const entities = [Article, Stats, Author, Line, NodeSchema] as EntitySchema[];

const WORKERS = 6;
const ROUNDS = 10;

export function guards(driver: TestDriver): void {
  const setUp = async (count = 1, more = {}) => {
    const db = await open(driver, entities, more);
    const quote = (name: string) => db.orm.em.getPlatform().quoteIdentifier(name);
    const em = db.fork();
    for (let id = 1; id <= count; id++) {
      em.create(Article, { id, title: 'old', data: { a: 1 }, stats: {} });
      em.create(Line, { order: 1, line: id, amount: 1 });
    }
    await em.flush();
    const execute = (sql: string) => db.fork().getConnection().execute<{ v: number }[]>(sql);
    const versions = async (table = 'calendar_article', column = 'row_version', order = 'id') =>
      (await execute(`select ${column} as v from ${table} order by ${order}`)).map(({ v }) => v);
    return { ...db, execute, versions, quote };
  };

  describeWhere(driver.batches)('a guard', () => {
    test('the schema is what was created', async () => {
      const { orm } = await setUp();
      expect(await orm.schema.getCreateSchemaSQL()).toContain('mikro_ool_guard');
      expect(await schemaDifference(driver, orm)).toBe('');
    });

    test('every column that counts bumps when it changes in raw SQL, and no other does', async () => {
      const { execute, versions, quote } = await setUp();
      const writes: [string, number][] = [
        [`${quote('the title')} = 'new'`, 2],
        [`${quote('the title')} = 'NEW'`, 3],
        [`${quote('the title')} = 'NEW'`, 3],
        [`weekend = 'sunday'`, 4],
        [`weekend = null`, 5],
        [`weekend = null`, 5],
        [`likes = 8, stats_views = 3`, 5],
        [`data = '{"a": 2}'`, 6],
        [`data = null`, 7],
        [`price = 1.5`, 8],
        [`price = 1.5, likes = 9`, 8],
        [`price = 2.5, row_version = row_version + 1`, 9],
        [`row_version = 20`, 20],
        [`likes = 0, row_version = 21`, 21],
        [`id = 2`, 22],
      ];
      for (const [set, expected] of writes) {
        await execute(`update calendar_article set ${set}`);
        expect([set, ...(await versions())]).toEqual([set, expected]);
      }
    });

    test('at the end of the column a row is not changed past the ORM, but deleted', async () => {
      const { execute, versions, fork } = await setUp(2);
      await execute('update calendar_article set row_version = 2147483647 where id = 1');
      await thrown(() => execute(`update calendar_article set weekend = 'sunday'`));
      expect(await versions()).toEqual([2_147_483_647, 1]);
      await execute(`update calendar_article set likes = 3`);
      const em = fork();
      em.remove(await em.findOneOrFail(Article, 1));
      await em.flush();
      expect(await versions()).toEqual([1]);
    });

    test('a writer in raw SQL or Kysely is a conflict', async () => {
      const { fork, execute, quote } = await setUp(3);
      const em = fork();
      const [a, b, c] = await em.find(Article, {}, { orderBy: { id: 1 } });
      await execute(`update calendar_article set ${quote('the title')} = 'psql' where id = 1`);
      await fork()
        .getKysely<{ calendar_article: { id: number; weekend: string } }>()
        .updateTable('calendar_article')
        .set({ weekend: 'kysely' })
        .where('id', '=', 2)
        .execute();
      await execute(`update calendar_article set likes = 5 where id = 3`);
      [a, b, c].forEach((article) => (article!.title = 'ours'));
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      expect(error).toMatchObject({
        conflicts: [
          { primaryKey: 1, expected: 1, actual: 2 },
          { primaryKey: 2, expected: 1, actual: 2 },
        ],
      });
    });

    for (const count of [1, 2, 50]) {
      test(`${count} rows: flushes and set-based writes bump once, and are sent as without a guard`, async () => {
        const { fork, sent, versions } = await setUp(count);
        const em = fork();
        const articles = await em.find(Article, {}, { orderBy: { id: 1 } });
        const all = (expected: number) => articles.map(() => expected);
        articles.forEach((article) => (article.title = 'ours'));
        await em.flush();
        expect([articles.map((article) => article.version), await versions()]).toEqual([all(2), all(2)]);
        articles.forEach((article) => (article.data = { b: 1 }));
        await em.flush();
        articles.forEach((article) => (article.likes = 5));
        await em.flush();
        articles.forEach((article) => touch(article));
        await em.flush();
        expect([articles.map((article) => article.version), await versions()]).toEqual([all(4), all(4)]);
        await em.nativeUpdate(Article, { id: { $gt: 0 } }, { title: raw(`'native'`) });
        await em
          .createQueryBuilder(Article)
          .update({ weekend: 'qb' })
          .where({ id: { $gt: 0 } })
          .execute();
        expect(await versions()).toEqual(all(6));
        await fork().upsertMany(
          Article,
          articles.map(({ id }) => ({ id, title: 'upserted', stats: {} })),
        );
        expect(await versions()).toEqual(all(7));
        // composite keys
        const lines = await em.find(Line, {});
        lines.forEach((line) => line.amount++);
        const log = await sent(() => em.flush());
        expect(log.map((sql) => sql.match(/begin|commit|update/)![0])).toEqual(inTransaction(driver, ['update']));
        expect([lines.map((line) => line.version), await versions('line', 'version', 'line')]).toEqual([
          all(2),
          all(2),
        ]);
        lines.forEach((line) => em.remove(line));
        await em.flush();
        expect(await sent(() => em.flush())).toEqual([]);
      });
    }

    test('the row count of a raw writer is that of its statement', async () => {
      const { fork } = await setUp(3);
      const result = await fork()
        .getKysely<{ calendar_article: { weekend: string } }>()
        .updateTable('calendar_article')
        .set({ weekend: 'now' })
        .executeTakeFirst();
      expect(Number(result.numUpdatedRows)).toBe(3);
    });

    test('rows that a flush writes twice: memory has what the database has', async () => {
      const { fork, sent, versions } = await setUp();
      const em = fork();
      const [a, b] = [em.create(Node, { slug: 'a', next: null }), em.create(Node, { slug: 'b', next: null })];
      a.next = b;
      b.next = a;
      await em.flush();
      const nodes = [a, b].toSorted((one, other) => one.id - other.id);
      expect(await versions('node', 'version')).toEqual(nodes.map((node) => node.version));
      b.slug = a.slug;
      a.slug = null;
      await em.flush();
      expect(await versions('node', 'version')).toEqual(nodes.map((node) => node.version));
      expect(await sent(() => em.flush())).toEqual([]);
      // a row that is written twice, and taken back
      const before = nodes.map((node) => node.version);
      [a.slug, b.slug] = [b.slug, a.slug];
      a.next = b.next = em.create(Node, { slug: 'c', next: null });
      await thrown(() =>
        em.transactional(async (tx) => {
          await tx.flush();
          throw new Error('changed my mind');
        }),
      );
      expect(nodes.map((node) => node.version)).toEqual(before);
      a.slug = 'again';
      await em.flush();
      expect(await versions('node', 'version')).toEqual(nodes.map((node) => node.version));
    });

    for (const guard of [true, false]) {
      test(`${WORKERS} workers in raw SQL beside flushes: ${guard ? 'every change counts' : 'without it, some are lost'}`, async () => {
        const Counter = defineEntity({
          name: 'Counter',
          properties: {
            id: p.integer().primary(),
            n: p.integer().default(0),
            version: p.type(new VersionField({ guard })),
          },
        });
        const { fork } = await open(driver, [Counter]);
        const flushes = async () => {
          for (let round = 0; round < ROUNDS; round++) {
            const em = fork();
            const counter = await em.findOneOrFail(Counter, 1);
            await new Promise((resolve) => setTimeout(resolve, 2));
            counter.n++;
            round -= await em.flush().then(
              () => 0,
              (error) => (error instanceof ConcurrentUpdate ? 1 : Promise.reject(error)),
            );
          }
        };
        const raws = async () => {
          for (let round = 0; round < ROUNDS; round++) {
            await fork().getConnection().execute('update counter set n = n + 1 where id = 1');
            await new Promise((resolve) => setTimeout(resolve, 3));
          }
        };
        const lost = async () => {
          await fork().nativeDelete(Counter, {});
          await fork().insert(Counter, { id: 1 });
          await Promise.all(Array.from({ length: WORKERS }, (_, i) => (i < 2 ? flushes() : raws())));
          const { n } = await fork().findOneOrFail(Counter, 1);
          return WORKERS * ROUNDS - n;
        };
        expect((await (guard ? lost() : untilNoticed(lost))) === 0).toBe(guard);
      });
    }
  });

  testWhere(!driver.batches)('a guard is refused where we know no trigger', async () => {
    const error = await thrown(() => open(driver, entities));
    expect(error.message).toMatch(/^\w+\.version has a guard, but we know no trigger for this database/);
  });
}
