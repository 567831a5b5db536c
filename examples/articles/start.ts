/** `npx pnpm start`: the service on http://127.0.0.1:3000, on a SQLite file in this directory. */
import { MikroORM, type Options } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { readOptions } from '../../tools/command-line.ts';
import { ArticleSchema } from './article.ts';
import { createService } from './service.ts';

const USAGE = `Usage: npx pnpm start

Starts the example service with its pages, on http://127.0.0.1:3000, and a SQLite file in examples/articles.

  PORT=8080 npx pnpm start                     on another port
  DATABASE_URL=postgresql://… npx pnpm start   on PostgreSQL
  --help                                       this text`;

readOptions(USAGE, {});
const { DATABASE_URL: clientUrl, PORT = '3000' } = process.env;
const database: Partial<Options> = clientUrl
  ? { driver: versioned(PostgreSqlDriver), clientUrl }
  : { driver: versioned(SqliteDriver), dbName: new URL('./articles.db', import.meta.url).pathname };
const orm = await MikroORM.init({ ...database, entities: [ArticleSchema] });
await orm.schema.update({ safe: true });
const em = orm.em.fork();
if ((await em.count(ArticleSchema)) === 0) {
  em.create(ArticleSchema, { id: 1, title: 'Two editors', body: 'Open me in two tabs, and save in both.' });
  await em.flush();
}
const app = createService(orm);
console.log(`Listening on ${await app.listen({ host: '127.0.0.1', port: Number(PORT) })}`);
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void app.close().then(() => orm.close()));
}
