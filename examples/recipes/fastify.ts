/** Fastify: `locking` is a plugin. */
import type { MikroORM } from '@mikro-orm/core';
import { locking } from '@mikro-ool/http/fastify';
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import { type Article, change, read, remove, statusOf } from './article.ts';

interface ById {
  Params: { id: string };
}

const send = (reply: FastifyReply, article: Article) => reply.etag(article).send(article);

export function createApp(orm: MikroORM): FastifyInstance {
  const app = Fastify();
  app.register(locking, { otherwise: (error, _request, reply) => reply.code(statusOf(error)).send() });
  app.get<ById>('/articles/:id', async ({ params }, reply) => send(reply, await read(orm, params.id)));
  app.put<ById>('/articles/:id', async (request, reply) => {
    const article = await change(orm, request.params.id, request.body, (found) => request.ifMatch(found));
    return send(reply, article);
  });
  app.delete<ById>('/articles/:id', async (request, reply) => {
    await remove(orm, request.params.id, (found) => request.ifMatch(found));
    return reply.code(204).send();
  });
  return app;
}
