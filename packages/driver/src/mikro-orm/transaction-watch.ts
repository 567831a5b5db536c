/**
 * Statements of a transaction that fail, whoever sends them: MikroORM, a query builder, Kysely, a savepoint. There are
 * errors by which a database ends the transaction without a word, and what follows would be committed by itself.
 */
import type { Transaction } from '@mikro-orm/core';

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

/** How to stop watching. */
const watched = new WeakMap<object, () => void>();

/** Watches the connection of a transaction until `unwatch()`. */
export async function watch(transaction: Transaction, told: Told): Promise<void> {
  const { provideConnection } = transaction.getExecutor();
  await provideConnection.call(transaction.getExecutor(), async (provided: unknown) => {
    const connection = provided as Connection;
    const { executeQuery, streamQuery } = connection;
    const send: Send = (sql) =>
      executeQuery.call(connection, { sql, parameters: [], query: { kind: 'RawNode' } } as Query);
    const tell = async (error: unknown): Promise<never> => {
      await told(error, send);
      throw error;
    };
    const stop = [
      override(connection, 'executeQuery', (query, ...rest) =>
        executeQuery.call(connection, query, ...rest).catch(tell),
      ),
      override(connection, 'streamQuery', async function* (query, ...rest) {
        try {
          yield* streamQuery.call(connection, query, ...rest);
        } catch (error) {
          await tell(error);
        }
      }),
    ];
    watched.set(transaction, () => stop.forEach((one) => one()));
  });
}

/** The transaction is about to end, which is told by other means. */
export function unwatch(transaction: object): void {
  watched.get(transaction)?.();
  watched.delete(transaction);
}

/** Returns how to take it back: what is below may be a method of its class, or of whoever wrapped it before. */
function override<Name extends keyof Connection>(target: Connection, name: Name, method: Connection[Name]): () => void {
  const before = Object.getOwnPropertyDescriptor(target, name);
  Object.defineProperty(target, name, { value: method, configurable: true, writable: true });
  return () => {
    if (before) {
      Object.defineProperty(target, name, before);
    } else {
      delete (target as Partial<Connection>)[name];
    }
  };
}
