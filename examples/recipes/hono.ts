/** Hono: `problems()` is for `onError`. */
import type { MikroORM } from '@mikro-orm/core';
import { etag, ifMatch, problems } from '@mikro-ool/http/hono';
import { type Context, Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { type Article, change, read, remove, statusOf } from './article.ts';

const send = (c: Context, article: Article) => etag(c, article) ?? c.json(article);

export function createApp(orm: MikroORM): Hono {
  const app = new Hono();
  app.onError(problems({ otherwise: (error, c) => c.text('', statusOf(error) as ContentfulStatusCode) }));
  app.get('/articles/:id', async (c) => send(c, await read(orm, c.req.param('id'))));
  app.put('/articles/:id', async (c) => {
    const body: unknown = await c.req.json().catch(String);
    return send(c, await change(orm, c.req.param('id'), body, (found) => ifMatch(c, found)));
  });
  app.delete('/articles/:id', async (c) => {
    await remove(orm, c.req.param('id'), (found) => ifMatch(c, found));
    return c.body(null, 204);
  });
  return app;
}
