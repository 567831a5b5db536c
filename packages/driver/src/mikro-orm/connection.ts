/** Transactions and savepoints, for memory to follow: events miss a COMMIT that fails, and subscribers are the user's. */
import type { EntityManager, Transaction } from '@mikro-orm/core';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { doubt } from './doubt.ts';
import { flushingIn } from './flush-state.ts';
import { unwatch, watch } from './transaction-watch.ts';

/**
 * Hooks the transactions of a connection: events miss a COMMIT that fails, and subscribers are the user's. A flush opens
 * its transaction here, too, and nothing else tells it not to.
 */
export function hookTransactions(connection: AbstractSqlConnection, log: TransactionLog): void {
  const { begin, commit, rollback, transactional } = connection;
  connection.transactional = async (work, options = {}) => {
    const { em } = (options.eventBroadcaster ?? {}) as { em?: EntityManager };
    const flush = em && flushingIn(em);
    const inTransaction = () => transactional.call(connection, work, options);
    const isOneStatement = await flush?.isOneStatement();
    return (
      isOneStatement ? flush!.withoutTransaction(() => work(undefined as never), inTransaction) : inTransaction()
    ) as never;
  };
  connection.begin = async (options) => {
    if (options?.ctx) {
      await log.beginning(options.ctx);
      log.going(options.ctx);
    }
    const transaction = (await begin.call(connection, options)) as Transaction<object>;
    log.began(transaction, options?.ctx as object | undefined);
    if (!options?.ctx) {
      // not known yet when the connection is made
      const converter = connection.getPlatform().getExceptionConverter();
      await watch(transaction, (error, send) =>
        log.statementFailed(transaction, converter.convertException(error as Error), send),
      );
    }
    return transaction as never;
  };
  connection.commit = async (transaction, ...rest) => {
    await log.ending(transaction);
    await log.committing(transaction, () => connection.execute('select 1', [], 'get', transaction));
    unwatch(transaction);
    const { commit: send } = transaction;
    let wasSent = false;
    transaction.commit = () => {
      wasSent = true;
      return send.call(transaction);
    };
    try {
      await commit.call(connection, transaction, ...rest);
    } catch (error) {
      throw transaction.isCommitted ? error : log.commitFailed(transaction, error, wasSent);
    }
    log.committed(transaction);
  };
  connection.rollback = async (transaction, ...rest) => {
    await log.ending(transaction);
    unwatch(transaction);
    const { em } = (rest[0] ?? {}) as { em?: EntityManager };
    if (em && !flushingIn(em)) {
      doubt(em);
    }
    try {
      await rollback.call(connection, transaction, ...rest);
    } catch (error) {
      if (transaction.isCommitted) {
        log.committed(transaction); // what is committed stays
        throw error;
      }
      log.rollbackFailed(transaction, error);
      log.rolledBack(transaction);
      throw error;
    }
    log.rolledBack(transaction);
  };
}
