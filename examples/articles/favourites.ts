/** Users who press "favourite" at the same time: each reads the article, adds 1 and saves. */
import { EntitySchema, MikroORM, type Opt } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { retryOnConflict } from '@mikro-ool/resolve';

const USERS = 8;

interface Article {
  id: number;
  favourites: Opt<number>;
}
const schema = (properties: object) =>
  new EntitySchema<Article>({
    name: 'Article',
    properties: { id: { type: 'integer', primary: true }, favourites: { type: 'integer', default: 0 }, ...properties },
  });

/** Prints what the users were told and what was counted, without a lock and with it; returns whether the lock held. */
export async function pressFavourite(): Promise<boolean> {
  console.log(`${USERS} users press "favourite" at once: each request reads the article, adds 1 and saves.\n`);
  await press('MikroORM', schema({}), SqliteDriver);
  const counted = await press('mikro-ool', schema({ version: { type: VersionField } }), versioned(SqliteDriver));
  console.log();
  return counted === USERS;
}

async function press(name: string, Article: EntitySchema<Article>, driver: typeof SqliteDriver): Promise<number> {
  const orm = await MikroORM.init({ driver, dbName: ':memory:', entities: [Article] });
  await orm.schema.create();
  await orm.em.fork().insert(Article, { id: 1 });
  const favourite = async (em = orm.em.fork()) => {
    const article = await em.findOneOrFail(Article, 1);
    article.favourites++;
    await em.flush();
  };
  const results = await Promise.allSettled(Array.from({ length: USERS }, () => favourite()));
  const lost = results.filter((result) => result.status === 'rejected' && result.reason instanceof ConcurrentUpdate);
  const saved = results.filter(({ status }) => status === 'fulfilled').length;
  await Promise.all(lost.map(() => retryOnConflict(orm.em, favourite)));
  const { favourites } = await orm.em.fork().findOneOrFail(Article, 1);
  const again = lost.length > 0 ? ', who try again' : '';
  console.log(`  ${name.padEnd(9)}  ${saved} saved, ${lost.length} conflicts${again}: ${favourites} counted`);
  await orm.close();
  return favourites;
}
