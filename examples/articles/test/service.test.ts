/** The example service over real HTTP, and the demo as a user starts it. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { type Article, ArticleSchema } from '../article.ts';
import { hammer } from '../hammer.ts';
import { setUp } from './set-up.ts';

test('the second editor gets a 412 with what to do, reads again, and saves', async () => {
  const { request } = await setUp();
  const seen = await request('GET', '/articles/1');
  expect(seen).toMatchObject({ status: 200, etag: '"Article/1/1"', body: { title: 'Article 1' } });
  const tag = { 'if-match': seen.etag! };
  expect(await request('PUT', '/articles/1', { title: 'hers' }, tag)).toMatchObject({
    status: 200,
    etag: '"Article/1/2"',
    body: { title: 'hers', version: 2 },
  });
  expect(await request('PUT', '/articles/1', { title: 'his' }, tag)).toMatchObject({
    status: 412,
    body: { title: 'Precondition Failed' },
  });
  const again = await request('GET', '/articles/1');
  expect(again.body).toMatchObject({ title: 'hers' });
  expect((await request('PUT', '/articles/1', { title: 'his' }, { 'if-match': again.etag! })).status).toBe(200);
  expect((await request('GET', '/articles/1')).body).toMatchObject({ title: 'his', version: 3 });
  expect((await request('GET', '/articles/1', undefined, { 'if-none-match': '"Article/1/3"' })).status).toBe(304);
});

test('a stale DELETE is a 412 and deletes nothing, a fresh one is a 204, a second one a 412', async () => {
  const { request } = await setUp();
  const remove = (tag: string) => request('DELETE', '/articles/1', undefined, { 'if-match': tag });
  expect((await remove('"Article/1/9"')).status).toBe(412);
  expect((await request('GET', '/articles/1')).status).toBe(200);
  expect((await remove('"Article/1/1"')).status).toBe(204);
  expect(await remove('"Article/1/1"')).toMatchObject({ status: 412, body: { conflicts: [{ actual: null }] } });
  expect((await request('GET', '/articles/1')).status).toBe(404);
});

test('no version is a 428, and nonsense a 400', async () => {
  const { request } = await setUp();
  for (const method of ['PUT', 'DELETE']) {
    const body = method === 'PUT' ? { title: 'x' } : undefined;
    expect((await request(method, '/articles/1', body)).status).toBe(428);
    expect((await request(method, '/articles/1', body, { 'if-match': 'abc' })).status).toBe(400);
    expect((await request(method, '/articles/1', body, { 'if-match': '"Article/2/1"' })).status).toBe(412);
  }
  expect((await request('PUT', '/articles/1', { title: 1 }, { 'if-match': '*' })).status).toBe(200);
  expect((await request('GET', '/articles/1')).body).toMatchObject({ title: '1', version: 2 });
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
    '412 { "title": "Precondition Failed", "status": 412, "reason": "changed", "detail": "The article was changed by somebody else.',
  );
  expect(stdout).toMatch(/update `article` set .+ where `id` = 1 and `version` = 1/);
  expect(stdout).toContain('Nothing was lost');
});
