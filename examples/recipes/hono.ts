/** Hono: `problems()` is for `onError`. */
import type { MikroORM } from '@mikro-orm/core';
import { etag, ifMatch, problems } from '@mikro-ool/http/hono';
import { Hono } from 'hono';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { change, read, remove, statusOf } from './article.ts';

export function createApp(orm: MikroORM): Hono {
  const app = new Hono();
  app.onError(problems({ otherwise: (error, c) => c.text('', statusOf(error) as ContentfulStatusCode) }));
  app.get('/articles/:id', async (c) => {
    const article = await read(orm, c.req.param('id'));
    return etag(c, article) ?? c.json(article);
  });
  app.put('/articles/:id', async (c) => {
    const article = await change(orm, c.req.param('id'), await c.req.json().catch(String), (found) =>
      ifMatch(c, found),
    );
    return etag(c, article) ?? c.json(article);
  });
  app.delete('/articles/:id', async (c) => {
    await remove(orm, c.req.param('id'), (found) => ifMatch(c, found));
    return c.body(null, 204);
  });
  return app;
}
