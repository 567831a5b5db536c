/** Races that the server decides by aborting a transaction are lost races like any other. */
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
