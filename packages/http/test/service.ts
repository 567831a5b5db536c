/** A service as a plain function from request to answer, on any of the tested databases, and the same over HTTP. */
import { type IncomingHttpHeaders, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type MikroORM, NotFoundError, UniqueConstraintViolationException, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { claimedVersion, etag, ifMatch, ifNoneMatch, notModified, problem } from '@mikro-ool/http';

export const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string().length(100),
    secret: p.string().hidden(),
    version: p.type(VersionField),
  },
});

export const Note = defineEntity({
  name: 'Note',
  properties: {
    id: p.integer().primary(),
    text: p.string(),
    secret: p.string().hidden(),
    version: p.type(VersionField),
  },
});

export interface Request {
  readonly method: string;
  readonly path: string;
  readonly headers?: IncomingHttpHeaders;
  readonly body?: string;
}

export interface Answer {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body?: unknown;
}

/** GET, PUT (If-Match, or If-None-Match to create), PATCH (version in the body), POST (through a reference), DELETE. */
export async function handle(orm: MikroORM, request: Request): Promise<Answer> {
  try {
    return await route(orm, request);
  } catch (error) {
    const answer = problem(error);
    if (answer) {
      return answer;
    }
    if (error instanceof NotFoundError) {
      return { status: 404, headers: {} };
    }
    if (error instanceof UniqueConstraintViolationException) {
      return { status: 409, headers: {} };
    }
    throw error;
  }
}

async function route(orm: MikroORM, { method, path, headers = {}, body }: Request): Promise<Answer> {
  const id = Number(/^\/articles\/(\d{1,9})$/.exec(path)?.[1] ?? 0);
  const em = orm.em.fork();
  if (method === 'DELETE') {
    const article = em.getReference(Article, id);
    article.version = ifMatch(headers['if-match'], article);
    em.remove(article);
    await em.flush();
    return { status: 204, headers: {} };
  }
  if (method === 'GET') {
    const article = await em.findOneOrFail(Article, id);
    const fresh = notModified(headers['if-none-match'], article);
    return fresh
      ? { status: 304, headers: { etag: etag(article) } }
      : { status: 200, headers: { etag: etag(article) }, body: article };
  }
  const changes = parseBody(body);
  if (!changes) {
    return { status: 422, headers: {} };
  }
  const { title } = changes;
  if (method === 'PUT' && headers['if-none-match'] !== undefined) {
    ifNoneMatch(headers['if-none-match'], await em.findOne(Article, id));
    const article = em.create(Article, { id, title, secret: '' });
    await em.flush();
    return { status: 201, headers: { etag: etag(article) }, body: article };
  }
  const article = method === 'POST' ? em.getReference(Article, id) : await em.findOneOrFail(Article, id);
  article.version = method === 'PATCH' ? claimedVersion(changes.version) : ifMatch(headers['if-match'], article);
  em.assign(article, { title });
  await em.flush();
  return { status: 200, headers: { etag: etag(article) }, body: { title } };
}

/** What a framework does by a schema. */
function parseBody(body: string | undefined): { title: string; version?: unknown } | undefined {
  try {
    const value = JSON.parse(body ?? '') as { title?: unknown; version?: unknown } | null;
    const title = value?.title;
    return typeof title === 'string' && title.length <= 100 && !title.includes('\0')
      ? { title, version: value!.version }
      : undefined;
  } catch {
    return undefined;
  }
}

/** The same over HTTP. An error that nobody answered is a 500 with its text, so that a leak would be seen. */
export async function listen(orm: MikroORM): Promise<{ port: number; close: () => Promise<void> }> {
  // Node refuses long headers itself, by closing the connection while they are being sent
  const server = createServer({ maxHeaderSize: 2 ** 20 }, async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    const { method = '', url: path = '', headers } = request;
    const answer: Answer = await handle(orm, { method, path, headers, body: Buffer.concat(chunks).toString() }).catch(
      (error: Error) => ({ status: 500, headers: {}, body: String(error.stack) }),
    );
    response.writeHead(answer.status, answer.headers).end(JSON.stringify(answer.body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
