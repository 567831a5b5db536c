import type { Server } from 'node:http';
import { serve as listen } from '@hono/node-server';
import type { MikroORM } from '@mikro-orm/core';
import { PreconditionError } from '@mikro-ool/http';
import { etag, ifMatch, problems } from '@mikro-ool/http/hono';
import { Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { expect, test, vi } from 'vitest';
import { inLanguage, serve, statusOf } from './frameworks/articles.ts';
import { contract } from './frameworks/contract.ts';
import { listening } from './frameworks/listening.ts';

contract('Hono', async (orm: MikroORM) => {
  const app = new Hono();
  app.onError(
    problems({
      detail: (body, c) => inLanguage(body, c.req.header('accept-language')),
      otherwise: (error, c) => c.body(null, statusOf(error) as 500),
    }),
  );
  app.all('/articles/:id', async (c) => {
    const body: unknown = await c.req.json().catch(() => undefined);
    const [id, headers] = [Number(c.req.param('id')), c.req.header()];
    const [seen, tag] = [(e: object) => ifMatch(c, e), (e: object) => void etag(c, e)];
    const answer = await serve(orm, { method: c.req.method, id, headers, body, seen, tag });
    if (answer === 'nothing') {
      return c.body(null, 204);
    }
    if ('partly' in answer) {
      return new Response(JSON.stringify(answer.partly.body), answer.partly);
    }
    return etag(c, answer.article) ?? c.json(answer.article);
  });
  return listening(listen({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }) as Server);
});

test('headers of a middleware stay, and none of them replaces one of a problem', async () => {
  for (const isEarly of [true, false]) {
    const app = new Hono().onError(problems());
    app.use(async (c, next) => {
      if (isEarly) {
        c.res.headers.set('access-control-allow-origin', '*'); // as cors() does it
      }
      c.header('x-request-id', 'one');
      c.header('cache-control', 'max-age=60');
      await next();
    });
    app.get('/', () => {
      throw new PreconditionError(412, 'changed', 'Changed.', '"Article/1/4"');
    });
    const { status, headers } = await app.request('/');
    expect([status, Object.fromEntries(headers)]).toEqual([
      412,
      {
        ...(isEarly && { 'access-control-allow-origin': '*' }),
        'x-request-id': 'one',
        'cache-control': 'no-store',
        'content-type': 'application/problem+json',
        etag: '"Article/1/4"',
      },
    ]);
  }
});

test('without an error handler of the application, other errors are answered as Hono does', async () => {
  const log = vi.spyOn(console, 'error').mockReturnValue();
  for (const error of [new HTTPException(418, { message: 'tea' }), new Error('secret')]) {
    const answers = [new Hono(), new Hono().onError(problems())].map(async (app) => {
      app.get('/', () => {
        throw error;
      });
      const response = await app.request('/');
      return [response.status, await response.text()];
    });
    const [expected, actual] = await Promise.all(answers);
    expect(actual).toEqual(expected);
  }
  expect(log).toHaveBeenCalledTimes(2);
});
