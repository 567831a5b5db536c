/** Fastify: `request.headers` has the header, the error handler answers. */
import { type MikroORM, NotFoundError } from '@mikro-orm/core';
import { etag, ifMatch, notModified, problem } from '@mikro-ool/http';
import Fastify, { type FastifyInstance } from 'fastify';
import { ArticleSchema, changesIn, idIn } from './article.ts';

interface ById {
  Params: { id: string };
}

export function createApp(orm: MikroORM): FastifyInstance {
  const app = Fastify();

  app.get<ById>('/articles/:id', async ({ params, headers }, reply) => {
    const article = await orm.em.fork().findOneOrFail(ArticleSchema, idIn(params.id));
    reply.header('etag', etag(article));
    return notModified(headers['if-none-match'], article) ? reply.code(304).send() : article;
  });

  app.put<ById>('/articles/:id', async ({ params, headers, body }, reply) => {
    const em = orm.em.fork();
    const changes = changesIn(body);
    if (!changes) {
      return reply.code(400).send();
    }
    const article = await em.findOneOrFail(ArticleSchema, idIn(params.id));
    article.version = ifMatch(headers['if-match'], article);
    em.assign(article, changes);
    await em.flush();
    return reply.header('etag', etag(article)).send(article);
  });

  app.delete<ById>('/articles/:id', async ({ params, headers }, reply) => {
    const em = orm.em.fork();
    const article = em.getReference(ArticleSchema, idIn(params.id)); // no read
    article.version = ifMatch(headers['if-match'], article);
    em.remove(article);
    await em.flush();
    return reply.code(204).send();
  });

  app.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) => {
    const answer = problem(error);
    if (answer) {
      return reply.code(answer.status).headers(answer.headers).send(answer.body);
    }
    if (error instanceof NotFoundError) {
      return reply.code(404).send();
    }
    // Fastify shows the message of any error, and that of a database has the statement in it
    return error.statusCode && error.statusCode < 500 ? reply.send(error) : reply.code(500).send();
  });

  return app;
}
