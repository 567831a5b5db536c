/**
 * A driver whose pool stays whole.
 *
 *   export default defineConfig({ driver: resilient(PostgreSqlDriver), entities: [Article] });
 *   export default defineConfig({ driver: versioned(resilient(PostgreSqlDriver)), entities: [Article] });
 *
 * MikroORM 7.2 and Kysely 0.29 keep a connection that dies inside a transaction, and a pool of which every connection has
 * died once has none left: each query waits for ever. Nothing else changes, and nothing more is sent.
 */
import { inspect } from 'node:util';
import { type Configuration, type Connection, type DatabaseDriver, Utils } from '@mikro-orm/core';
import type { AbstractSqlConnection, AbstractSqlDriver } from '@mikro-orm/sql';
import { mend } from './transaction.ts';

/** A MikroORM SQL driver class; of any copy of `@mikro-orm/sql`, whose types are not needed here. */
export type DriverClass = new (
  config: Configuration,
) => DatabaseDriver<Connection> & { createQueryBuilder(...args: never[]): unknown };

type SqlDriverClass = new (config: Configuration) => AbstractSqlDriver;

/** What is overridden, of a connection of MikroORM. */
const REQUIRED = ['getClient', 'rollback'] as const;

/**
 * Wraps a MikroORM SQL driver class, so that a connection that dies inside a transaction goes back to its pool, which
 * drops it.
 *
 * @param Base the driver class, `PostgreSqlDriver` for instance; or one that `versioned()` has wrapped, or will wrap
 * @returns a driver class of the same type and name, for the `driver` option of the MikroORM config
 * @throws {TypeError} when it is something else
 * @see https://github.com/kysely-org/kysely/issues/1990
 */
export function resilient<Driver extends DriverClass>(Base: Driver): Driver {
  if (!isSqlDriver(Base)) {
    throw new TypeError(
      `resilient() wraps a driver class of MikroORM for an SQL database, like PostgreSqlDriver of ` +
        `'@mikro-orm/postgresql', but it was given ${inspect(Base)}. Is it imported by the right name, and from the ` +
        `right package?`,
    );
  }
  if (isWrapped(Base)) {
    return Base;
  }
  class ResilientDriver extends (Base as unknown as SqlDriverClass) {
    constructor(config: Configuration) {
      super(config);
      hookConnection(this.connection);
    }
  }
  // the CLI and messages go by the name
  Object.defineProperty(ResilientDriver, 'name', { value: Base.name });
  wrapped.add(ResilientDriver);
  return ResilientDriver as unknown as Driver;
}

function hookConnection(connection: AbstractSqlConnection): void {
  const missing = REQUIRED.filter((method) => typeof connection?.[method] !== 'function');
  if (missing.length > 0) {
    throw new Error(
      `resilient() cannot mend the pool of MikroORM ${Utils.getORMVersion()}, whose connections have no ` +
        `${missing.join(', no ')}. Install a newer @mikro-ool/pool, or leave resilient() out.`,
    );
  }
  const { getClient, rollback } = connection;
  connection.getClient = () => mend(getClient.call(connection)) as never;
  connection.rollback = async (transaction, ...rest) => {
    try {
      await rollback.call(connection, transaction, ...rest);
    } catch (error) {
      // a listener may have stopped it before anything was sent
      if (!('savepointName' in transaction) && !transaction.isCommitted && !transaction.isRolledBack) {
        await transaction
          .rollback()
          .execute()
          .catch(() => {});
      }
      throw error;
    }
  };
}

/** The classes that were made here. */
const wrapped = new WeakSet<object>();

/** Is it wrapped already, or does it extend a class that is? */
function isWrapped(Class: object | null): boolean {
  return Class !== null && (wrapped.has(Class) || isWrapped(Object.getPrototypeOf(Class)));
}

/** By its methods: there may be several copies of a package. */
function isSqlDriver(Class: unknown): boolean {
  const methods: unknown = typeof Class === 'function' ? Class.prototype : undefined;
  return ['nativeUpdate', 'createQueryBuilder', 'getConnection'].every(
    (name) => typeof (methods as Record<string, unknown> | undefined)?.[name] === 'function',
  );
}
