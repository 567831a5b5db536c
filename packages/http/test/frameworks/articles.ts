/** What the services of all frameworks do. How a request reaches it, and how its answer leaves, is the framework's. */
import { type MikroORM, NotFoundError } from '@mikro-orm/core';
import {
  type HeaderValue,
  type Problem,
  type ProblemBody,
  claimedVersion,
  ifNoneMatch,
  problem,
} from '@mikro-ool/http';
import { flushEach } from '@mikro-ool/resolve';
import { Article } from '../service.ts';

/** A request, as its framework read it. */
export interface Asked {
  readonly method: string;
  readonly id: number;
  readonly body: unknown;
  readonly headers: Readonly<Record<string, HeaderValue>>;
  /** The framework's own. */
  readonly seen: (entity: object) => number;
  /** The framework's own, where a handler may call it before it knows what it will answer. */
  readonly tag?: (entity: object) => void;
}

/** What to send: an article with its tag, or a problem that no error brought. */
export type Answer = { readonly article: object } | { readonly partly: Problem } | 'nothing';

/** GET, PUT, PATCH with a version in its body, DELETE by a reference, POST for many. `X-Rival`: somebody is faster. */
export async function serve(orm: MikroORM, { method, id, body, headers, seen, tag }: Asked): Promise<Answer> {
  const em = orm.em.fork();
  const rival = async (...ids: number[]) => orm.em.fork().nativeUpdate(Article, ids, { title: 'theirs' });
  if (method === 'DELETE') {
    const article = em.getReference(Article, id);
    article.version = seen(article);
    await em.remove(article).flush();
    return 'nothing';
  }
  if (method === 'POST') {
    const articles = await em.find(Article, {});
    articles.forEach((article) => (article.title = 'mine'));
    await rival(...(headers['x-rival'] as string).split(',').map(Number));
    const partly = problem(await flushEach(em));
    return partly ? { partly } : 'nothing';
  }
  if (method === 'PUT' && headers['if-none-match'] !== undefined) {
    const there = (await em.findOne(Article, id)) ?? em.create(Article, { id, title: '', secret: 'SECRET' });
    if (headers['if-match'] !== undefined) {
      seen(there); // first, also when nothing is there
    }
    ifNoneMatch(headers['if-none-match'], em.getUnitOfWork().getPersistStack().has(there) ? null : there);
    there.title = (body as { title: string }).title;
    await em.flush();
    return { article: there };
  }
  const article = await em.findOneOrFail(Article, id);
  if (method !== 'GET' && method !== 'HEAD') {
    const { title, version, etag } = (body ?? {}) as { title: string; version?: unknown; etag?: unknown };
    if (method === 'PATCH') {
      article.version = claimedVersion(version ?? etag, article);
    } else if (headers['x-blind'] === undefined) {
      article.version = seen(article);
    }
    article.title = title;
    if (headers['x-early'] !== undefined) {
      tag?.(article);
    }
    if (headers['x-rival'] !== undefined) {
      await rival(id);
    }
    await em.flush();
  }
  return { article };
}

/** What `detail` says, by the language that the request accepts. */
export function inLanguage({ reason, detail }: ProblemBody, language: HeaderValue): string {
  return language === 'de' ? `Grund: ${reason}` : detail;
}

/** What a service answers to an error that is not the lock's, without its message. */
export function statusOf(error: unknown): number {
  return error instanceof NotFoundError ? 404 : 500;
}
