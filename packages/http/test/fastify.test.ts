import type { MikroORM } from '@mikro-orm/core';
import { locking } from '@mikro-ool/http/fastify';
import Fastify from 'fastify';
import { expect, test } from 'vitest';
import { inLanguage, serve, statusOf } from './frameworks/articles.ts';
import { contract } from './frameworks/contract.ts';

contract('Fastify', async (orm: MikroORM) => {
  const app = Fastify();
  app.register(locking, {
    detail: (body, { headers }) => inLanguage(body, headers['accept-language']),
    otherwise: (error, _request, reply) => reply.code(statusOf(error)).send(),
  });
  app.all<{ Params: { id: number } }>('/articles/:id', async (request, reply) => {
    const { method, headers, body, params } = request;
    const [seen, tag] = [(e: object) => request.ifMatch(e), (e: object) => void reply.etag(e)];
    const answer = await serve(orm, { method, id: Number(params.id), headers, body, seen, tag });
    if (answer === 'nothing') {
      return reply.code(204).send();
    }
    if ('partly' in answer) {
      return reply.code(answer.partly.status).headers(answer.partly.headers).send(answer.partly.body);
    }
    return reply.etag(answer.article).send(answer.article);
  });
  return { url: await app.listen({ host: '127.0.0.1', port: 0 }), close: () => app.close() };
});

test('without an error handler of the application, other errors are answered as ever', async () => {
  const app = Fastify();
  app.register(locking);
  app.get('/', () => {
    throw Object.assign(new Error('tea'), { statusCode: 418 });
  });
  expect((await app.inject('/')).json()).toMatchObject({ statusCode: 418, message: 'tea' });
});
