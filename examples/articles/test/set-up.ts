/** The service with articles 1 to 3 on a free port, until the test ends. */
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { onTestFinished } from 'vitest';
import { ArticleSchema } from '../article.ts';
import { createService } from '../service.ts';

export async function setUp() {
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [ArticleSchema] });
  await orm.schema.create();
  const em = orm.em.fork();
  [1, 2, 3].forEach((id) => em.create(ArticleSchema, { id, title: `Article ${id}` }));
  await em.flush();
  const app = createService(orm);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  onTestFinished(async () => {
    await app.close();
    await orm.close();
  });
  return {
    orm,
    url,
    row: (id: number) => orm.em.fork().findOne(ArticleSchema, id),
    /** A request to the API. */
    async request(method: string, path: string, body?: object, headers: Record<string, string> = {}) {
      const type = body ? { 'content-type': 'application/json' } : undefined;
      const init = { method, headers: { ...headers, ...type }, body: body && JSON.stringify(body) };
      const response = await fetch(url + path, init);
      const text = await response.text();
      return {
        status: response.status,
        etag: response.headers.get('etag'),
        body: (text ? JSON.parse(text) : undefined) as Record<string, unknown>,
      };
    },
    /** Sends the form of a page. */
    async post(path: number | string, fields: Record<string, string>) {
      const init = { method: 'POST', body: new URLSearchParams(fields), redirect: 'manual' } as const;
      const response = await fetch(url + (typeof path === 'number' ? `/articles/${path}/edit` : path), init);
      const location = response.headers.get('location');
      return { status: response.status, location, html: await response.text() };
    },
  };
}
