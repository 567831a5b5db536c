/** What MariaDB and MySQL do to transactions: snapshots, deadlocks that end them without a word, settings of a session. */
import { IsolationLevel, LockMode, type Options, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager, Kysely } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, inject, test } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import { open, thrown } from './harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

const setUp = async (more: Partial<Options> = {}) => {
  const db = await open(mariaDb, [Article], more);
  const seed = db.fork();
  [1, 2, 3, 4].forEach((id) => seed.create(Article, { id, title: 'saved' }));
  await seed.flush();
  const rival = async (id: number) => {
    const theirs = db.fork();
    (await theirs.findOneOrFail(Article, id)).title += ' theirs';
    await theirs.flush();
  };
  const titles = async () => (await db.fork().find(Article, {}, { orderBy: { id: 'asc' } })).map(({ title }) => title);
  return { ...db, rival, titles };
};

const run = (em: EntityManager, sql: string) => em.getConnection().execute(sql, [], 'run', em.getTransactionContext());

describe.skipIf(!inject('mariaDbUrl'))('MariaDB', () => {
  for (const isolationLevel of [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ]) {
    for (const ids of [[1], [1, 2, 3]]) {
      test(`${isolationLevel}: a rival whom the snapshot does not show is a conflict, ${ids.length} rows`, async () => {
        const { fork, rival, titles } = await setUp();
        for (const operation of ['update', 'delete', 'check'] as const) {
          const before = await titles();
          await fork().transactional(
            async (tx) => {
              const articles = await tx.find(Article, ids);
              const { version } = articles[0]!;
              await rival(1);
              for (const article of articles) {
                if (operation === 'update') {
                  article.title = 'ours';
                } else if (operation === 'delete') {
                  tx.remove(article);
                } else {
                  tx.clear();
                  tx.assign(tx.getReference(Article, 1), { version });
                }
              }
              expect(await thrown(() => tx.flush())).toMatchObject({
                constructor: ConcurrentUpdate,
                conflicts: [{ primaryKey: 1, operation, expected: version, actual: version + 1 }],
              });
              tx.clear();
            },
            { isolationLevel },
          );
          expect(await titles()).toEqual([`${before[0]} theirs`, ...before.slice(1)]);
        }
      });
    }
  }

  test('a batch finds its rows by primary key, table first: so they are locked in key order', async () => {
    const { fork, sent } = await setUp();
    await run(fork(), 'insert into article (id, title) select 1000 + seq, 1 from seq_1_to_5000');
    for (const ids of [[3, 1, 2], Array.from({ length: 300 }, (_, i) => 1001 + i * 15)]) {
      const em = fork();
      (await em.find(Article, ids)).forEach((article) => (article.title = 'ours'));
      const [update] = (await sent(() => em.flush())).filter((sql) => sql.startsWith('update'));
      const plan = await fork().getConnection().execute<{ table: string; key: string }[]>(`explain ${update}`);
      expect(plan[0]).toMatchObject({ table: '_t', key: 'PRIMARY', type: 'range' });
    }
  });

  // the rows are read twice: to lock all of them, and to delete them
  for (const isolationLevel of [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ]) {
    for (const sending of ['without a transaction', 'in a transaction']) {
      test(`${isolationLevel}, ${sending}: a stale DELETE, and one of most of a table, lock no row out of order`, async () => {
        const { fork, rival, titles } = await setUp({
          onCreateConnection: async (connection: unknown) => {
            const { executeQuery } = connection as { executeQuery(query: unknown): Promise<unknown> };
            const sql = `set session transaction isolation level ${isolationLevel}`;
            await executeQuery.call(connection, { sql, parameters: [], query: { kind: 'RawNode' } });
          },
          ...(sending === 'in a transaction' && { subscribers: [{ beforeTransactionStart() {} } as never] }),
        });
        const waiting = async (count: number) => {
          // of `innodb_trx` there is one copy for everybody, which is not renewed while somebody reads it
          const sql =
            'select count(*) as n from information_schema.processlist ' +
            "where db = database() and command = 'Query' and id <> connection_id() and time_ms > 100";
          for (let n = -1; n < count;) {
            n = Number((await fork().getConnection().execute<{ n: number }[]>(sql))[0]!.n);
          }
        };
        await fork().insertMany(
          Article,
          Array.from({ length: 200 }, (_, i) => ({ id: i + 5, title: 'saved' })),
        );
        for (const isStale of [true, false]) {
          const [deleting, updating, blocking] = [fork(), fork(), fork()];
          deleting.remove(await deleting.find(Article, { id: { $ne: isStale ? 0 : 2 } }));
          await (isStale && rival(2));
          (await updating.find(Article, [2, 3])).forEach((article) => (article.title += ' ours'));
          await blocking.begin();
          await run(blocking, 'select * from article where id = 4 for update');
          const deleted = deleting.flush().catch((error: unknown) => error);
          await waiting(1);
          const updated = updating.flush().catch((error: unknown) => error);
          await waiting(2);
          await blocking.rollback();
          const outcomes = [await deleted, await updated];
          expect(outcomes.map((error) => error instanceof ConcurrentUpdate)).toEqual([isStale, !isStale]);
          expect(outcomes.map((error) => (error as Error | undefined)?.cause)).toEqual([undefined, undefined]);
        }
        expect(await titles()).toEqual(['saved theirs ours']);
      });
    }
  }

  test('a row that changed since the snapshot (1020) is a lost race', async () => {
    const { fork, rival, titles } = await setUp();
    const em = fork();
    const error = await thrown(() =>
      em.transactional(async (tx) => {
        await run(tx, 'set innodb_snapshot_isolation = on');
        const articles = await tx.find(Article, [1, 2]);
        await rival(1);
        articles.forEach((article) => (article.title = 'ours'));
        const inner = await thrown(() => tx.flush());
        expect(inner).toBeInstanceOf(ConcurrentUpdate);
        expect(articles.map((article) => article.version)).toEqual([1, 1]);
        throw inner;
      }),
    );
    expect(error).toMatchObject({ conflicts: [], cause: { errno: 1020 } });
    expect(await titles()).toEqual(['saved theirs', 'saved', 'saved', 'saved']);
  });

  for (const nested of [false, true]) {
    for (const ids of [[2], [2, 3]]) {
      const name = `${ids.length === 1 ? 'one row' : 'a batch'}${nested ? ', nested' : ''}`;
      test(`a deadlock (1213) ends the transaction: nothing of it is saved, although it is caught (${name})`, async () => {
        const { fork, titles } = await setUp();
        const em = fork();
        const rival = fork();
        await rival.begin();
        // the server chooses the transaction that wrote less
        await run(rival, 'update article set title = concat(title, 1) where id in (2, 3)');
        await run(rival, 'insert into article (id, title) select 100 + seq, 1 from seq_1_to_200');
        let waiting: Promise<unknown> | undefined;
        const failed = await thrown(() =>
          em.transactional(async (tx) => {
            const work = async (inner: EntityManager) => {
              (await inner.findOneOrFail(Article, 4)).title = 'first';
              await inner.flush();
              waiting = run(rival, 'update article set title = 9 where id = 4');
              const articles = await inner.find(Article, ids);
              articles.forEach((article) => (article.title = 'second'));
              const error = await thrown(() => inner.flush());
              expect(error).toMatchObject({ constructor: ConcurrentUpdate, cause: { errno: 1213 } });
              if (nested) {
                throw error;
              }
            };
            await (nested ? thrown(() => tx.transactional(work)) : work(tx));
            // each of these would be saved by itself: no transaction is left
            tx.clear();
            await run(tx, "update article set title = 'alone' where id = 1");
            (await tx.findOneOrFail(Article, 1)).title = 'alone too';
            await tx.flush();
          }),
        );
        expect(failed).toBeInstanceOf(ConcurrentUpdate);
        await waiting;
        await rival.rollback();
        expect((await titles()).slice(0, 4)).toEqual(['saved', 'saved', 'saved', 'saved']);
        // the connection is as good as new
        const again = fork();
        (await again.findOneOrFail(Article, 1)).title = 'again';
        await again.flush();
        expect((await titles())[0]).toBe('again');
      });
    }
  }

  for (const how of [
    'em.find with a lock',
    'em.nativeUpdate',
    'a query builder',
    'Kysely',
    'a stream',
    'a savepoint',
  ] as const) {
    test(`a deadlock (1213) that ${how} learns of, and that is caught: nothing before it is lost in silence, nothing after it is saved alone`, async () => {
      const { fork, titles } = await setUp();
      const rival = fork();
      await rival.begin();
      await run(rival, 'update article set title = concat(title, 1) where id in (2, 3)');
      await run(rival, 'insert into article (id, title) select 100 + seq, 1 from seq_1_to_200');
      let waiting: Promise<unknown> | undefined;
      const statements: Record<typeof how, (tx: EntityManager) => Promise<unknown>> = {
        'em.find with a lock': (tx) => tx.find(Article, [2], { lockMode: LockMode.PESSIMISTIC_WRITE, refresh: true }),
        'em.nativeUpdate': (tx) => tx.nativeUpdate(Article, 2, { title: 'ours' }),
        'a query builder': (tx) => tx.createQueryBuilder(Article).update({ title: 'ours' }).where({ id: 2 }).execute(),
        Kysely: (tx) =>
          (tx.getKysely() as unknown as Kysely<{ article: { id: number; title: string } }>)
            .updateTable('article')
            .set({ title: 'ours' })
            .where('id', '=', 2)
            .execute(),
        'a stream': async (tx) => {
          const qb = tx.createQueryBuilder(Article).where({ id: 2 }).setLockMode(LockMode.PESSIMISTIC_WRITE);
          for await (const _ of qb.stream()) {
            // read to the end
          }
        },
        'a savepoint': (tx) => tx.transactional((inner) => inner.nativeUpdate(Article, 2, { title: 'ours' })),
      };
      const failed = await thrown(() =>
        fork().transactional(async (tx) => {
          (await tx.findOneOrFail(Article, 4)).title = 'first';
          await tx.flush();
          waiting = run(rival, 'update article set title = 9 where id = 4');
          expect(await thrown(() => statements[how](tx))).toMatchObject({ errno: 1213 });
          tx.clear();
          await run(tx, "update article set title = 'alone' where id = 1");
          const later = await tx.findOneOrFail(Article, 1);
          later.title = 'alone too';
          expect(await thrown(() => tx.flush())).toBeInstanceOf(ConcurrentUpdate);
        }),
      );
      expect(failed).toMatchObject({ constructor: ConcurrentUpdate, cause: { errno: 1213 } });
      await waiting;
      await rival.rollback();
      expect((await titles()).slice(0, 4)).toEqual(['saved', 'saved', 'saved', 'saved']);
    });
  }

  test('waiting too long for a lock (1205) is no lost race; the rest of the transaction can be saved', async () => {
    const { fork, titles } = await setUp();
    const rival = fork();
    await rival.begin();
    await run(rival, 'update article set title = 9 where id = 2');
    await fork().transactional(async (tx) => {
      await run(tx, 'set innodb_lock_wait_timeout = 1');
      const [one, two] = await tx.find(Article, [1, 2]);
      one!.title = 'ours';
      await tx.flush();
      two!.title = 'ours';
      const error = await thrown(() => tx.flush());
      expect(error.name).toBe('LockWaitTimeoutException');
      expect(two!.version).toBe(1);
      tx.clear();
    });
    await rival.rollback();
    expect(await titles()).toEqual(['ours', 'saved', 'saved', 'saved']);
  });

  test('a session that does not commit by itself: a flush of one row does', async () => {
    const { fork, titles } = await setUp({ pool: { min: 0, max: 1 } });
    const em = fork();
    await run(em, 'set autocommit = 0');
    (await em.findOneOrFail(Article, 1)).title = 'ours';
    await em.flush();
    await run(em, 'rollback');
    expect((await titles())[0]).toBe('ours');
  });

  test('rows that a trigger refuses are not lost in silence', async () => {
    const { fork, titles } = await setUp();
    await run(
      fork(),
      'create trigger keep before update on article for each row set new.version = if(old.id = 2, 1, new.version)',
    );
    const em = fork();
    (await em.find(Article, [1, 2])).forEach((article) => (article.title = 'ours'));
    await em.flush();
    expect(await titles()).toEqual(['ours', 'ours', 'saved', 'saved']);
    // the trigger took the bump back, so the next flush is refused
    (await em.findOneOrFail(Article, 2)).title = 'again';
    expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 2, expected: 2, actual: 1 }] });
  });
});
