/** The table of docs/request-handlers.md, row by row, over real HTTP; the same for every framework. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { type ProblemStatus, problemSchemas } from '@mikro-ool/http';
import { Ajv2020 } from 'ajv/dist/2020.js';
import * as fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import { Article, Note } from '../service.ts';
import { type Request, expected, request, spelled } from './oracle.ts';

export interface Started {
  readonly url: string;
  close(): Promise<unknown>;
}

interface Sent {
  readonly method: string;
  readonly headers?: Record<string, string>;
  readonly body?: unknown;
  readonly status: number;
}

const put = (status: number, headers: Record<string, string>): Sent => ({
  method: 'PUT',
  headers,
  body: { title: 'mine' },
  status,
});
const patch = (status: number, version: unknown): Sent => ({
  method: 'PATCH',
  body: { title: 'mine', version },
  status,
});
const remove = (status: number, ifMatch?: string): Sent => ({
  method: 'DELETE',
  headers: ifMatch === undefined ? {} : { 'if-match': ifMatch },
  status,
});
const many = (status: number, rival: string): Sent => ({ method: 'POST', headers: { 'x-rival': rival }, status });

const CURRENT = '"Article/1/3"';

/** By the beginning of the row that they belong to; each is sent to a service of its own. */
const CASES: Record<string, readonly Sent[]> = {
  '`If-Match` is stale': [
    put(412, { 'if-match': '"Article/1/2"' }),
    put(412, { 'if-match': `W/${CURRENT}` }),
    put(412, { 'if-match': '"Article/2/3"' }),
    put(412, { 'if-match': '"Note/1/3"' }),
    put(412, { 'if-match': CURRENT, 'x-rival': '1' }),
    remove(412, '"Article/1/2"'),
    remove(412, '"Article/2/3"'),
  ],
  'no `If-Match`': [
    put(428, {}),
    remove(428),
    patch(428, undefined),
    patch(428, null),
    { method: 'PATCH', status: 428 },
  ],
  '`If-Match: *`, or several': [remove(428, '*'), remove(428, `${CURRENT}, "Article/1/2"`)],
  'a header that cannot be parsed': [
    put(400, { 'if-match': 'Article/1/3' }),
    put(400, { 'if-match': `"${'x'.repeat(9000)}"` }),
    put(400, { 'if-match': Array.from({ length: 101 }, () => CURRENT).join() }),
    put(400, { 'if-none-match': 'junk' }),
    patch(400, '3'),
    patch(400, 'abc'),
    patch(400, 1.5),
    patch(400, [3]),
    patch(400, -1),
    patch(400, 2 ** 40),
  ],
  'somebody was faster': [
    put(409, { 'if-match': '*', 'x-rival': '1' }),
    put(409, { 'x-blind': '1', 'x-rival': '1' }),
    patch(409, 2),
  ],
  'of `flushEach()`': [many(207, '1'), many(409, '1,2')],
  '`If-None-Match` on what exists': [put(412, { 'if-none-match': '*' }), put(428, { 'if-none-match': '"other"' })],
};

/** What each answer must look like. */
const ajv = new Ajv2020({ allErrors: true });
const shape = (status: number) => ajv.compile(problemSchemas[status as ProblemStatus]);

const page = readFileSync(join(import.meta.dirname, '../../../../docs/request-handlers.md'), 'utf8');
const [, table] = page.split('## What answers what\n');
const rows = [...table!.split('\n## ')[0]!.matchAll(/^\| (.+?) \| ([\d/ ]+) \|/gm)];

/** @param start the service on a free port of 127.0.0.1 */
export function contract(name: string, start: (orm: MikroORM) => Promise<Started>): void {
  const setUp = async () => {
    const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Article, Note] });
    await orm.schema.create();
    const reset = async () => {
      await orm.em.fork().nativeDelete(Article, {});
      await orm.em.fork().insertMany(
        Article,
        [1, 2].map((id) => ({ id, title: 'draft', secret: 'SECRET', version: 3 })),
      );
    };
    await reset();
    const { url, close } = await start(orm);
    onTestFinished(async () => {
      await close();
      await orm.close();
    });
    const ask = async ({ method, headers, body }: Omit<Sent, 'status'>, id: number | string = 1) => {
      const response = await fetch(`${url}/articles/${id}`, {
        method,
        headers: { ...headers, ...(body !== undefined && { 'content-type': 'application/json' }) },
        body: body === undefined ? null : JSON.stringify(body),
      });
      const text = await response.text();
      expect(text).not.toContain('SECRET');
      return { status: response.status, headers: response.headers, text };
    };
    const row = async (id = 1) => orm.em.fork().findOne(Article, id);
    return { ask, row, reset };
  };

  describe(name, () => {
    test('every row of the page is tried here, and nothing else', () => {
      const begins = Object.keys(CASES);
      expect(rows.map(([, when]) => begins.filter((begin) => when!.startsWith(begin)))).toEqual(
        begins.map((begin) => [begin]),
      );
    });

    for (const [, when, statuses] of rows) {
      const cases = Object.entries(CASES).find(([begin]) => when!.startsWith(begin))![1];
      test(`${when}: ${statuses}`, async () => {
        for (const sent of cases) {
          const { ask, row } = await setUp();
          const { status, headers, text } = await ask(sent);
          expect({ ...sent, status }).toEqual(sent);
          expect(headers.get('content-type')).toMatch(/^application\/problem\+json/);
          expect(headers.get('cache-control')).toBe('no-store');
          const isValid = shape(status);
          expect([isValid(JSON.parse(text)), isValid.errors]).toEqual([true, null]);
          const current = await row();
          expect(current!.title).not.toBe('mine');
          const isTold = status === 412 && !(sent.method === 'DELETE' && text.includes('stale'));
          expect(headers.get('etag')).toBe(isTold ? `"Article/1/${current!.version}"` : null);
        }
        expect(new Set(cases.map(({ status }) => String(status)))).toEqual(new Set(statuses!.split(' / ')));
      });
    }

    test('the tag goes out, is known when it comes back, and lets the write pass that has seen it', async () => {
      const { ask, row } = await setUp();
      const read = await ask({ method: 'GET' });
      expect([read.status, read.headers.get('etag'), JSON.parse(read.text)]).toEqual([
        200,
        CURRENT,
        { id: 1, title: 'draft', version: 3 },
      ]);
      const again = await ask({ method: 'GET', headers: { 'if-none-match': `W/${CURRENT}` } });
      expect([again.status, again.headers.get('etag'), again.text]).toEqual([304, CURRENT, '']);
      expect((await ask({ method: 'GET', headers: { 'if-none-match': '"Article/1/2"' } })).status).toBe(200);
      const written = await ask(put(200, { 'if-match': CURRENT }));
      expect([written.status, written.headers.get('etag')]).toEqual([200, '"Article/1/4"']);
      expect(await row()).toMatchObject({ title: 'mine', version: 4 });
      expect((await ask(remove(204, '"Article/1/4"'))).status).toBe(204);
      expect(await row()).toBeNull();
    });

    test('the tag of a 412 is the one that the write needs, once the row was read again', async () => {
      const { ask } = await setUp();
      for (const late of [put(412, { 'if-match': '"Article/1/2"' }), remove(412, '"Article/1/2"')]) {
        const tag = (await ask(late)).headers.get('etag')!;
        const { status } = await ask({ ...late, headers: { 'if-match': tag } });
        expect(status).toBe(late.method === 'PUT' ? 200 : 204);
      }
    });

    test('a tag that was set before the write failed is not on the problem', async () => {
      const { ask } = await setUp();
      const { status, headers } = await ask({ ...put(409, { 'x-blind': '1', 'x-rival': '1', 'x-early': '1' }) });
      expect([status, headers.get('etag')]).toEqual([409, null]);
    });

    test('the tag in a body is a claim as well: of another state 409, of another row 409, none 428, nonsense 400', async () => {
      const { ask, row } = await setUp();
      const claim = async (etag: unknown) =>
        (await ask({ method: 'PATCH', body: { title: 'mine', ...(etag !== undefined && { etag }) } })).status;
      for (const stale of ['"Article/1/2"', '"Article/2/3"', '"Note/1/3"', `W/${CURRENT}`]) {
        expect(await claim(stale)).toBe(409);
      }
      for (const junk of ['', 'Article/1/3', '*', `${CURRENT}, ${CURRENT}`, [CURRENT], {}]) {
        expect(await claim(junk)).toBe(400);
      }
      expect(await claim(undefined)).toBe(428);
      expect(await row()).toMatchObject({ title: 'draft', version: 3 });
      expect(await claim(CURRENT)).toBe(200);
    });

    test('any request is answered as RFC 9110 says, and one that is refused changes nothing', async () => {
      const { ask, row, reset } = await setUp();
      const statuses = new Set<number>();
      let title = 0;
      const send = async (request: Request) => {
        const { method, id, ifMatch, ifNoneMatch, version: sent, rival } = request;
        const before = await row(id);
        const state = { id, version: before?.version ?? 3 };
        const isWrite = method === 'PUT' || method === 'PATCH';
        const isClaim = typeof sent === 'string' && sent !== '3';
        const { status, headers } = await ask(
          {
            method,
            headers: {
              ...(ifMatch !== undefined && { 'if-match': spelled(ifMatch, state) }),
              ...(ifNoneMatch !== undefined && { 'if-none-match': spelled(ifNoneMatch, state) }),
              ...(rival && isWrite && { 'x-rival': '1' }),
            },
            body: isWrite
              ? { title: `mine ${++title}`, ...(isClaim ? { etag: spelled(sent, state) } : { version: sent }) }
              : undefined,
          },
          id,
        );
        statuses.add(status);
        const current = await row(id);
        expect({ ...request, status }).toEqual({ ...request, status: expected(request, before?.version) });
        const isRivals = rival && before !== null && current?.title === 'theirs' && current.version > before.version;
        if (status >= 300 && !isRivals) {
          expect(current).toEqual(before);
        }
        if (status === 204) {
          expect(current).toBeNull();
        }
        if (status === 200 && isWrite) {
          expect(current).toMatchObject({ title: `mine ${title}`, version: (before?.version ?? 0) + 1 });
        }
        if (status === 200 || status === 304) {
          expect(headers.get('etag')).toBe(`"Article/${id}/${current!.version}"`);
        } else if (status >= 400 && status !== 404 && headers.has('etag')) {
          expect([status, headers.get('etag')]).toEqual([412, `"Article/${id}/${current!.version}"`]);
        }
      };
      const all = async (requests: Request[]) => {
        await reset();
        for (const one of requests) {
          await send(one);
        }
      };
      await fc.assert(fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 10 }), all), {
        numRuns: 40,
        seed: 9110,
      });
      expect([...statuses].toSorted((a, b) => a - b)).toEqual([200, 204, 304, 400, 404, 409, 412, 428]);
    });

    test('the application says it in the language of the request', async () => {
      const { ask } = await setUp();
      const sent = put(412, { 'if-match': '"Article/1/2"' });
      const say = async (language: string) => {
        const { text } = await ask({ ...sent, headers: { ...sent.headers, 'accept-language': language } });
        return (JSON.parse(text) as { detail: string }).detail;
      };
      expect(await say('de')).toBe('Grund: changed');
      expect(await say('en')).toBe('The article was changed by somebody else. Nothing was written. Read it again.');
    });

    test("errors that are not of the lock are the application's", async () => {
      const { ask } = await setUp();
      expect((await ask({ method: 'GET' }, 99)).status).toBe(404);
      expect((await ask({ method: 'GET' }, 'x')).status).toBe(500);
    });
  });
}
