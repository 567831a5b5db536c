/** The example service over real HTTP, and the demo as a user starts it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test } from 'vitest';
import { type Article, ArticleSchema } from '../article.ts';
import { hammer } from '../hammer.ts';
import { createService } from '../service.ts';

const setUp = async () => {
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [ArticleSchema] });
  await orm.schema.create();
  const em = orm.em.fork();
  [1, 2, 3].forEach((id) => em.create(ArticleSchema, { id, title: `Article ${id}` }));
  await em.flush();
  const app = createService(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  onTestFinished(async () => {
    await app.close();
    await orm.close();
  });
  const request = async (method: string, path: string, body?: object) => {
    const headers = body ? { 'content-type': 'application/json' } : {};
    const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, body: (text ? JSON.parse(text) : undefined) as Record<string, unknown> };
  };
  return { orm, url, request };
};

test('the second editor gets a 409 with the conflict, reads again, and saves', async () => {
  const { request } = await setUp();
  expect(await request('GET', '/articles/1')).toMatchObject({ status: 200, body: { title: 'Article 1', version: 1 } });
  expect(await request('PUT', '/articles/1', { title: 'hers', version: 1 })).toMatchObject({
    status: 200,
    body: { title: 'hers', version: 2 },
  });
  const late = await request('PUT', '/articles/1', { title: 'his', version: 1 });
  expect(late.status).toBe(409);
  expect(late.body.conflicts).toEqual([
    { entityName: 'Article', primaryKey: 1, operation: 'update', expected: 1, actual: 2 },
  ]);
  expect((await request('PUT', '/articles/1', { title: 'his', version: 2 })).status).toBe(200);
  expect((await request('GET', '/articles/1')).body).toMatchObject({ title: 'his', version: 3 });
});

test('a stale DELETE is a 409 and deletes nothing, a fresh one is a 204, a second one a 409', async () => {
  const { request } = await setUp();
  expect((await request('DELETE', '/articles/1?version=9')).status).toBe(409);
  expect((await request('GET', '/articles/1')).status).toBe(200);
  expect((await request('DELETE', '/articles/1?version=1')).status).toBe(204);
  const again = await request('DELETE', '/articles/1?version=1');
  expect(again).toMatchObject({ status: 409, body: { conflicts: [{ actual: null }] } });
  expect((await request('GET', '/articles/1')).status).toBe(404);
});

test('a version that is none is a 400', async () => {
  const { request } = await setUp();
  for (const version of ['abc', -1, 1.5, 2 ** 40, undefined]) {
    expect((await request('PUT', '/articles/1', { title: 'x', version })).status).toBe(400);
  }
  expect((await request('DELETE', '/articles/1')).status).toBe(400);
  expect((await request('GET', '/articles/1')).body).toMatchObject({ title: 'Article 1', version: 1 });
});

test('8 clients on the same rows: saved == counter == version - 1', async () => {
  const { orm, url } = await setUp();
  const result = await hammer(url, 3, 8, 25);
  expect(result).toMatchObject({ requests: 200, other: [] });
  expect(result.saved + result.conflicts).toBe(200);
  const articles: Article[] = await orm.em.fork().find(ArticleSchema, {});
  for (const article of articles) {
    expect([article.hits, article.version - 1]).toEqual([result.saved, result.saved]);
  }
});

test('the demo runs by itself, shows the conflict and the SQL, and ends well', async () => {
  const demo = join(import.meta.dirname, '../demo.ts');
  const { stdout } = await promisify(execFile)(process.execPath, [demo]);
  expect(stdout).toContain(
    '409 { "message": "Article 1 could not be updated: version 1 was expected, but it is 2 now.',
  );
  expect(stdout).toMatch(/update `article` set .+ where `id` = 1 and `version` = 1/);
  expect(stdout).toContain('Nothing was lost');
});
