/** Hono: `c.req.header()` has the header, `onError` answers; a problem is what a `Response` is made of. */
import { type MikroORM, NotFoundError } from '@mikro-orm/core';
import { etag, ifMatch, notModified, problem } from '@mikro-ool/http';
import { Hono } from 'hono';
import { HTTPException } from 'hono/http-exception';
import { ArticleSchema, changesIn, idIn } from './article.ts';

export function createApp(orm: MikroORM): Hono {
  const app = new Hono();

  app.get('/articles/:id', async (c) => {
    const article = await orm.em.fork().findOneOrFail(ArticleSchema, idIn(c.req.param('id')));
    c.header('etag', etag(article));
    return notModified(c.req.header('if-none-match'), article) ? c.body(null, 304) : c.json(article);
  });

  app.put('/articles/:id', async (c) => {
    const em = orm.em.fork();
    const changes = changesIn(await c.req.json().catch(() => ({ title: null })));
    if (!changes) {
      return c.body(null, 400);
    }
    const article = await em.findOneOrFail(ArticleSchema, idIn(c.req.param('id')));
    article.version = ifMatch(c.req.header('if-match'), article);
    em.assign(article, changes);
    await em.flush();
    return c.json(article, 200, { etag: etag(article) });
  });

  app.delete('/articles/:id', async (c) => {
    const em = orm.em.fork();
    const article = em.getReference(ArticleSchema, idIn(c.req.param('id'))); // no read
    article.version = ifMatch(c.req.header('if-match'), article);
    em.remove(article);
    await em.flush();
    return c.body(null, 204);
  });

  app.onError((error, c) => {
    const answer = problem(error);
    if (answer) {
      return new Response(JSON.stringify(answer.body), answer);
    }
    if (error instanceof HTTPException) {
      return error.getResponse();
    }
    return c.body(null, error instanceof NotFoundError ? 404 : 500);
  });

  return app;
}
