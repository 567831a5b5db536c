/**
 * `npx pnpm demo`: the service on an embedded SQLite file, two editors who collide, and many clients at once.
 * `npx pnpm demo --postgres`: the many clients on an embedded PostgreSQL, beside MikroORM's own `version: true`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type EntityName, MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { startPostgres } from '../../tools/postgres.ts';
import { type Article, ArticleSchema } from './article.ts';
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

async function start(entity: EntityName<Article>, options: Partial<Options>): Promise<Running> {
  const orm = await MikroORM.init({ ...options, entities: [entity], colors: false } as Options);
  await orm.schema.refresh();
  const em = orm.em.fork();
  for (let id = 1; id <= ROWS; id++) {
    em.create(entity, { id, title: `Article ${id}` } as Article);
  }
  await em.flush();
  const app = createService(orm, entity);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const stop = async () => {
    await app.close();
    await orm.close(true);
  };
  return { orm, url, stop };
}

async function sqlite(): Promise<boolean> {
  const dir = mkdtempSync(join(tmpdir(), 'mikro-ool-demo-'));
  const sql: string[] = [];
  const service = await start(ArticleSchema, {
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
    const lost = await report([{ name: 'mikro-ool, SQLite', service, entity: ArticleSchema, result }]);
    return statuses.join() === '200,200,200,412,412,200,200' && lost[0] === 0 && result.other.length === 0;
  } finally {
    await service.stop();
    rmSync(dir, { recursive: true });
  }
}

/** The same, locked by MikroORM itself. */
const BuiltInSchema = defineEntity({
  name: 'BuiltIn',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    body: p.text().default(''),
    hits: p.integer().default(0),
    version: p.integer().version(),
  },
});

async function postgres(): Promise<boolean> {
  console.log('Starting PostgreSQL …');
  const server = await startPostgres();
  const dbName = `mikro_ool_demo_${process.pid}`;
  const contenders = [
    { name: 'MikroORM, version: true', driver: PostgreSqlDriver, entity: BuiltInSchema as EntityName<Article> },
    { name: 'mikro-ool', driver: versioned(PostgreSqlDriver), entity: ArticleSchema as EntityName<Article> },
  ];
  try {
    console.log(`${CLIENTS} clients, ${REQUESTS} requests each: read ${ROWS} rows, add 1 to each, save.\n`);
    const runs: Run[] = [];
    for (const { name, driver, entity } of contenders) {
      const service = await start(entity, { driver, clientUrl: server.url, dbName });
      const result = await hammer(service.url, ROWS, CLIENTS, REQUESTS);
      runs.push({ name, service, entity, result });
    }
    const lost = await report(runs);
    for (const { service } of runs) {
      await service.stop();
    }
    const admin = await MikroORM.init({
      driver: PostgreSqlDriver,
      clientUrl: server.url,
      dbName: 'postgres',
      entities: [],
      discovery: { warnWhenNoEntities: false },
    });
    await admin.em.getConnection().execute(`drop database "${dbName}" with (force)`);
    await admin.close();
    return lost[1] === 0 && runs[1]!.result.other.length === 0;
  } finally {
    await server.stop();
  }
}

interface Run {
  name: string;
  service: Running;
  entity: EntityName<Article>;
  result: HammerResult;
}

/** Prints what clients were told and what is in the database; returns how many saves were lost. */
async function report(runs: Run[]): Promise<number[]> {
  const lines = [['', 'requests', 'saved', 'conflicts', 'other errors', 'counters in the database', 'lost updates']];
  const losses: number[] = [];
  for (const { name, service, entity, result } of runs) {
    const articles = await service.orm.em.fork().find(entity, {}, { orderBy: { id: 'asc' } });
    const hits = articles.map((article) => article.hits);
    // a save that is missing in any row was overwritten there
    const lost = result.saved - Math.min(...hits);
    losses.push(lost);
    const { requests, saved, conflicts, other } = result;
    lines.push([name, ...[requests, saved, conflicts, other.length, hits.join(' '), lost].map(String)]);
    new Set(other).forEach((message) => console.log(`${name}: ${message}`));
  }
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  for (const line of lines) {
    console.log(line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '));
  }
  console.log();
  return losses;
}

// some versions of pnpm hand the `--` between their arguments and ours along
const { values } = parseArgs({
  args: process.argv.slice(2).filter((arg) => arg !== '--'),
  options: { postgres: { type: 'boolean' } },
});
const held = await (values.postgres ? postgres() : sqlite());
console.log(held ? 'Nothing was lost: every save that was reported is in the database.' : 'The lock did NOT hold.');
process.exitCode = held ? 0 : 1;
