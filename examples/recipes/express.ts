/** Express 5: `req.get()` has the header, the last middleware answers. */
// oxlint-disable oxc/no-async-endpoint-handlers -- Express 5 awaits them
import { type MikroORM, NotFoundError } from '@mikro-orm/core';
import { etag, ifMatch, notModified, problem } from '@mikro-ool/http';
import express, { type ErrorRequestHandler, type Express } from 'express';
import { ArticleSchema, changesIn, idIn } from './article.ts';

export function createApp(orm: MikroORM): Express {
  const app = express();
  app.set('etag', false); // Express tags every answer by itself, also those of errors
  app.use(express.json());

  app.get('/articles/:id', async (req, res) => {
    const article = await orm.em.fork().findOneOrFail(ArticleSchema, idIn(req.params.id));
    res.set('etag', etag(article));
    if (notModified(req.get('if-none-match'), article)) {
      res.sendStatus(304);
    } else {
      res.json(article);
    }
  });

  app.put('/articles/:id', async (req, res) => {
    const em = orm.em.fork();
    const changes = changesIn(req.body);
    if (!changes) {
      res.sendStatus(400);
      return;
    }
    const article = await em.findOneOrFail(ArticleSchema, idIn(req.params.id));
    article.version = ifMatch(req.get('if-match'), article);
    em.assign(article, changes);
    await em.flush();
    res.set('etag', etag(article)).json(article);
  });

  app.delete('/articles/:id', async (req, res) => {
    const em = orm.em.fork();
    const article = em.getReference(ArticleSchema, idIn(req.params.id)); // no read
    article.version = ifMatch(req.get('if-match'), article);
    em.remove(article);
    await em.flush();
    res.sendStatus(204);
  });

  const answerProblem: ErrorRequestHandler = (error, _req, res, next) => {
    const answer = problem(error);
    if (answer) {
      res.status(answer.status).set(answer.headers).json(answer.body);
    } else if (error instanceof NotFoundError) {
      res.sendStatus(404);
    } else {
      next(error); // set NODE_ENV=production, or Express shows the stack
    }
  };
  app.use(answerProblem);

  return app;
}
