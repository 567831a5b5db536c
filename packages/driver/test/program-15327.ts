import { MikroORM, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { type ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});
const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Article] });
await orm.schema.create();
const [mine, hers] = [orm.em.fork(), orm.em.fork()]; // two requests
const article = mine.create(Article, { id: 1, title: 'draft' });
await mine.flush(); // version 1
(await hers.findOneOrFail(Article, 1)).title = 'hers';
await hers.flush(); // version 2
article.title = 'mine';
await mine.flush().catch((error: ConcurrentUpdate) => console.log(error.message));
await orm.close();
