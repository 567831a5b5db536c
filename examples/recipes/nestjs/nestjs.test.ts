import { EntityManager as CoreEntityManager, MikroORM, type Options } from '@mikro-orm/core';
import { EntityManager, SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { NestFactory } from '@nestjs/core';
import { expect, test } from 'vitest';
import { ArticleSchema } from '../article.ts';
import { suite } from '../test/suite.ts';
import { AppModule, ArticleService } from './app.ts';

async function start(options: Partial<Options>) {
  const app = await NestFactory.create(AppModule.with(options as never), { logger: false });
  await app.listen(0, '127.0.0.1');
  return { app, orm: app.get<MikroORM>(MikroORM), url: await app.getUrl(), close: () => app.close() };
}

suite(start);

test('the EntityManager of the driver and that of core are the same one, and so is what is injected', async () => {
  const { app, orm, close } = await start({
    driver: versioned(SqliteDriver),
    dbName: ':memory:',
    entities: [ArticleSchema],
  });
  expect(app.get(EntityManager)).toBe(orm.em);
  expect(app.get(CoreEntityManager)).toBe(orm.em);
  expect(app.get(ArticleService).em).toBe(orm.em);
  expect(orm.em.constructor).toBe(EntityManager);
  await close();
});
