import { createApp } from '../fastify.ts';
import { suite } from './suite.ts';

suite(async (orm) => {
  const app = createApp(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  return { url, close: () => app.close() };
});
