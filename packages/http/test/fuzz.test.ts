/**
 * Hostile tokens, headers and bodies. Whatever a client sends, without the right tag or version it gets a 4xx, nothing in
 * the database changes, and no answer shows a column that is not meant for it.
 */
import { request as httpRequest } from 'node:http';
import * as fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { type TestDriver, open } from '../../driver/test/harness.ts';
import { postgresql } from '../../driver/test/drivers/postgresql.ts';
import { sqliteMemory } from '../../driver/test/drivers/sqlite.ts';
import { type Answer, Article, Note, type Request, handle, listen } from './service.ts';

const SECRET = 'a-secret-that-nobody-sends';
const CURRENT = '"Article/1/3"';

const setUp = async (driver: TestDriver) => {
  const { orm, fork } = await open(driver, [Article, Note], { debug: false });
  const em = fork();
  em.create(Article, { id: 1, title: 'one', secret: SECRET, version: 3 });
  em.create(Article, { id: 2, title: 'two', secret: SECRET, version: 4 });
  em.create(Note, { id: 1, text: 'note', secret: SECRET, version: 3 });
  await em.flush();
  const connection = orm.em.getDriver().getConnection() as unknown as { execute(sql: string): Promise<unknown> };
  const rows = async () =>
    JSON.stringify([
      await connection.execute('select * from article order by id'),
      await connection.execute('select * from note order by id'),
    ]);
  return { orm, rows };
};

const text = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.string({ unit: 'binary', maxLength: 40 }),
  fc.constantFrom(
    `' or 1=1 --`,
    `'; drop table article; --`,
    `" or "version" = 3`,
    `\\'; select secret from article`,
    `\${secret}`,
    '../note/1',
    '__proto__',
  ),
  fc.integer({ min: 1, max: 20_000 }).map((length) => 'a'.repeat(length)),
);
const version = fc.oneof(
  fc
    .integer()
    .filter((n) => n !== 3)
    .map(String),
  fc
    .bigInt({ min: -(2n ** 80n), max: 2n ** 80n })
    .filter((n) => n !== 3n)
    .map(String),
  fc.constantFrom(
    '03',
    '3.0',
    '+3',
    '-3',
    '0x3',
    '3e0',
    'NaN',
    'null',
    '2147483648',
    '1e999',
    '',
    '3;4',
    '3 or 1=1',
    '1 union select secret',
  ),
  text.filter((part) => part !== '3'),
);
const tag = fc.oneof(
  version.map((v) => `"Article/1/${v}"`),
  fc.constantFrom(
    `W/${CURRENT}`,
    '"Article/2/4"',
    '"Article/2/3"',
    '"Note/1/3"',
    '"Article/11/3"',
    '"article/1/3"',
    '"Article//1/3"',
    '"public/Article/1/3"',
    '"Article%2F1/3"',
    '"Object/1/3"',
    '"3"',
    '3',
    'Article/1/3',
    "'Article/1/3'",
    '""',
    '"',
  ),
  text.map((part) => `"${part}"`),
  text,
  // one character of the right tag taken out, put in, or changed
  fc
    .tuple(fc.nat(CURRENT.length - 1), fc.constantFrom(0, 1), fc.string({ maxLength: 1 }))
    .map(([at, cut, put]) => CURRENT.slice(0, at) + put + CURRENT.slice(at + cut)),
);
/** Where the right tag stands for itself, the request is not hostile. */
const isRight = (header: string) => /(?:^|[^/])"Article\/1\/3"/.test(header.replaceAll(`W/${CURRENT}`, 'W'));
const header = fc
  .oneof(
    fc.constant(undefined),
    tag,
    fc.array(tag, { maxLength: 5 }).map((tags) => tags.join(', ')),
    fc.array(tag, { minLength: 100, maxLength: 200 }).map((tags) => tags.join()),
  )
  .filter((value) => value === undefined || (!isRight(value) && value.trim() !== '*'));

const claim = fc
  .oneof(
    fc.jsonValue(),
    fc.constantFrom<unknown>(
      '3',
      3.5,
      -1,
      2,
      4,
      2 ** 31,
      2 ** 53,
      1e308,
      null,
      [3],
      { $gt: 0 },
      { $ne: null },
      { valueOf: 3 },
      true,
      '',
    ),
    fc.integer(),
    text,
  )
  .filter((value) => value !== 3);
const title = fc.oneof(fc.constant('mine'), text, fc.jsonValue());
/** Titles that are allowed, versions that are not. */
const claimBody = fc.record({ title, version: claim, id: fc.jsonValue(), secret: text }, { requiredKeys: ['title'] });
const anyBody = fc.oneof(
  fc
    .record({ title, version: fc.constant(3), secret: text }, { requiredKeys: ['title'] })
    .map((value) => JSON.stringify(value)),
  fc.jsonValue().map((value) => JSON.stringify(value)),
  text,
);
const path = fc.oneof(
  { weight: 9, arbitrary: fc.constant('/articles/1') },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '/articles/99',
      '/articles/99999999999',
      '/articles/-1',
      '/articles/1%27',
      '/articles/',
      '/notes/1',
    ),
  },
);

const attack = fc.oneof(
  fc.record({ method: fc.constantFrom('PUT', 'POST'), path, header, body: anyBody }).map(
    ({ method, path, header, body }) => ({ method, path, body, headers: { 'if-match': header } }),
  ),
  fc.record({ path, header: fc.oneof(header, fc.constant('*')) }).map(({ path, header }) => ({
    method: 'DELETE', path, headers: { 'if-match': header },
  })),
  fc.record({ path, header, body: claimBody }).map(({ path, header, body }) => ({
    method: 'PATCH', path, body: JSON.stringify(body), headers: { 'if-match': header },
  })),
  // to create what is there
  fc.record({ header: fc.oneof(tag, fc.constant('*')), body: anyBody }).map(({ header, body }) => ({
    method: 'PUT', path: '/articles/1', body, headers: { 'if-none-match': header },
  })),
); // oxfmt-ignore

/** Sends what HTTP can carry at all; Node's client refuses the rest by itself. */
const overHttp = (port: number) => (attack: Request) =>
  new Promise<Answer>((resolve, reject) => {
    const headers = Object.fromEntries(
      Object.entries(attack.headers ?? {})
        .filter(([, value]) => value !== undefined)
        .map(([name, value]) => [name, String(value).replaceAll(/[^\t\x20-\x7e\x80-\xff]/g, '?')]),
    );
    const body = Buffer.from(attack.body ?? '');
    const { method, path } = attack;
    const sent = httpRequest(
      { host: '127.0.0.1', port, method, path, agent: false, headers: { ...headers, 'content-length': body.length } },
      (response) => {
        let text = '';
        response.on('data', (chunk) => (text += chunk));
        response.on('end', () =>
          resolve({ status: response.statusCode!, headers: response.headers as never, body: text }),
        );
      },
    );
    sent.on('error', reject).end(body);
  });

const run = async (
  { orm, rows }: Awaited<ReturnType<typeof setUp>>,
  numRuns: number,
  send: (request: Request) => Promise<Answer> = (request) => handle(orm, request),
) => {
  const before = await rows();
  const statuses = new Map<number, number>();
  await fc.assert(
    fc.asyncProperty(attack, async (request) => {
      const answer = await send(request);
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      expect(answer.status).toBeGreaterThanOrEqual(400);
      expect(answer.status).toBeLessThan(500);
      expect(JSON.stringify(answer)).not.toContain(SECRET);
      expect(await rows()).toBe(before);
    }),
    { numRuns },
  );
  // the attacks get past the first check, too
  for (const status of [400, 409, 412, 428]) {
    expect(statuses.get(status), `answers with ${status}`).toBeGreaterThan(numRuns / 200);
  }
  // and the service is one that writes
  const right = { method: 'PUT', path: '/articles/1', headers: { 'if-match': CURRENT }, body: '{"title":"mine"}' };
  expect((await send(right)).status).toBe(200);
  expect(await rows()).not.toBe(before);
};

test('10,000 attacks on SQLite', async () => run(await setUp(sqliteMemory), 10_000), 600_000);

test('1,000 attacks on PostgreSQL', async () => run(await setUp(postgresql), 1000), 600_000);

test('1,000 attacks over HTTP', async () => {
  const db = await setUp(sqliteMemory);
  const { port, close } = await listen(db.orm);
  onTestFinished(close);
  await run(db, 1000, overHttp(port));
}, 600_000);
