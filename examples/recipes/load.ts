/**
 * Many clients on a few articles: read one, add 1 to its hits, save it with the ETag that was read. What was saved must
 * be in the database, and the answers are 200, 409 or 412.
 *
 *   node examples/recipes/load.ts 20               # seconds, the Fastify recipe on SQLite
 *   node examples/recipes/load.ts 20 --postgres    # on PostgreSQL
 */
import { MikroORM } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { startPostgres } from '../../tools/postgres.ts';
import { ArticleSchema } from './article.ts';
import { createApp } from './fastify.ts';

export interface LoadResult {
  /** How many answers a PUT got, by status. */
  statuses: Record<number, number>;
  saved: number;
  /** The sum of what the clients counted up, in the database. */
  counter: number;
}

/**
 * @param url of a recipe, on this machine
 * @param orm the one behind it, with articles 1 to `rows`, nothing counted yet
 * @param until asked before each request
 */
export async function load(
  url: string,
  orm: MikroORM,
  { clients, rows }: { clients: number; rows: number },
  until: () => boolean,
): Promise<LoadResult> {
  const statuses: Record<number, number> = {};
  const client = async (number: number) => {
    for (let turn = number; !until(); turn++) {
      const path = `${url}/articles/${(turn % rows) + 1}`;
      const read = await fetch(path);
      const { hits } = (await read.json()) as { hits: number };
      const write = await fetch(path, {
        method: 'PUT',
        headers: { 'content-type': 'application/json', 'if-match': read.headers.get('etag')! },
        body: JSON.stringify({ hits: hits + 1 }),
      });
      await write.arrayBuffer();
      statuses[write.status] = (statuses[write.status] ?? 0) + 1;
    }
  };
  await Promise.all(Array.from({ length: clients }, (_, number) => client(number)));
  const articles = await orm.em.fork().find(ArticleSchema, {});
  const counter = articles.reduce((sum, { hits }) => sum + hits, 0);
  return { statuses, saved: statuses[200] ?? 0, counter };
}

/** Adds articles 1 to `rows`. */
export async function seed(orm: MikroORM, rows: number): Promise<void> {
  await orm.schema.create();
  const em = orm.em.fork();
  for (let id = 1; id <= rows; id++) {
    em.create(ArticleSchema, { id, title: `Article ${id}`, notes: 'not for clients' });
  }
  await em.flush();
}

if (import.meta.main) {
  const seconds = Number(process.argv[2] ?? 20);
  const server = process.argv.includes('--postgres') ? await startPostgres() : undefined;
  const orm: MikroORM = server
    ? await MikroORM.init({
        driver: versioned(PostgreSqlDriver),
        clientUrl: server.url,
        dbName: `load_${process.pid}`,
        entities: [ArticleSchema],
      })
    : await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [ArticleSchema] });
  await seed(orm, 5);
  const app = createApp(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const end = Date.now() + seconds * 1000;
  console.log(await load(url, orm, { clients: 50, rows: 5 }, () => Date.now() >= end));
  await app.close();
  await orm.close();
  await server?.stop();
}
