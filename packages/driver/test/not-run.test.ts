/**
 * Databases that no server is run for here: what is sent to them, letter by letter, row by row. The connection only
 * writes down the statements, so nothing is proven about what the server makes of them.
 */
import { MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { MsSqlDriver } from '@mikro-orm/mssql';
import { OracleDriver } from '@mikro-orm/oracledb';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { DummyDriver, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from 'kysely';
import { expect, onTestFinished, test } from 'vitest';
import { thrown } from './harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

/** A database that answers every statement with this many rows; and what was sent to it. */
async function open(driver: unknown, affected: () => number) {
  const sent: string[] = [];
  const connection = {
    executeQuery: async ({ sql }: { sql: string }) => {
      sent.push(sql);
      return { rows: [], numAffectedRows: BigInt(affected()) };
    },
    async *streamQuery() {},
  };
  const orm = await MikroORM.init({
    driver,
    dbName: 'app',
    entities: [Article],
    ensureDatabase: false,
    driverOptions: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => Object.assign(new DummyDriver(), { acquireConnection: async () => connection }),
      createIntrospector: (db: never) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
  } as unknown as Options);
  onTestFinished(() => orm.close());
  const em = orm.em.fork();
  const articles = [1, 2].map((id) => em.map(Article, { id, title: 'old', version: 3 }));
  return { em, articles, sent };
}

for (const [name, driver, update, remove] of [
  [
    'SQL Server',
    versioned(MsSqlDriver),
    (id: number) =>
      `update [article] set [title] = N'new', [version] = [version] + 1 where [id] = ${id} and [version] = 3; select @@rowcount;`,
    (id: number) => `delete from [article] where [id] = ${id} and [version] = 4; select @@rowcount;`,
  ],
  [
    'Oracle',
    versioned(OracleDriver),
    (id: number) =>
      `update "article" set "title" = 'new', "version" = "version" + 1 where "id" = ${id} and "version" = 3`,
    (id: number) => `delete from "article" where "id" = ${id} and "version" = 4`,
  ],
] as const) {
  test(`${name}: one checked statement per row`, async () => {
    const { em, articles, sent } = await open(driver, () => 1);
    articles.forEach((article) => (article.title = 'new'));
    await em.flush();
    expect(sent.splice(0)).toEqual([update(1), update(2)]);
    expect(articles.map((article) => article.version)).toEqual([4, 4]);
    articles.forEach((article) => em.remove(article));
    await em.flush();
    expect(sent).toEqual([remove(1), remove(2)]);
  });

  test(`${name}: no row written is a conflict`, async () => {
    const { em, articles, sent } = await open(driver, () => 0);
    articles.forEach((article) => (article.title = 'new'));
    expect(await thrown(() => em.flush())).toMatchObject({
      constructor: ConcurrentUpdate,
      conflicts: [{ primaryKey: 1, expected: 3, actual: null }],
    });
    expect(sent[0]).toBe(update(1));
    expect(articles.map((article) => article.version)).toEqual([3, 3]);
  });
}
