/**
 * A small service, to be copied: a JSON API with entity tags, and pages to edit articles with (pages.ts).
 *
 * A client of the API gets the version as an `ETag` and sends it back as `If-Match`. When somebody else was faster, it
 * gets a 412 or a 409 that names the row and its versions, and nothing was written.
 */
import { setImmediate } from 'node:timers/promises';
import { type MikroORM, NotFoundError } from '@mikro-orm/core';
import { locking } from '@mikro-ool/http/fastify';
import Fastify, { type FastifyInstance } from 'fastify';
import { type Article, ArticleSchema } from './article.ts';
import { addPages } from './pages.ts';
import { type ById, integer, params, text, title } from './requests.ts';

const changes = {
  type: 'object',
  additionalProperties: false,
  properties: { title, body: text },
};
const ids = {
  type: 'object',
  required: ['ids'],
  properties: { ids: { type: 'array', items: integer, maxItems: 1000 } },
};

/** @param orm its driver is `versioned(…)` */
export function createService(orm: MikroORM): FastifyInstance {
  const app = Fastify();

  void app.register(locking, {
    otherwise(error, _request, reply) {
      if (error instanceof NotFoundError) {
        return reply.code(404).send({ detail: 'There is no such article.' });
      }
      // the message of a database error has the statement in it
      return error.statusCode && error.statusCode < 500 ? reply.send(error) : reply.code(500).send();
    },
  });

  app.get<ById>('/articles/:id', { schema: { params } }, async ({ params: { id } }, reply) => {
    const article = await orm.em.fork().findOneOrFail(ArticleSchema, id);
    return reply.etag(article).send(article);
  });

  app.put<ById & { Body: Partial<Article> }>(
    '/articles/:id',
    { schema: { params, body: changes } },
    async (request, reply) => {
      const em = orm.em.fork();
      const article = await em.findOneOrFail(ArticleSchema, request.params.id);
      article.version = request.ifMatch(article); // what the client has seen
      em.assign(article, { ...request.body, editor: '', savedAt: new Date() });
      await em.flush();
      return reply.etag(article).send(article);
    },
  );

  app.delete<ById>('/articles/:id', { schema: { params } }, async (request, reply) => {
    const em = orm.em.fork();
    const article = em.getReference(ArticleSchema, request.params.id); // no need to read it first
    article.version = request.ifMatch(article);
    em.remove(article);
    await em.flush();
    return reply.code(204).send();
  });

  app.post<{ Body: { ids: number[] } }>('/articles/hits', { schema: { body: ids } }, async ({ body }) => {
    const em = orm.em.fork();
    const articles = await em.find(ArticleSchema, { id: body.ids });
    articles.forEach((article) => article.hits++);
    await setImmediate(); // real handlers wait for something here, and others get their turn
    await em.flush();
    return { saved: articles.length };
  });

  void app.register(addPages, { orm });
  return app;
}
