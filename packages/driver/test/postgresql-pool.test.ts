/** A connection that dies inside a transaction goes back to its pool, which drops it: the next query does not wait for ever. */
import { type EntityManager, type Options, defineEntity, p } from '@mikro-orm/core';
import type { SqlEntityManager } from '@mikro-orm/sql';
import { CommitOutcomeUnknown, ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { open, thrown } from './harness.ts';

const Item = defineEntity({
  name: 'Item',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

const pid = async (em: EntityManager): Promise<number> => {
  const sql = em as unknown as SqlEntityManager;
  const [row] = await sql.execute<{ pid: number }[]>('select pg_backend_pid() as pid');
  return row!.pid;
};

describe.each([1, 2])('a pool of %i', (max) => {
  const setUp = async (more: Partial<Options> = {}) => {
    const db = await open(postgresql, [Item], { pool: { min: 0, max }, ...more });
    const seed = db.fork();
    [1, 2, 3].forEach((id) => seed.create(Item, { id }));
    await seed.flush();
    const pool = (await db.fork().getConnection().getNativeClient()) as { totalCount: number };
    /** Ends its own connection, so that no other one is needed, and waits until pg has noticed. */
    const die = async (em: EntityManager) => {
      for (const sql of ['select pg_terminate_backend(pg_backend_pid())', 'select 1']) {
        await thrown(() => (em as unknown as SqlEntityManager).execute(sql));
      }
    };
    /** As many transactions as the pool has connections, at once: each needs one that works. */
    const works = async () => {
      for (let i = 0; i < 2; i++) {
        const pids = await Promise.all(Array.from({ length: max }, () => db.fork().transactional(pid)));
        expect(new Set(pids).size).toBe(max);
        expect(pool.totalCount).toBe(max);
      }
    };
    return { ...db, die, works };
  };

  test('the statement of a transaction dies: every time its error, and the pool is whole', async () => {
    const { fork, die, works } = await setUp();
    for (let i = 0; i < 3; i++) {
      const error = await thrown(() =>
        fork().transactional(async (tx) => {
          const items = await tx.find(Item, {});
          items.forEach((item) => item.n++);
          await die(tx);
          await tx.flush();
        }),
      );
      expect(error).not.toBeInstanceOf(ConcurrentUpdate);
      expect(error).not.toBeInstanceOf(CommitOutcomeUnknown);
    }
    await works();
    expect(await fork().find(Item, {})).toMatchObject([
      { n: 0, version: 1 },
      { n: 0, version: 1 },
      { n: 0, version: 1 },
    ]);
  });

  test('it is dead before the COMMIT is sent: rolled back for sure, memory too', async () => {
    const { fork, die, works } = await setUp();
    for (let i = 0; i < 3; i++) {
      const em = fork();
      const [first] = await em.find(Item, {});
      const error = await thrown(() =>
        em.transactional(async (tx) => {
          first!.n++;
          await tx.flush();
          await die(tx);
        }),
      );
      expect(error).not.toBeInstanceOf(CommitOutcomeUnknown);
      expect(first!.version).toBe(1);
    }
    await works();
  });

  test('it dies under a BEGIN and under the ROLLBACK', async () => {
    let dying = '';
    const { fork, works } = await setUp({
      onCreateConnection: async (connection) => {
        const { executeQuery } = connection as { executeQuery(query: { sql: string }): Promise<unknown> };
        Object.assign(connection as object, {
          executeQuery: (query: { sql: string }) =>
            executeQuery.call(
              connection,
              query.sql === dying ? { ...query, sql: 'select pg_terminate_backend(pg_backend_pid())' } : query,
            ),
        });
      },
    });
    for (dying of ['begin', 'rollback', 'begin', 'rollback']) {
      const error = await thrown(() =>
        fork().transactional(async () => {
          throw new Error('changed my mind');
        }),
      );
      expect(error.message).toMatch(dying === 'begin' ? /terminating connection/ : /changed my mind/);
    }
    dying = '';
    await works();
  });

  test('a listener that fails before COMMIT or ROLLBACK is sent takes no connection along', async () => {
    const { orm, works } = await setUp();
    for (const event of ['beforeTransactionCommit', 'beforeTransactionRollback', 'afterTransactionRollback']) {
      const em = orm.em.fork({ freshEventManager: true });
      em.getEventManager().registerSubscriber({
        [event]: () => {
          throw Object.assign(new Error('changed my mind'), { code: 'ECONNRESET' });
        },
      });
      const [first] = await em.find(Item, {});
      const error = await thrown(() =>
        em.transactional(async (tx) => {
          first!.n++;
          await tx.flush();
          if (event !== 'beforeTransactionCommit') {
            throw new Error('changed my mind');
          }
        }),
      );
      // an error of a listener says nothing of the COMMIT, which was not sent
      expect(error.message).toBe('changed my mind');
      expect(first!.version).toBe(1);
    }
    await works();
  });

  test('options of transactions are passed on', async () => {
    const { fork } = await setUp();
    const show = (name: string) => async (tx: EntityManager) => {
      const [row] = await (tx as unknown as SqlEntityManager).execute<Record<string, string>[]>(`show ${name}`);
      return Object.values(row!)[0];
    };
    const options = { isolationLevel: 'serializable', readOnly: true } as never;
    expect(await fork().transactional(show('transaction_isolation'), options)).toBe('serializable');
    expect(await fork().transactional(show('transaction_read_only'), options)).toBe('on');
    expect(await fork().transactional(show('transaction_read_only'))).toBe('off');
  });

  test('a query in a listener after COMMIT has the connection', async () => {
    const { orm, fork } = await setUp();
    const seen: number[] = [];
    const em = orm.em.fork({ freshEventManager: true });
    em.getEventManager().registerSubscriber({
      afterTransactionCommit: async () => void seen.push((await fork().find(Item, {})).length),
    });
    await em.transactional(async (tx) => void (await tx.find(Item, {})));
    expect(seen).toEqual([3]);
  });
});
