import { NestFactory } from '@nestjs/core';
import { suite } from '../test/suite.ts';
import { AppModule } from './app.ts';

suite(async (orm) => {
  const app = await NestFactory.create(AppModule.with(orm), { logger: false });
  await app.listen(0, '127.0.0.1');
  return { url: await app.getUrl(), close: () => app.close() };
});
