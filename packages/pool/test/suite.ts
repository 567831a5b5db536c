/**
 * A connection that dies inside a transaction goes back to its pool, which drops it: the next query does not wait for
 * ever. With the lock, without it, and whichever of the two is wrapped around the other.
 */
import { type EntityManager, type Options, defineEntity, p } from '@mikro-orm/core';
import type { SqlEntityManager } from '@mikro-orm/sql';
import { CommitOutcomeUnknown, ConcurrentUpdate } from '@mikro-ool/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, testWhere, thrown } from '../../driver/test/harness.ts';

/** A version that the lock adopts, and that MikroORM's own checks without it. */
const Item = defineEntity({
  name: 'Item',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.integer().version() },
});

/** What a server needs to be told. */
export interface Server {
  /** Selects the `id` of the own session. */
  readonly ownSession: string;
  /** Ends the own session. */
  readonly endSession: string;
  /** The error of a statement under which that happens. */
  readonly ended: RegExp;
  /** Shows an option of the transaction. */
  readonly options?: Record<'isolation' | 'access', string>;
}

const WRAPPINGS: Record<string, (Driver: DriverClass) => DriverClass> = {
  'versioned(resilient(Driver))': (Driver) => versioned(resilient(Driver)),
  'resilient(versioned(Driver))': (Driver) => resilient(versioned(Driver)),
  'resilient(Driver)': resilient,
};

const cases = Object.entries(WRAPPINGS).flatMap(([name, wrap]) => [1, 2].map((max) => ({ name, wrap, max })));

/** Kysely's connection. */
interface Connection {
  executeQuery(query: { sql: string }): Promise<unknown>;
}

export function pools(driver: TestDriver, server: Server): void {
  describe.each(cases)('$name, a pool of $max', ({ wrap, max }) => {
    // without the lock, memory does not follow the database
    const isLocked = wrap !== WRAPPINGS['resilient(Driver)'];
    const pid = async (em: EntityManager): Promise<number> => {
      const [row] = await (em as unknown as SqlEntityManager).execute<{ id: number }[]>(server.ownSession);
      return row!.id;
    };
    const setUp = async (more: Partial<Options> = {}) => {
      const Driver = wrap(driver.plain as DriverClass) as never;
      const db = await open(driver, [Item], { pool: { min: 0, max }, ...more, driver: Driver });
      const seed = db.fork();
      [1, 2, 3].forEach((id) => seed.create(Item, { id }));
      await seed.flush();
      /** Ends its own connection, so that no other one is needed, and waits until the client has noticed. */
      const die = async (em: EntityManager) => {
        for (const sql of [server.endSession, 'select 1']) {
          await thrown(() => (em as unknown as SqlEntityManager).execute(sql));
        }
      };
      /** As many transactions as the pool has connections, at once: each needs one that works. */
      const works = async () => {
        for (let i = 0; i < 2; i++) {
          const pids = await Promise.all(Array.from({ length: max }, () => db.fork().transactional(pid)));
          expect(new Set(pids).size).toBe(max);
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
        expect(first!.version).toBe(isLocked ? 1 : 2);
      }
      await works();
    });

    test('it dies under a BEGIN and under the ROLLBACK', async () => {
      let dying = '';
      const { fork, works } = await setUp({
        onCreateConnection: async (connection) => {
          const { executeQuery } = connection as Connection;
          Object.assign(connection as object, {
            executeQuery: (query: { sql: string }) =>
              executeQuery.call(connection, query.sql === dying ? { ...query, sql: server.endSession } : query),
          });
        },
      });
      for (dying of ['begin', 'rollback', 'begin', 'rollback']) {
        const error = await thrown(() =>
          fork().transactional(async () => {
            throw new Error('changed my mind');
          }),
        );
        expect(error.message).toMatch(dying === 'begin' ? server.ended : /changed my mind/);
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
        expect(first!.version).toBe(isLocked ? 1 : 2);
      }
      await works();
    });

    testWhere(server.options !== undefined)('options of transactions are passed on', async () => {
      const { fork } = await setUp();
      const show = (name: 'isolation' | 'access') => async (tx: EntityManager) => {
        const sql = server.options![name];
        const [row] = await (tx as unknown as SqlEntityManager).execute<Record<string, string>[]>(sql);
        return Object.values(row!)[0];
      };
      const options = { isolationLevel: 'serializable', readOnly: true } as never;
      expect(await fork().transactional(show('isolation'), options)).toBe('serializable');
      expect(await fork().transactional(show('access'), options)).toBe('on');
      expect(await fork().transactional(show('access'))).toBe('off');
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

    test('a ROLLBACK that is refused comes back as soon as it works', async () => {
      let refused = 0;
      let isRefusing = false;
      const { fork } = await setUp({
        onCreateConnection: async (connection) => {
          const { executeQuery } = connection as Connection;
          let left = 5;
          Object.assign(connection as object, {
            async executeQuery(query: { sql: string }) {
              if (isRefusing && query.sql === 'rollback' && left > 0) {
                left--;
                refused++;
                throw Object.assign(new Error('not yet prepared'), { code: 'ER_UNKNOWN_COM_ERROR', errno: 1047 });
              }
              return executeQuery.call(connection, query);
            },
          });
        },
      });
      isRefusing = true;
      for (let i = 0; i < max; i++) {
        const error = await thrown(() =>
          fork().transactional(async (em) => {
            (await em.findOneOrFail(Item, 1)).n++;
            await em.flush();
            throw new Error('changed my mind');
          }),
        );
        expect(error.message).toBe('changed my mind');
      }
      // they wait for connections that are being rolled back
      await Promise.all(Array.from({ length: max }, () => fork().transactional(pid)));
      expect(refused, 'more than the three at once').toBeGreaterThan(3);
      expect(await fork().findOneOrFail(Item, 1)).toMatchObject({ n: 0, version: 1 });
    });

    test('a connection that went back is not rolled back once more', async () => {
      const { fork, works } = await setUp();
      for (let i = 0; i < 3; i++) {
        const em = fork();
        await em.begin();
        await thrown(() => em.execute(server.endSession));
        await thrown(() => em.rollback());
        // the connection may be another one's by now
        const again = await thrown(() => em.rollback());
        expect(again.message).toMatch(/This transaction is over/);
      }
      await works();
    });
  });
}
