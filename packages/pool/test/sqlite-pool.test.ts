/** SQLite has one connection, so one that is kept stops everything. */
import { MikroORM, defineEntity, p } from '@mikro-orm/core';
import type { SqlEntityManager } from '@mikro-orm/sql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { describe, expect, onTestFinished, test } from 'vitest';
import { thrown } from '../../driver/test/harness.ts';

const Item = defineEntity({
  name: 'Item',
  properties: { id: p.integer().primary(), n: p.integer(), version: p.integer().version() },
});

const DRIVERS: Record<string, typeof SqliteDriver> = {
  'versioned(resilient(Driver))': versioned(resilient(SqliteDriver)),
  'resilient(versioned(Driver))': resilient(versioned(SqliteDriver)),
  'resilient(Driver)': resilient(SqliteDriver),
};

describe.each(Object.entries(DRIVERS))('%s', (_name, driver) => {
  const setUp = async () => {
    const orm = await MikroORM.init({ driver, dbName: ':memory:', entities: [Item] });
    onTestFinished(() => orm.close());
    await orm.schema.create();
    return { orm, fork: () => orm.em.fork() as SqlEntityManager };
  };

  test('a BEGIN that fails, and a ROLLBACK that has nothing to roll back', async () => {
    const { fork } = await setUp();
    await fork().execute('begin');
    const beginning = await thrown(() => fork().transactional(async () => {}));
    expect(beginning.message).toMatch('within a transaction');
    const rollingBack = await thrown(() =>
      fork().transactional(async (tx) => {
        await tx.execute('rollback');
        throw new Error('changed my mind');
      }),
    );
    expect(rollingBack.message).toBe('changed my mind');
    await fork().transactional(async (tx) => void tx.create(Item, { id: 1, n: 1 }));
    expect(await fork().find(Item, {})).toMatchObject([{ id: 1, n: 1, version: 1 }]);
  });

  test('a listener that fails before ROLLBACK is sent', async () => {
    const { orm, fork } = await setUp();
    const em = orm.em.fork({ freshEventManager: true });
    em.getEventManager().registerSubscriber({
      beforeTransactionRollback: () => {
        throw new Error('not now');
      },
    });
    const error = await thrown(() =>
      em.transactional(async (tx) => {
        tx.create(Item, { id: 1, n: 1 });
        await tx.flush();
        throw new Error('changed my mind');
      }),
    );
    expect(error.message).toBe('changed my mind');
    expect(await fork().find(Item, {})).toEqual([]);
  });
});
