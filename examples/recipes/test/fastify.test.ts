import { MikroORM } from '@mikro-orm/core';
import { createApp } from '../fastify.ts';
import { suite } from './suite.ts';

suite(async (options) => {
  const orm = await MikroORM.init(options);
  const app = createApp(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  return { orm, url, close: () => app.close() };
});
