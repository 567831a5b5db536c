/** A connection that dies in a transaction goes back to its pool, where Kysely keeps it for ever (kysely#1990). */
import { setTimeout } from 'node:timers/promises';
import type { AbstractSqlConnection } from '@mikro-orm/sql';

/** May a connection go back to its pool after this error? */
type MayRelease = (error: unknown) => boolean;

type Client = ReturnType<AbstractSqlConnection['getClient']>;
type TransactionBuilder = ReturnType<Client['startTransaction']>;
type ControlledTransaction = Awaited<ReturnType<TransactionBuilder['execute']>>;

/** How to give up the connection of a transaction that cannot be ended. */
const leases = new WeakMap<object, () => void>();

/**
 * Kysely keeps a connection for ever when BEGIN or ROLLBACK fails (kysely#1990), until none is left. Here it is borrowed
 * around the transaction, and goes back to the pool, which drops it when it is dead.
 */
function borrowing(
  connection: AbstractSqlConnection,
  mayRelease: MayRelease,
  start = (db: Client): TransactionBuilder => db.startTransaction(),
) {
  const and = (set: (builder: TransactionBuilder) => TransactionBuilder): unknown =>
    borrowing(connection, mayRelease, (db) => set(start(db)));
  return {
    setIsolationLevel: (level: never) => and((builder) => builder.setIsolationLevel(level)),
    setAccessMode: (mode: never) => and((builder) => builder.setAccessMode(mode)),
    execute: () =>
      new Promise<ControlledTransaction>((resolve, reject) => {
        const lease = connection.getClient().connection();
        const over = lease.execute(async (outer) => {
          try {
            const begin = async (db: Client) => [db, await start(db).execute()] as const;
            const [db, transaction] = await outer.connection().execute(begin);
            const givenUp = new Promise<void>((end) => leases.set(transaction, end));
            resolve(transaction);
            // the connection is provided again as soon as the transaction has ended
            await Promise.race([givenUp, db.getExecutor().provideConnection(async () => {})]);
          } catch (error) {
            // it may have begun all the same
            const rollback = () => connection.execute('rollback', [], 'run', outer as never);
            const isFree = await rollsBack(rollback, mayRelease);
            reject(error);
            await (isFree || keepRollingBack(rollback, mayRelease));
          }
        });
        over.catch(reject);
      }),
  };
}

/** Rolls back, twice at most. Returns whether the connection may go back to its pool: it is rolled back, or dead. */
export async function rollsBack(rollback: () => Promise<unknown>, mayRelease: MayRelease): Promise<boolean> {
  const again = (error: unknown) => mayRelease(error) || rollback().then(() => true, mayRelease);
  return rollback().then(() => true, again);
}

/** Rolls back until it works or the connection is dead: a node without quorum refuses every statement, and comes back. */
export async function keepRollingBack(rollback: () => Promise<unknown>, mayRelease: MayRelease): Promise<void> {
  let pause = 50;
  do {
    pause = Math.min(2 * pause, 5_000);
    await setTimeout(pause, undefined, { ref: false });
  } while (!(await rollsBack(rollback, mayRelease)));
}

/** The connection itself, but for the one call by which it opens a transaction. */
export function borrower(connection: AbstractSqlConnection, mayRelease: MayRelease): AbstractSqlConnection {
  const getClient = () => ({ startTransaction: () => borrowing(connection, mayRelease) });
  return new Proxy(connection, {
    get(target, key) {
      const value: unknown = key === 'getClient' ? getClient : Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** Gives up the connection of a transaction that is over, although nothing says so. */
export function giveUp(transaction: object): void {
  leases.get(transaction)?.();
}
