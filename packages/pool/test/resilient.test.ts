/** What resilient() wraps, and what it stands on: each test names it, so that a Kysely that needs no mending is noticed. */
import { type Configuration, MikroORM } from '@mikro-orm/core';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { type DriverClass, resilient } from '@mikro-ool/pool';
import { expect, onTestFinished, test } from 'vitest';
import { isDead } from '../src/dead.ts';

async function connect(driver: typeof SqliteDriver): Promise<AbstractSqlConnection> {
  const options = { driver, dbName: ':memory:', entities: [], discovery: { warnWhenNoEntities: false } };
  const orm = await MikroORM.init(options);
  onTestFinished(() => orm.close());
  return orm.em.getConnection() as AbstractSqlConnection;
}

test('the class is called what it wraps, and is wrapped once', () => {
  const Driver = resilient(SqliteDriver);
  expect(Driver.name).toBe('SqliteDriver');
  expect(resilient(Driver)).toBe(Driver);
  const Both = versioned(Driver);
  expect(resilient(Both)).toBe(Both);
  expect(versioned(resilient(versioned(SqliteDriver))).name).toBe('SqliteDriver');
});

test('something that is no SQL driver class is refused', () => {
  for (const wrong of [undefined, {}, Array, MikroORM]) {
    expect(() => resilient(wrong as unknown as DriverClass)).toThrow(/resilient\(\) wraps a driver class of MikroORM/);
  }
});

test('a MikroORM whose connections have no client is refused', async () => {
  class Other extends SqliteDriver {
    constructor(config: Configuration) {
      super(config);
      Object.assign(this.connection, { getClient: undefined });
    }
  }
  await expect(connect(resilient(Other))).rejects.toThrow(/resilient\(\) cannot mend the pool .* have no getClient/);
});

test('Kysely keeps the connection of a transaction whose BEGIN fails: @mikro-ool/pool is needed', async () => {
  const after = async (connection: AbstractSqlConnection) => {
    await connection.execute('begin');
    await expect(connection.begin()).rejects.toThrow('within a transaction');
    const later = connection.execute('select 1').then(() => 'given back');
    return Promise.race([later, new Promise((resolve) => setImmediate(resolve, 'kept'))]);
  };
  expect(await after(await connect(SqliteDriver))).toBe('kept');
  expect(await after(await connect(resilient(SqliteDriver)))).toBe('given back');
});

test('MikroORM begins by this.getClient().startTransaction() and ends by transaction.rollback()', async () => {
  const connection = await connect(SqliteDriver);
  const calls: string[] = [];
  const spy = (target: object, method: string) => {
    const original = Reflect.get(target, method) as (...args: unknown[]) => unknown;
    const noted = (...args: unknown[]) => {
      calls.push(method);
      return original.apply(target, args);
    };
    Object.assign(target, { [method]: noted });
  };
  await connection.execute('select 1');
  spy(connection.getClient(), 'startTransaction');
  spy(connection, 'getClient');
  const transaction = await connection.begin();
  spy(transaction, 'rollback');
  await connection.rollback(transaction);
  expect(calls).toEqual(['getClient', 'startTransaction', 'rollback']);
});

test('which errors say that a connection is dead', () => {
  const dead = [
    { message: 'Client has encountered a connection error and is not queryable' },
    { message: 'Client was closed and is not queryable' },
    { message: 'Connection terminated unexpectedly' },
    { message: 'Connection terminated' },
    { message: "Can't add new command when connection is in closed state" },
    ...['08006', '08P01', '57P01', '57P02', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT'].map((code) => ({ code })),
    ...['PROTOCOL_CONNECTION_LOST', 'PROTOCOL_SEQUENCE_TIMEOUT'].map((code) => ({ code })),
    ...['ER_SERVER_SHUTDOWN', 'ER_CONNECTION_KILLED'].map((code) => ({ code })),
  ];
  const alive = [
    ...['40001', '40003', '23505', '57014', '0A000', 'ECONNREFUSED', 'ER_LOCK_DEADLOCK', 'ER_UNKNOWN_COM_ERROR'].map(
      (code) => ({ code }),
    ),
    { message: 'Query read timeout' },
    { message: 'Connection terminated due to connection timeout' },
    {},
    undefined,
  ];
  expect(dead.filter((error) => !isDead(error))).toEqual([]);
  expect(alive.filter(isDead)).toEqual([]);
});
