/** What an application does that has its own copies of some packages: run by copies.test.ts, prints what came of it. */
import { LockMode, MikroORM, OptimisticLockError, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describeLocks, versioned } from '@mikro-ool/driver';

const Post = defineEntity({ name: 'Post', properties: { id: p.integer().primary(), version: p.type(VersionField) } });
const Like = defineEntity({
  name: 'Like',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    data: p.json(),
    of: () => p.manyToOne([Post, Page]).nullable(),
    version: p.type(VersionField),
  },
});
const Page = defineEntity({
  name: 'Page',
  properties: { id: p.integer().primary(), title: p.string(), version: p.bigint('number').version() },
});

const said = [];
const sent = [];
const orm = await MikroORM.init({
  driver: versioned(SqliteDriver),
  dbName: ':memory:',
  entities: [Post, Like, Page],
  colors: false,
  debug: ['query'],
  logger: (line) => (line.startsWith('[query]') ? sent : said).push(line.replace(/^\[query\] | \[took.*$/gs, '')),
});
await orm.schema.create();
const ids = [1, 2, 3];
const seed = orm.em.fork();
ids.forEach((id) => seed.create(Like, { id, title: 'old', data: {} }));
seed.create(Post, { id: 1 });
seed.create(Page, { id: 1, title: 'old' });
await seed.flush();

const thrown = async (work) => {
  try {
    await work();
    return 'nothing';
  } catch (error) {
    const classes = { ConcurrentUpdate, VersionNotLoaded, InvalidVersion };
    const names = Object.keys(classes).filter((name) => error instanceof classes[name]);
    return names.join() || `${error.name}: ${error.message}`;
  }
};

const em = orm.em.fork();
const likes = await em.find(Like, {}, { orderBy: { id: 'asc' } });
const stale = orm.em.fork();
const page = await em.findOneOrFail(Page, 1);
const post = await em.findOneOrFail(Post, 1);
const before = await stale.find(Like, {}, { orderBy: { id: 'asc' } });
Object.assign(likes[0], { title: 'new', data: [1, { a: [2] }], of: page });
Object.assign(likes[1], { title: 'new', data: { b: [3] }, of: post });
Object.assign(likes[2], { title: 'new', data: 'text' });
sent.length = 0;
await em.flush();
const statements = sent.filter((sql) => !/^(begin|commit)|writes_instead/.test(sql)).length;
const rows = await orm.em.fork().find(Like, {}, { orderBy: { id: 'asc' }, populate: ['of'] });
page.title = 'new';
touch(post);
await em.flush();
before.forEach((like) => (like.title = 'stale'));
let isOptimisticLockError;
const results = {
  statements,
  data: rows.map(({ data }) => data),
  of: rows.map((row) => row.of?.constructor.name === Object(row.of).constructor.name && (row.of?.id ?? null)),
  versions: [...rows.map(({ version }) => version), page.version, post.version],
  conflict: await thrown(() =>
    stale.flush().catch((error) => {
      isOptimisticLockError = error instanceof OptimisticLockError;
      throw error;
    }),
  ),
  lock: await thrown(() => em.lock(page, LockMode.OPTIMISTIC, 7)),
  blind: await thrown(async () => {
    const blind = orm.em.fork();
    blind.remove(blind.getReference(Post, 1));
    await blind.flush();
  }),
  nonsense: await thrown(async () => {
    post.version = -1;
    await em.flush();
  }),
  isOptimisticLockError,
  said,
  problems: (await describeLocks(orm)).problems,
};
console.log(JSON.stringify(results));
await orm.close();
