/**
 * `npx pnpm demo`: users who press "favourite" at once; then the service on an embedded SQLite file, two editors who
 * collide, and many clients at once.
 * `npx pnpm demo --postgres`: what a rival's write meets on PostgreSQL, beside MikroORM's own `version: true`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MikroORM, type Options } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { readOptions } from '../../tools/command-line.ts';
import { ArticleSchema } from './article.ts';
import { compare } from './comparison.ts';
import { pressFavourite } from './favourites.ts';
import { type HammerResult, hammer } from './hammer.ts';
import { createService } from './service.ts';

const ROWS = 5;
const CLIENTS = 8;
const REQUESTS = 25;

interface Running {
  orm: MikroORM;
  url: string;
  stop(): Promise<void>;
}

async function start(options: Partial<Options>): Promise<Running> {
  const orm = await MikroORM.init({ ...options, entities: [ArticleSchema], colors: false } as Options);
  await orm.schema.refresh();
  const em = orm.em.fork();
  for (let id = 1; id <= ROWS; id++) {
    em.create(ArticleSchema, { id, title: `Article ${id}` });
  }
  await em.flush();
  const app = createService(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const stop = async () => {
    await app.close();
    await orm.close(true);
  };
  return { orm, url, stop };
}

async function sqlite(): Promise<boolean> {
  const counted = await pressFavourite();
  const dir = mkdtempSync(join(tmpdir(), 'mikro-ool-demo-'));
  const sql: string[] = [];
  const service = await start({
    driver: versioned(SqliteDriver),
    dbName: join(dir, 'articles.db'),
    debug: ['query', 'query-params'],
    logger: (line) => sql.push(line.replace(/^\[query\] | \[took .*$/gs, '')),
  });
  const request = async (method: string, path: string, tag?: string, body?: object) => {
    sql.length = 0;
    const response = await fetch(service.url + path, {
      method,
      headers: { ...(tag && { 'if-match': tag }), ...(body && { 'content-type': 'application/json' }) },
      body: body && JSON.stringify(body),
    });
    const answer = await response.text();
    const [match, sent] = [tag ? ` If-Match: ${tag}` : '', body ? ` ${JSON.stringify(body)}` : ''];
    console.log(`${method} ${path}${match}${sent}`);
    sql.forEach((statement) => console.log(`    ${statement}`));
    console.log(
      `  ${response.status}${answer && ` ${JSON.stringify(JSON.parse(answer), null, 1).replace(/\n\s*/g, ' ')}`}\n`,
    );
    return response.status;
  };
  try {
    console.log('Two editors open article 1, both change it, both save. Indented: the SQL.\n');
    const statuses = [
      await request('GET', '/articles/1'),
      await request('GET', '/articles/1'),
      await request('PUT', '/articles/1', '"Article/1/1"', { title: 'Hers' }),
      await request('PUT', '/articles/1', '"Article/1/1"', { title: 'His' }),
    ];
    console.log('He deletes it instead, but what he has seen is not what is there. Then he looks again.\n');
    statuses.push(
      await request('DELETE', '/articles/1', '"Article/1/1"'),
      await request('GET', '/articles/1'),
      await request('PUT', '/articles/1', '"Article/1/2"', { title: 'Both' }),
    );
    console.log(`${CLIENTS} clients, ${REQUESTS} requests each: read ${ROWS} rows, add 1 to each, save.\n`);
    const result = await hammer(service.url, ROWS, CLIENTS, REQUESTS);
    const lost = await report(service.orm, result);
    return counted && statuses.join() === '200,200,200,412,412,200,200' && lost === 0 && result.other.length === 0;
  } finally {
    await service.stop();
    rmSync(dir, { recursive: true });
  }
}

/** Prints what clients were told and what is in the database; returns how many saves were lost. */
async function report(orm: MikroORM, { requests, saved, conflicts, other }: HammerResult): Promise<number> {
  const articles = await orm.em.fork().find(ArticleSchema, {}, { orderBy: { id: 'asc' } });
  const hits = articles.map((article) => article.hits);
  // a save that is missing in any row was overwritten there
  const lost = saved - Math.min(...hits);
  console.log(`${requests} requests: ${saved} saved, ${conflicts} conflicts, ${other.length} other errors.`);
  console.log(`Counters in the database: ${hits.join(' ')}. Lost updates: ${lost}.\n`);
  new Set(other).forEach((message) => console.log(message));
  return lost;
}

const USAGE = `Usage: npx pnpm demo [options]

Users who press "favourite" at once, two editors who collide, and many clients of one service, on SQLite.

  --postgres   instead: what a rival's write meets on PostgreSQL, with MikroORM's \`version: true\` and with mikro-ool
  --help       this text

PostgreSQL is the one that POSTGRES_URL names, else one that is started and thrown away.`;

const values = readOptions(USAGE, { postgres: { type: 'boolean' } });
const held = await (values.postgres ? compare() : sqlite());
console.log(held ? 'Nothing was lost: every save that was reported is in the database.' : 'The lock did NOT hold.');
process.exitCode = held ? 0 : 1;
