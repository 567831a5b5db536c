/** Races that the server decides by aborting a transaction are lost races like any other. */
import type { EventEmitter } from 'node:events';
import { IsolationLevel, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { open, thrown } from './harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

const setUp = async () => {
  const db = await open(postgresql, [Article]);
  const em = db.fork();
  em.create(Article, { id: 1, title: 'saved' });
  em.create(Article, { id: 2, title: 'saved' });
  await em.flush();
  return db;
};

test('a serialisation failure is a ConcurrentUpdate with the cause, and the version is as before', async () => {
  const { fork } = await setUp();
  const em = fork();
  const error = (await thrown(() =>
    em.transactional(
      async (tx) => {
        const article = await tx.findOneOrFail(Article, 1);
        const theirs = fork();
        (await theirs.findOneOrFail(Article, 1)).title = 'theirs';
        await theirs.flush();
        article.title = 'ours';
        const inner = await thrown(() => tx.flush());
        expect(inner).toBeInstanceOf(ConcurrentUpdate);
        expect(article.version).toBe(1);
        throw inner;
      },
      { isolationLevel: IsolationLevel.REPEATABLE_READ },
    ),
  )) as unknown as ConcurrentUpdate;
  expect(error.conflicts).toEqual([]);
  expect(error.getEntity()).toBeUndefined();
  expect(error.cause).toMatchObject({ code: '40001' });
  expect(error.message).toContain('The database aborted the transaction');
});

test('a deadlock between two transactions of several flushes is a ConcurrentUpdate for one of them', async () => {
  const { fork } = await setUp();
  let ready = 0;
  let open!: () => void;
  const both = new Promise<void>((resolve) => (open = resolve));
  const work = (first: number, second: number) =>
    fork().transactional(async (tx) => {
      await tx.getConnection().execute("set local deadlock_timeout = '100ms'", [], 'run', tx.getTransactionContext());
      const [a, b] = [await tx.findOneOrFail(Article, first), await tx.findOneOrFail(Article, second)];
      a.title = `first ${first}`;
      await tx.flush();
      if (++ready === 2) {
        open();
      }
      await both;
      b.title = `second ${second}`;
      await tx.flush();
    });
  const results = await Promise.allSettled([work(1, 2), work(2, 1)]);
  const [failed] = results.filter((result) => result.status === 'rejected');
  expect(results.filter((result) => result.status === 'fulfilled').length).toBe(1);
  expect(failed!.reason).toBeInstanceOf(ConcurrentUpdate);
  expect((failed!.reason as ConcurrentUpdate).cause).toMatchObject({ code: '40P01' });
});

test('an error that is no race stays what it is', async () => {
  const { fork } = await setUp();
  const em = fork();
  (await em.findOneOrFail(Article, 1)).title = 'x'.repeat(300);
  const error = await thrown(() => em.flush());
  expect(error).not.toBeInstanceOf(ConcurrentUpdate);
  expect(error.message).toContain('value too long');
});

test('a batch refuses a value that is too long, as a single update does', async () => {
  const { fork } = await setUp();
  const em = fork();
  (await em.find(Article, {})).forEach((article) => (article.title = 'x'.repeat(300)));
  expect((await thrown(() => em.flush())).message).toContain('value too long');
});

test('rows that a trigger keeps from being written are conflicts, although their version is the expected one', async () => {
  const { fork } = await setUp();
  await fork().getConnection().execute(`
    create function refuse() returns trigger language plpgsql as $$ begin return null; end $$;
    create trigger refuse before update on article for each row when (old.id = 2) execute function refuse();`);
  const em = fork();
  (await em.find(Article, {})).forEach((article) => (article.title = 'ours'));
  const error = await thrown(() => em.flush());
  expect(error).toMatchObject({ conflicts: [{ primaryKey: 2, expected: 1, actual: 1 }] });
  expect(error.message).toContain('although it has that version now');
});

test('any error that aborts the transaction of a flush, and is caught there, is thrown again at its COMMIT', async () => {
  const { fork } = await setUp();
  const em = fork();
  const caught: unknown[] = [];
  const error = await thrown(() =>
    em.transactional(async (tx) => {
      const [first, second] = await tx.find(Article, {}, { orderBy: { id: 'asc' } });
      first!.title = 'kept?';
      await tx.flush();
      second!.title = 'x'.repeat(300);
      caught.push(await thrown(() => tx.flush()));
      second!.title = 'saved';
    }),
  );
  expect([error]).toEqual(caught);
  expect(await fork().find(Article, {})).toMatchObject([{ title: 'saved' }, { title: 'saved' }]);
});

test('an error that a savepoint has caught does not keep the transaction from its COMMIT', async () => {
  const { fork } = await setUp();
  await fork().transactional(async (tx) => {
    const articles = await tx.find(Article, {}, { orderBy: { id: 'asc' } });
    articles.forEach((article) => (article.title = 'x'.repeat(300)));
    await thrown(() => tx.flush());
    articles.forEach((article) => (article.title = 'kept'));
  });
  expect(await fork().find(Article, {})).toMatchObject([{ title: 'kept' }, { title: 'kept' }]);
});

test('statements are sent by the simple protocol: nothing that a pooler between transactions would have to remember', async () => {
  const messages: string[] = [];
  const { orm, fork } = await open(postgresql, [Article], {
    driverOptions: {
      onPoolCreated(pool: EventEmitter) {
        pool.on('connect', ({ connection }: { connection: Record<string, (...args: unknown[]) => unknown> }) => {
          for (const message of ['query', 'parse', 'bind', 'execute']) {
            const send = connection[message]!;
            connection[message] = (...args) => {
              messages.push(message);
              return send.apply(connection, args);
            };
          }
        });
      },
    },
  });
  await fork().transactional(async (tx) => {
    const created = [3, 4, 5].map((id) => tx.create(Article, { id, title: 'new' }));
    await tx.flush();
    created.forEach((article) => (article.title = 'changed'));
    await tx.flush();
    created.slice(1).forEach((article) => tx.remove(article));
  });
  const em = fork();
  em.assign(em.getReference(Article, 3), { version: 2 });
  await em.flush();
  (await em.findOneOrFail(Article, 3)).title = 'again';
  await em.flush();
  expect(messages.length).toBeGreaterThan(8);
  expect(new Set(messages)).toEqual(new Set(['query']));
  const [row] = await em.getConnection().execute<{ count: string }[]>('select count(*) from pg_prepared_statements');
  expect([orm.config.get('pool'), Number(row!.count)]).toEqual([{}, 0]);
});

for (const how of ['a query', 'a query in a nested transaction'] as const) {
  test(`an error of ${how} that is caught: COMMIT does not report what PostgreSQL rolls back in silence`, async () => {
    const { fork } = await setUp();
    const em = fork();
    const article = await em.findOneOrFail(Article, 1);
    const fail = (tx: typeof em) => tx.getConnection().execute('select 1 / 0', [], 'all', tx.getTransactionContext());
    const work = async (tx: typeof em) => {
      article.title = 'ours';
      await tx.flush();
      await thrown(() => (how === 'a query' ? fail(tx) : tx.transactional((inner) => fail(inner))));
    };
    if (how === 'a query') {
      expect(await thrown(() => em.transactional(work))).toMatchObject({ code: '22012' });
      expect(article).toMatchObject({ title: 'saved', version: 1 });
      expect(await fork().findOneOrFail(Article, 1)).toMatchObject({ title: 'saved', version: 1 });
    } else {
      await em.transactional(work);
      expect(await fork().findOneOrFail(Article, 1)).toMatchObject({ title: 'ours', version: 2 });
    }
  });
}
