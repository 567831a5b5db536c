/**
 * Transactions of Kysely that give their connection back in the end, also when it dies.
 *
 * Kysely's own keep it for ever when BEGIN or ROLLBACK fails (kysely#1990): until the pool has none left. Here the
 * connection is lent to the transaction, and called back when it is rolled back, or dead, so that the pool drops it.
 * Nothing is sent for it while nothing fails.
 */
import { setTimeout } from 'node:timers/promises';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import { isDead } from './dead.ts';

type Client = ReturnType<AbstractSqlConnection['getClient']>;
type Builder = ReturnType<Client['startTransaction']>;
type Transaction = Awaited<ReturnType<Builder['execute']>>;

/** What is used of Kysely's connection. */
interface Connection {
  executeQuery(query: { sql: string; parameters: unknown[]; query: { kind: string } }): Promise<unknown>;
}

/** Lends a connection. */
type Provide = (use: (connection: Connection) => Promise<unknown>, options?: object) => Promise<unknown>;

/** Rolls back. */
type Rollback = () => Promise<unknown>;

/** A connection that is lent to one transaction. */
class Loan {
  connection: Connection | undefined;
  isEnding = false;
  #callBack!: () => void;
  readonly #calledBack = new Promise<void>((resolve) => (this.#callBack = resolve));

  /** As `provide`, but what is lent may be called back. */
  provide(provide: Provide): Provide {
    return (use, options) =>
      provide((connection) => {
        this.connection = connection;
        return Promise.race([use(connection), this.#calledBack]);
      }, options);
  }

  /**
   * Rolls back what could not be begun or rolled back, and calls the connection back when that is done, or when it may go
   * after the error. Twice at once; then until it works: a node without quorum refuses every statement, and comes back.
   */
  async end(rollback: Rollback, mayGo: (error: unknown) => boolean): Promise<void> {
    this.isEnding = true;
    const isEnded = () => rollback().then(() => true, mayGo);
    if ((await isEnded()) || (await isEnded())) {
      this.#callBack();
    } else {
      void untilTrue(isEnded).then(this.#callBack);
    }
  }
}

async function untilTrue(isDone: () => Promise<boolean>): Promise<void> {
  let pause = 50;
  do {
    pause = Math.min(2 * pause, 5_000);
    await setTimeout(pause, undefined, { ref: false });
  } while (!(await isDone()));
}

const mended = new WeakSet<Client>();

/** Transactions that are started by this client give their connection back. Returns the client. */
export function mend(client: Client): Client {
  if (!mended.has(client)) {
    mended.add(client);
    const { startTransaction } = client;
    client.startTransaction = () => builder(client, (own) => startTransaction.call(own)) as Builder;
  }
  return client;
}

/** What Kysely's builder of a transaction can do. */
function builder(client: Client, start: (own: Client) => Builder) {
  const and = (set: (one: Builder) => Builder): unknown => builder(client, (own) => set(start(own)));
  return {
    setIsolationLevel: (level: never) => and((one) => one.setIsolationLevel(level)),
    setAccessMode: (mode: never) => and((one) => one.setAccessMode(mode)),
    execute: () => begin(client, start),
  };
}

async function begin(client: Client, start: (own: Client) => Builder): Promise<Transaction> {
  const loan = new Loan();
  // a client like this one, with an executor of its own
  const { plugins } = client.getExecutor();
  const own = plugins.reduce((copy: Client, plugin) => copy.withPlugin(plugin), client.withoutPlugins());
  const executor = own.getExecutor() as unknown as { provideConnection: Provide };
  executor.provideConnection = loan.provide(executor.provideConnection.bind(executor));
  // there is nobody else who could have the only one
  const isOnly = client.getExecutor().adapter.supportsMultipleConnections === false;
  try {
    const transaction = await start(own).execute();
    mendRollback(transaction, loan, isOnly);
    return transaction;
  } catch (error) {
    const { connection } = loan;
    if (connection) {
      // it may have begun all the same
      const rollback = () => connection.executeQuery({ sql: 'rollback', parameters: [], query: { kind: 'RawNode' } });
      await loan.end(rollback, (failure) => isOnly || isDead(failure));
    }
    throw error;
  }
}

function mendRollback(transaction: Transaction, loan: Loan, isOnly: boolean): void {
  const { rollback } = transaction;
  const send: Rollback = async () => rollback.call(transaction).execute();
  const execute = async () => {
    if (loan.isEnding) {
      throw new Error(
        'This transaction is over: it could not be rolled back, and its connection goes back to the pool',
      );
    }
    try {
      await send();
    } catch (error) {
      if (!transaction.isCommitted && !transaction.isRolledBack) {
        // the first may only have told of the end of the connection
        await loan.end(send, (failure) => isOnly || isDead(failure));
      }
      throw error;
    }
  };
  transaction.rollback = () => ({ execute }) as never;
}
