/** Transactions and savepoints, for memory to follow: events miss a COMMIT that fails, and subscribers are the user's. */
import type { EntityManager, ExceptionConverter, Transaction } from '@mikro-orm/core';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import type { Flush } from '../flush/flush.ts';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { doubt } from '../mikro-orm/doubt.ts';
import { flushingIn } from '../mikro-orm/flush-state.ts';
import { unwatch, watch } from '../mikro-orm/transaction-watch.ts';

/** What says at BEGIN that there is no such thing: kysely-d1, for Cloudflare's D1, and PgBouncer in statement mode. */
const NO_TRANSACTIONS = /transactions are not supported|transaction blocks not allowed/i;

/** The same error, or a sentence where there are no transactions. The code of the error is kept. */
function explained(error: unknown, flush: Flush | undefined): unknown {
  const { message, code } = error as { message?: string; code?: unknown };
  if (!NO_TRANSACTIONS.test(String(message))) {
    return error;
  }
  const sentence = flush
    ? `This flush (${flush.classNames.join(', ')}) takes a transaction, and there are none here. Nothing of it was ` +
      `written, and all of it is pending. Flush rows of one class at a time, all of them new, changed, or removed: ` +
      `that is one statement, which takes none.`
    : `There are no transactions here. Leave em.transactional() and em.begin() out, and flush rows of one class at a time.`;
  return Object.assign(new Error(`${sentence} (${message})`, { cause: error }), code !== undefined && { code });
}

/** The error that will be thrown. MikroORM puts details into the message of the database's own error, each time it converts it. */
function asMikroOrmHasIt(error: unknown, converter: ExceptionConverter): Error {
  const raw = error as Error;
  const { message } = raw;
  const converted = converter.convertException(raw);
  raw.message = message;
  return converted;
}

/** Hooks the transactions of a connection. */
export function hookTransactions(connection: AbstractSqlConnection, log: TransactionLog): void {
  hookTransactional(connection);
  hookBegin(connection, log);
  hookCommit(connection, log);
  hookRollback(connection, log);
}

/** A flush opens its transaction here, and nothing else tells it not to. */
function hookTransactional(connection: AbstractSqlConnection): void {
  const { transactional } = connection;
  connection.transactional = async (work, options = {}) => {
    const flush = flushOf(options);
    const inTransaction = () => transactional.call(connection, work, options);
    const isOneStatement = await flush?.isOneStatement();
    return (
      isOneStatement ? flush!.withoutTransaction(() => work(undefined as never), inTransaction) : inTransaction()
    ) as never;
  };
}

function hookBegin(connection: AbstractSqlConnection, log: TransactionLog): void {
  const { begin } = connection;
  connection.begin = async (options) => {
    const flush = flushOf(options);
    const around = options?.ctx as object | undefined;
    if (around) {
      await log.beginning(around);
      log.going(around);
    }
    const transaction = (await begin.call(connection, options).catch((error: unknown) => {
      throw explained(error, flush);
    })) as Transaction<object>;
    log.began(transaction, around);
    if (!around) {
      // not known yet when the connection is made
      const converter = connection.getPlatform().getExceptionConverter();
      await watch(transaction, (error, send) =>
        log.statementFailed(transaction, asMikroOrmHasIt(error, converter), send),
      );
    }
    return transaction as never;
  };
}

function hookCommit(connection: AbstractSqlConnection, log: TransactionLog): void {
  const { commit } = connection;
  connection.commit = async (transaction, ...rest) => {
    await log.ending(transaction);
    await log.committing(transaction, () => connection.execute('select 1', [], 'get', transaction));
    unwatch(transaction);
    const isConcerned = log.hasVersions(transaction) || hasSubscribers(rest[0]);
    const wasSent = isConcerned ? noticeCommit(transaction) : () => false;
    try {
      await commit.call(connection, transaction, ...rest);
    } catch (error) {
      throw transaction.isCommitted ? error : log.commitFailed(transaction, error, wasSent());
    }
    log.committed(transaction);
  };
}

/** Somebody may flush before the COMMIT. */
function hasSubscribers(eventBroadcaster?: object): boolean {
  const { em } = (eventBroadcaster ?? {}) as { em?: EntityManager };
  return em !== undefined && em.getEventManager().getSubscribers().size > 0;
}

/** Listeners come before the COMMIT, and may fail, too. Returns whether it has been sent. */
function noticeCommit(transaction: Transaction<{ commit(): unknown }>): () => boolean {
  const { commit: send } = transaction;
  let wasSent = false;
  transaction.commit = () => {
    wasSent = true;
    return send.call(transaction);
  };
  return () => wasSent;
}

function hookRollback(connection: AbstractSqlConnection, log: TransactionLog): void {
  const { rollback } = connection;
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

/** The flush that opens a transaction of its own. */
function flushOf(options?: { eventBroadcaster?: object }): Flush | undefined {
  const { em } = (options?.eventBroadcaster ?? {}) as { em?: EntityManager };
  return em && flushingIn(em);
}
