/** Entities declared by standard (ES) decorators are locked like any other. */
import { type Opt, MikroORM } from '@mikro-orm/core';
import { Entity, PrimaryKey, Property } from '@mikro-orm/decorators/es';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { expect, test } from 'vitest';

@Entity()
class Article {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  title!: string;

  @Property({ type: VersionField })
  version!: Opt<number>;
}

test('a decorated VersionField starts at 1, is bumped and checked', async () => {
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Article] });
  await orm.schema.create();
  const em = orm.em.fork();
  const ours = em.create(Article, { id: 1, title: 'new' });
  await em.flush();
  expect(ours.version).toBe(1);
  const theirs = orm.em.fork();
  (await theirs.findOneOrFail(Article, 1)).title = 'theirs';
  await theirs.flush();
  ours.title = 'ours';
  await expect(em.flush()).rejects.toThrow(ConcurrentUpdate);
  await orm.close();
});
