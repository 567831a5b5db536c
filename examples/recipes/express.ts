/** Express 5: `problems()` is the last middleware but one, which answers other errors. */
// oxlint-disable oxc/no-async-endpoint-handlers -- Express 5 awaits them
import type { MikroORM } from '@mikro-orm/core';
import { etag, ifMatch, problems } from '@mikro-ool/http/express';
import express, { type ErrorRequestHandler, type Express, type Response } from 'express';
import { type Article, change, read, remove, statusOf } from './article.ts';

const send = (res: Response, article: Article) => void etag(res, article).json(article);
const otherErrors: ErrorRequestHandler = (error, _req, res, _next) => void res.sendStatus(statusOf(error));

export function createApp(orm: MikroORM): Express {
  const app = express().use(express.json());
  app.get('/articles/:id', async (req, res) => send(res, await read(orm, req.params.id)));
  app.put('/articles/:id', async (req, res) => {
    const article = await change(orm, req.params.id, req.body, (found) => ifMatch(req, found));
    send(res, article);
  });
  app.delete('/articles/:id', async (req, res) => {
    await remove(orm, req.params.id, (found) => ifMatch(req, found));
    res.sendStatus(204);
  });
  return app.use(problems(), otherErrors);
}
