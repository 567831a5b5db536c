/**
 * Trying again after a lost race, for work that nobody has to decide on:
 *
 *   await retryOnConflict(em, async (em) => {
 *     (await em.findOneOrFail(Account, id)).balance -= 10;
 *   });
 *
 * Everything is read again on a fresh fork, so the work is done on what the winner left behind.
 */
import { channel } from 'node:diagnostics_channel';
import { type EntityManager, type IsolationLevel, TransactionContext, ValidationError } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import pRetry from 'p-retry';

export interface RetryOptions {
  /** How often the work is tried at most, the first time included; 10 when not given. */
  readonly attempts?: number;
  /** Ends the trying: no further attempt starts, a wait ends at once. It does not take back what is committed. */
  readonly signal?: AbortSignal;
  /** Of the transaction around each attempt; the database's own when not given. */
  readonly isolationLevel?: IsolationLevel;
}

/** What the diagnostics channel `mikro-ool:retry` carries, once for every attempt that is going to be repeated. */
export interface RetryMessage {
  readonly error: ConcurrentUpdate;
  /** Which attempt failed; the first one is 1. */
  readonly attempt: number;
  /** Milliseconds until the next one. */
  readonly delay: number;
}

const retries = channel('mikro-ool:retry');

/** The first wait is 10 to 20 ms, and every further one twice as long, up to a second. */
const BACKOFF = { minTimeout: 10, maxTimeout: 1000, factor: 2, randomize: true };

/**
 * Runs work in a transaction on a fresh fork, and again after a `ConcurrentUpdate`, at its COMMIT too.
 *
 * @param em where to fork from
 * @param work reads and writes through the EntityManager it is given, and through no other; it may run several times, so
 *   it does nothing that cannot be repeated (no mails)
 * @param options how often, and until when
 * @returns what the work returned; its entities belong to the fork
 * @throws {ValidationError} inside an open transaction, which a second attempt could not leave, and for bad options
 * @throws {ConcurrentUpdate} the last one, when all attempts were lost
 * @throws the signal's reason when it ends the trying, and any other error of the work at once, as it is
 * @see Brooker, "Exponential Backoff And Jitter"
 */
export async function retryOnConflict<Em extends EntityManager, Result>(
  em: Em,
  work: (em: Em) => Result | Promise<Result>,
  { attempts = 10, signal, isolationLevel }: RetryOptions = {},
): Promise<Result> {
  if (!Number.isInteger(attempts) || attempts < 1) {
    throw new ValidationError(`attempts is ${String(attempts)}. Give an integer from 1: how often to try at most.`);
  }
  // a fork that is not in the transaction itself would wait for the rows that the transaction around it holds
  if (em.isInTransaction() || TransactionContext.getEntityManager(em.name)) {
    throw new ValidationError(
      'retryOnConflict() was called inside an open transaction, where trying again cannot work: what was read and ' +
        'written before belongs to the same transaction. Put retryOnConflict() around the whole of it instead.',
    );
  }
  const attempt = async (): Promise<() => Result> => {
    try {
      const result = await (em.fork() as Em).transactional(
        async (tx) => {
          const worked = await work(tx as Em);
          // where transactions are disabled, MikroORM does not flush by itself
          await tx.flush();
          return worked;
        },
        { isolationLevel },
      );
      return () => result;
    } catch (error) {
      if (error instanceof ConcurrentUpdate) {
        throw error;
      }
      // past p-retry, which treats some errors in its own way
      return () => {
        throw error;
      };
    }
  };
  let outcome: (() => Result) | undefined;
  try {
    await pRetry(async () => (outcome = await attempt()), {
      ...BACKOFF,
      retries: attempts - 1,
      signal,
      onFailedAttempt({ error, attemptNumber, retriesLeft, retryDelay }) {
        if (retriesLeft > 0 && retries.hasSubscribers) {
          retries.publish({ error, attempt: attemptNumber, delay: retryDelay } as RetryMessage);
        }
      },
    });
  } catch (error) {
    // aborted while the last attempt ran: what it has committed is not called a failure
    if (!outcome) {
      throw error;
    }
  }
  return outcome!();
}
