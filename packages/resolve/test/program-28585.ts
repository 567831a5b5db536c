import { type Opt, MikroORM, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { rebase, retryOnConflict } from '@mikro-ool/resolve';

class Article {
  id!: number;
  title!: string;
  body!: string;
  likes!: Opt<number>;
  version!: Opt<number>;
}
const ArticleSchema = defineEntity({
  class: Article,
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    body: p.string(),
    likes: p.integer().default(0),
    version: p.type(VersionField),
  },
});
const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [ArticleSchema] });
await orm.schema.create();
await orm.em.fork().insertMany(Article, [
  { id: 1, title: 'draft', body: '…' },
  { id: 2, title: 'draft', body: '…' },
]);

/** Another request changes an article and saves it. */
async function hers(id: number, changes: Partial<Article>) {
  const em = orm.em.fork();
  em.assign(await em.findOneOrFail(Article, id), changes);
  await em.flush();
}

const like = () =>
  retryOnConflict(orm.em, async (em) => {
    const article = await em.findOneOrFail(Article, 1);
    return ++article.likes;
  });
console.log(await Promise.all([like(), like(), like()]));

const em = orm.em.fork();
const article = await em.findOneOrFail(Article, 1);
article.title = 'mine';
await hers(1, { body: 'hers' });
try {
  await em.flush();
} catch (error) {
  if (!(error instanceof ConcurrentUpdate)) throw error;
  const { clashes, deleted, removed } = await rebase(em, error);
  console.log(clashes.length, deleted.length, removed.length);
  await em.flush();
}
console.log(article.title, article.body, article.version);

article.title = 'mine again';
await hers(1, { title: 'hers' });
const [clash] = (await rebase(em, article)).clashes;
console.log(clash);
await em.flush();
console.log(article.title);

article.title = 'mine';
await hers(1, { title: 'hers' });
for (const clash of (await rebase(em, article)).clashes) clash.takeTheirs();
await em.flush(); // nothing is left to write
console.log(article.title);

article.likes += 1;
article.title = 'mine';
await hers(1, { likes: 10, title: 'hers too' });
for (const clash of (await rebase(em, article)).clashes) {
  if (clash.property === 'likes') article.likes = clash.theirs + clash.mine - clash.base!;
  if (clash.property === 'title') article.title = `${clash.theirs} / ${clash.mine}`;
}
await em.flush();
console.log(article.likes, article.title);

const mine = await em.findOneOrFail(Article, 2);
mine.body = 'mine';
await orm.em.fork().nativeDelete(Article, 2);
const [gone] = (await rebase(em, mine)).deleted;
gone!.recreate(); // or gone.drop()
await em.flush();
console.log(mine.version);

em.remove(mine);
await hers(2, { body: 'hers' });
const [removal] = (await rebase(em, mine)).removed;
removal!.keep(); // or nothing: then it is removed
await em.flush();
console.log(mine.body);

const form = { base: { id: 1, title: 'hers too / mine', body: 'hers', version: article.version }, title: 'form', body: 'hers' };
await hers(1, { body: 'hers, later' });
const request = orm.em.fork();
const edited = request.merge(Article, form.base);
request.assign(edited, { title: form.title, body: form.body });
console.log((await rebase(request, edited)).clashes.length);
await request.flush();
console.log(edited.title, '|', edited.body);
await orm.close();
