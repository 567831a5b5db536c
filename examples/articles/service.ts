/**
 * A small JSON service, to be copied. A client sends the version that it has seen along with what it changes; when
 * somebody else was faster, it gets a 409 that names the rows and their versions, and nothing was written.
 */
import { setImmediate } from 'node:timers/promises';
import { type EntityName, type MikroORM, NotFoundError, OptimisticLockError } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionNotLoaded } from '@mikro-ool/core';
import Fastify, { type FastifyInstance } from 'fastify';
import { type Article, ArticleSchema } from './article.ts';

interface ById {
  Params: { id: number };
}

const integer = { type: 'integer' };
const params = { type: 'object', required: ['id'], properties: { id: integer } };
const changes = {
  type: 'object',
  required: ['version'],
  additionalProperties: false,
  properties: { title: { type: 'string' }, body: { type: 'string' }, version: integer },
};
const claim = { type: 'object', required: ['version'], properties: { version: integer } };
const ids = {
  type: 'object',
  required: ['ids'],
  properties: { ids: { type: 'array', items: integer, maxItems: 1000 } },
};

/**
 * @param orm its driver is `versioned(…)`
 * @param entity another class with the same properties, for comparisons
 */
export function createService(orm: MikroORM, entity: EntityName<Article> = ArticleSchema): FastifyInstance {
  const app = Fastify();

  app.get<ById>('/articles/:id', { schema: { params } }, ({ params: { id } }) =>
    orm.em.fork().findOneOrFail(entity, id),
  );

  app.put<ById & { Body: Partial<Article> }>(
    '/articles/:id',
    { schema: { params, body: changes } },
    async ({ params: { id }, body }) => {
      const em = orm.em.fork();
      const article = await em.findOneOrFail(entity, id);
      em.assign(article, body); // with the version that the client has seen
      await em.flush();
      return article;
    },
  );

  app.delete<ById & { Querystring: { version: number } }>(
    '/articles/:id',
    { schema: { params, querystring: claim } },
    async ({ params: { id }, query: { version } }, reply) => {
      const em = orm.em.fork();
      em.remove(em.assign(em.getReference(entity, id), { version })); // no need to read it first
      await em.flush();
      return reply.code(204).send();
    },
  );

  app.post<{ Body: { ids: number[] } }>('/articles/hits', { schema: { body: ids } }, async ({ body }) => {
    const em = orm.em.fork();
    const articles = await em.find(entity, { id: body.ids });
    articles.forEach((article) => article.hits++);
    await setImmediate(); // real handlers wait for something here, and others get their turn
    await em.flush();
    return { saved: articles.length };
  });

  app.setErrorHandler((error, _request, reply) => {
    if (error instanceof ConcurrentUpdate) {
      return reply.code(409).send({ message: error.message, conflicts: error.conflicts });
    }
    if (error instanceof InvalidVersion || error instanceof VersionNotLoaded) {
      return reply.code(400).send({ message: error.message });
    }
    if (error instanceof NotFoundError) {
      return reply.code(404).send({ message: error.message });
    }
    if (error instanceof OptimisticLockError) {
      return reply.code(409).send({ message: error.message }); // MikroORM's own lock, in the comparison of the demo
    }
    return reply.send(error);
  });

  return app;
}
