/** The same rows in several schemas (SQLite: attached databases), named by the entity or at run time. */
import { randomUUID } from 'node:crypto';
import { type Opt, defineEntity, p } from '@mikro-orm/core';
import { BaseMySqlPlatform } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

export function schemas(driver: TestDriver, state: unknown = p.enum(['new', 'old'])): void {
  // to some databases a schema is another database
  const [north, south] = ['north', 'south'].map((name) => `${name}_${randomUUID().slice(0, 8)}`) as [string, string];
  const properties = {
    id: p.integer().primary().autoincrement(false),
    title: p.string(),
    state: state as ReturnType<typeof p.string>,
    double: p.integer().generated('(id * 2) stored').$type<Opt<number>>(),
    version: p.type(VersionField),
  };
  const named = (name: string, schema?: string) => defineEntity({ name, schema, tableName: 'article', properties });
  const Fixed = named('Fixed', north);
  const Anywhere = named('Anywhere', '*');
  const Unnamed = named('Unnamed');

  const setUp = async (Article: typeof Fixed) => {
    // the wildcard entity makes the tables for the one that has no schema at all
    const entities = Article === Unnamed ? [Unnamed, Anywhere] : [Article];
    const db = await open(driver, entities, await driver.schemas([north, south]));
    for (const schema of Article === Fixed ? [north] : [north, south]) {
      if (Article === Unnamed && db.orm.em.getPlatform() instanceof BaseMySqlPlatform) {
        await db.fork().getConnection().execute(`create table ${schema}.article like article`);
      } else if (Article !== Fixed) {
        await db.orm.schema.update({ schema });
      }
      const em = db.orm.em.fork({ schema });
      for (const id of [1, 2, 3, 4]) {
        em.create(Article, { id, title: schema, state: 'new' });
      }
      await em.flush();
    }
    const rows = async (schema: string) => {
      const table = db.orm.em.getPlatform().quoteIdentifier(`${schema}.article`);
      const sql = `select title, state, version from ${table} order by id`;
      const found = await db.fork().getConnection().execute<{ title: string; state: string; version: number }[]>(sql);
      return found.map((row) => `${row.title} ${row.state} ${row.version}`);
    };
    return { ...db, rows };
  };

  describe('schemas', () => {
    for (const [name, Article] of [
      ['a fixed schema', Fixed],
      ['a wildcard schema', Anywhere],
      ['the schema of the EntityManager', Unnamed],
    ] as const) {
      test(name, async () => {
        const { orm, rows, sent } = await setUp(Article);
        const em = orm.em.fork({ schema: north });
        const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
        articles.forEach((article) => Object.assign(article, { title: 'ours', state: 'old' }));
        const log = await sent(() => em.flush());
        expect(log.filter((sql) => sql.includes('update')).length).toBe(driver.batches ? 1 : 4);
        expect(await rows(north)).toEqual(['ours old 2', 'ours old 2', 'ours old 2', 'ours old 2']);
        articles[3]!.title = 'alone';
        await em.flush();

        const theirs = orm.em.fork({ schema: north });
        touch(await theirs.findOneOrFail(Article, 3));
        await theirs.flush();
        for (const count of [1, 3]) {
          articles.slice(3 - count, 3).forEach((article) => (article.title = 'late'));
          expect(await thrown(() => em.flush())).toMatchObject({
            conflicts: [{ primaryKey: 3, operation: 'update', expected: 2, actual: 3 }],
          });
        }
        articles.slice(0, 3).forEach((article) => em.remove(article));
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ primaryKey: 3, operation: 'delete', expected: 2, actual: 3 }],
        });
        expect(await rows(north)).toEqual(['ours old 2', 'ours old 2', 'ours old 3', 'alone old 3']);

        const last = orm.em.fork({ schema: north });
        (await last.find(Article, {})).forEach((article) => last.remove(article));
        await last.flush();
        expect(await rows(north)).toEqual([]);
        if (Article !== Fixed) {
          expect(await rows(south)).toEqual([`${south} new 1`, `${south} new 1`, `${south} new 1`, `${south} new 1`]);
        }
      });
    }

    test('rows of two schemas with the same keys in one unit of work', async () => {
      const { orm, rows } = await setUp(Anywhere);
      const em = orm.em.fork();
      const northern = await em.find(Anywhere, {}, { schema: north, orderBy: { id: 'asc' } });
      const southern = await em.find(Anywhere, {}, { schema: south, orderBy: { id: 'asc' } });
      const theirs = orm.em.fork({ schema: south });
      touch(await theirs.findOneOrFail(Anywhere, 2));
      await theirs.flush();
      [...northern, ...southern].forEach((article) => Object.assign(article, { title: 'ours', state: 'old' }));
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toMatchObject([{ primaryKey: 2, expected: 1, actual: 2 }]);
      expect(error.conflicts[0]!.entity).toBe(southern[1]);
      expect(await rows(north)).toEqual(Array(4).fill(`${north} new 1`));
      await em.refresh(southern[1]!);
      Object.assign(southern[1]!, { title: 'ours', state: 'old' });
      await em.flush();
      expect(await rows(north)).toEqual(Array(4).fill('ours old 2'));
      expect(await rows(south)).toEqual(['ours old 2', 'ours old 3', 'ours old 2', 'ours old 2']);
      expect(northern.map((article) => article.version)).toEqual([2, 2, 2, 2]);

      // a claim is looked up where the row is
      southern[1]!.version = 2;
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ operation: 'check', expected: 2, actual: 3 }],
      });
      southern[1]!.version = 3;
      await em.flush();

      touch(await theirs.findOneOrFail(Anywhere, 4));
      await theirs.flush();
      [...northern, ...southern].forEach((article) => em.remove(article));
      const removal = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(removal.conflicts.some(({ entity, actual }) => entity === southern[3] && actual === 3)).toBe(true);
      expect((await rows(north)).length + (await rows(south)).length).toBe(8);
    });
  });
}
