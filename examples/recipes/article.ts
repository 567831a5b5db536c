/** What the service of all recipes stores and does; a framework's own validation reads requests as well. */
import { type InferEntity, type MikroORM, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

export const ArticleSchema = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    hits: p.integer().default(0),
    notes: p.string().default('').hidden(),
    version: p.type(VersionField),
  },
});

export type Article = InferEntity<typeof ArticleSchema>;

/** Given the article, the version that the client has seen: `ifMatch()` of the framework. */
type Seen = (article: Article) => number;

export async function read(orm: MikroORM, id: string): Promise<Article> {
  return orm.em.fork().findOneOrFail(ArticleSchema, idIn(id), { failHandler });
}

export async function change(orm: MikroORM, id: string, body: unknown, seen: Seen): Promise<Article> {
  const em = orm.em.fork();
  const changes = changesIn(body);
  if (!changes) {
    throw new RequestError(400, 'An article has a title, and hits.');
  }
  const article = await em.findOneOrFail(ArticleSchema, idIn(id), { failHandler });
  article.version = seen(article);
  em.assign(article, changes);
  await em.flush();
  return article;
}

export async function remove(orm: MikroORM, id: string, seen: Seen): Promise<void> {
  const em = orm.em.fork();
  const article = em.getReference(ArticleSchema, idIn(id)); // no read
  article.version = seen(article);
  await em.remove(article).flush();
}

/** Express and Fastify set `statusCode` on errors of their own, too. */
class RequestError extends Error {
  readonly statusCode: number;

  constructor(statusCode: number, message: string) {
    super(message);
    this.statusCode = statusCode;
  }
}

const failHandler = () => new RequestError(404, 'There is no such article.');

/** What to answer to an error that is not of the lock; its message may be that of a database, with the statement in it. */
export function statusOf(error: unknown): number {
  return (error as { statusCode?: number } | null)?.statusCode ?? 500;
}

/** The key in a path; 0, which no article has, when it is none. */
export function idIn(text: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : 0;
}

/** What a body may change; `undefined` when it is not understood. */
export function changesIn(body: unknown): { title?: string; hits?: number } | undefined {
  const { title, hits } = Object(body) as { title?: unknown; hits?: unknown };
  const isTitle = title === undefined || (typeof title === 'string' && title.length <= 255 && !title.includes('\0'));
  const isHits = hits === undefined || (Number.isInteger(hits) && Math.abs(hits as number) < 2 ** 31);
  return typeof body === 'object' && isTitle && isHits
    ? { ...(title !== undefined && { title }), ...(hits !== undefined && { hits: hits as number }) }
    : undefined;
}
