// oxlint-disable oxc/no-async-endpoint-handlers -- Express 5 awaits them
import type { MikroORM } from '@mikro-orm/core';
import { etag, ifMatch, problems } from '@mikro-ool/http/express';
import express, { type NextFunction, type Request, type Response } from 'express';
import { inLanguage, serve, statusOf } from './frameworks/articles.ts';
import { contract } from './frameworks/contract.ts';
import { listening } from './frameworks/listening.ts';

contract('Express', async (orm: MikroORM) => {
  const app = express();
  app.use(express.json());
  app.all('/articles/:id', async (req, res) => {
    const { method, headers, body, params } = req;
    const [seen, tag] = [(e: object) => ifMatch(req, e), (e: object) => void etag(res, e)];
    const answer = await serve(orm, { method, id: Number(params.id), headers, body, seen, tag });
    if (answer === 'nothing') {
      res.sendStatus(204);
    } else if ('partly' in answer) {
      res.status(answer.partly.status).set(answer.partly.headers).end(JSON.stringify(answer.partly.body));
    } else {
      etag(res, answer.article).json(answer.article);
    }
  });
  app.use(problems({ detail: (body, { headers }) => inLanguage(body, headers['accept-language']) }));
  app.use((error: unknown, _req: Request, res: Response, _next: NextFunction) => {
    res.sendStatus(statusOf(error));
  });
  return listening(app.listen(0, '127.0.0.1'));
});
