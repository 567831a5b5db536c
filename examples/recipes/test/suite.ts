/** What every recipe must do, over real HTTP. */
import type { MikroORM, Options } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test } from 'vitest';
import { ArticleSchema } from '../article.ts';
import { load, seed } from '../load.ts';

interface Started {
  orm: MikroORM;
  url: string;
  close: () => Promise<unknown>;
}

/** @param start the recipe on a free port of 127.0.0.1 */
export function suite(start: (options: Partial<Options>) => Promise<Started>): void {
  const setUp = async () => {
    const log: string[] = [];
    const { orm, url, close } = await start({
      driver: versioned(SqliteDriver),
      dbName: ':memory:',
      entities: [ArticleSchema],
      debug: ['query'],
      logger: (line) => log.push(line),
      colors: false,
    });
    onTestFinished(async () => {
      await close();
      await orm.close();
    });
    await seed(orm, 5);
    const ask = async (method: string, headers: Record<string, string> = {}, body?: unknown) => {
      const sent: RequestInit = { method, headers };
      if (body !== undefined) {
        sent.headers = { ...headers, 'content-type': 'application/json' };
        sent.body = typeof body === 'string' ? body : JSON.stringify(body);
      }
      const response = await fetch(`${url}/articles/1`, sent);
      const text = await response.text();
      expect(text).not.toContain('not for clients');
      const { status } = response;
      return { status, text, etag: response.headers.get('etag'), type: response.headers.get('content-type') };
    };
    return { orm, url, ask, log };
  };

  test('the ETag goes out, and 304, 200, 412, 428 and 400 come back', async () => {
    const { ask, orm } = await setUp();
    const read = await ask('GET');
    expect(read).toMatchObject({ status: 200, etag: '"Article/1/1"' });
    expect(JSON.parse(read.text)).toMatchObject({ title: 'Article 1', hits: 0 });
    expect(await ask('GET', { 'if-none-match': read.etag! })).toMatchObject({ status: 304, text: '', etag: read.etag });
    expect(await ask('PUT', { 'if-match': read.etag! }, { title: 'mine' })).toMatchObject({
      status: 200,
      etag: '"Article/1/2"',
    });
    const answers = [
      [412, { 'if-match': read.etag! }],
      [412, { 'if-match': 'W/"Article/1/2"' }],
      [412, { 'if-match': '"Article/2/2"' }],
      [428, {}],
      [400, { 'if-match': 'Article/1/2' }],
    ] as const;
    for (const [status, headers] of answers) {
      const answer = await ask('PUT', headers, { title: 'theirs' });
      expect(answer).toMatchObject({ status, type: expect.stringMatching(/^application\/problem\+json/) as string });
      expect(JSON.parse(answer.text)).toMatchObject({ status, title: expect.any(String), detail: expect.any(String) });
    }
    expect((await ask('PUT', { 'if-match': '"Article/1/2"' }, { title: 3 })).status).toBe(400);
    expect((await ask('PUT', { 'if-match': '"Article/1/2"' }, '{')).status).toBe(400);
    expect(await orm.em.fork().findOne(ArticleSchema, 1)).toMatchObject({ title: 'mine', version: 2 });
    expect((await ask('PUT', { 'if-match': '"Article/1/1", "Article/1/2"' }, { title: 'again' })).status).toBe(200);
    expect((await ask('PUT', { 'if-match': '*' }, { title: 'whatever' })).status).toBe(200);
  });

  test('DELETE is one statement; a stale one is a 412', async () => {
    const { ask, log } = await setUp();
    const stale = await ask('DELETE', { 'if-match': '"Article/1/9"' });
    expect(JSON.parse(stale.text)).toMatchObject({ status: 412, conflicts: [{ expected: 9, actual: 1 }] });
    expect((await ask('DELETE')).status).toBe(428);
    log.length = 0;
    expect((await ask('DELETE', { 'if-match': '"Article/1/1"' })).status).toBe(204);
    expect(log).toEqual([expect.stringContaining('delete from `article`')]);
    expect((await ask('DELETE', { 'if-match': '"Article/1/1"' })).status).toBe(412);
    expect((await ask('GET')).status).toBe(404);
  });

  test('50 clients: what was saved is in the database', async () => {
    const { orm, url } = await setUp();
    let left = 400;
    const { statuses, saved, counter } = await load(url, orm, { clients: 50, rows: 5 }, () => left-- <= 0);
    expect(Object.values(statuses).reduce((sum, count) => sum + count)).toBe(400);
    expect(Object.keys(statuses).filter((status) => !['200', '409', '412'].includes(status))).toEqual([]);
    expect(saved).toBeGreaterThan(0);
    expect(statuses[409] ?? statuses[412]).toBeGreaterThan(0);
    expect(counter).toBe(saved);
  });
}
