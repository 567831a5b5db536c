/**
 * Statements of a transaction that fail, whoever sends them: MikroORM, a query builder, Kysely, a savepoint. There are
 * errors by which a database ends the transaction without a word, and what follows would be committed by itself.
 */
import type { Transaction } from '@mikro-orm/core';
import { StateOn } from './layers.ts';

interface Query {
  readonly sql: string;
}

/** Kysely's connection. */
interface Connection {
  executeQuery(query: Query, ...rest: unknown[]): Promise<{ rows: unknown[] }>;
  streamQuery(query: Query, ...rest: unknown[]): AsyncIterableIterator<unknown>;
}

/** Sends a statement on the connection of the transaction. */
export type Send = (sql: string) => Promise<{ rows: unknown[] }>;

/** Is told of an error before the one who sent the statement. */
type Told = (error: unknown, send: Send) => Promise<void>;

/** Who is told of what a connection fails at: nobody outside of transactions. */
interface Watcher {
  told?: Told;
}

const watchers = new StateOn<Watcher>();
/** By transaction. */
const watched = new StateOn<{ readonly watcher: Watcher; readonly told: Told }>();

/** Watches the connection of a transaction until `unwatch()`. */
export async function watch(transaction: Transaction, told: Told): Promise<void> {
  await transaction.getExecutor().provideConnection(async (provided: unknown) => {
    const connection = provided as Connection;
    const watcher = hook(connection);
    watcher.told = told;
    watched.give(transaction, { watcher, told });
  });
}

/** The transaction is about to end, which is told by other means. */
export function unwatch(transaction: object): void {
  const known = watched.has(transaction) ? watched.of(transaction) : undefined;
  // the connection may have another transaction by now
  if (known && known.watcher.told === known.told) {
    known.watcher.told = undefined;
  }
}

/** A connection has many transactions, one after the other: it is hooked once. */
function hook(target: Connection): Watcher {
  if (watchers.has(target)) {
    return watchers.of(target);
  }
  const watcher: Watcher = {};
  watchers.give(target, watcher);
  const { executeQuery, streamQuery } = target;
  const send: Send = (sql) => executeQuery.call(target, { sql, parameters: [], query: { kind: 'RawNode' } } as Query);
  const tell = async (error: unknown): Promise<never> => {
    await watcher.told?.(error, send);
    throw error;
  };
  target.executeQuery = (query, ...rest) => {
    const result = executeQuery.call(target, query, ...rest);
    // outside of transactions nothing waits longer: queries that are started at once are sent in the order of their waiting
    return watcher.told ? result.catch(tell) : result;
  };
  target.streamQuery = async function* (query, ...rest) {
    try {
      yield* streamQuery.call(target, query, ...rest);
    } catch (error) {
      await tell(error);
    }
  };
  return watcher;
}
