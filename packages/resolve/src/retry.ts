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
import {
  type Dictionary,
  type EntityManager,
  type IsolationLevel,
  TransactionContext,
  ValidationError,
  helper,
} from '@mikro-orm/core';
import { type Conflict, ConcurrentUpdate, loadedVersion, verify, verifyingReads, versionOf } from '@mikro-ool/core';
import pRetry from 'p-retry';

export interface RetryOptions {
  /** How often the work is tried at most, the first time included; 10 when not given. */
  readonly attempts?: number;
  /** Ends the trying: no further attempt starts, a wait ends at once. It does not take back what is committed. */
  readonly signal?: AbortSignal;
  /** Of the transaction around each attempt; the database's own when not given. */
  readonly isolationLevel?: IsolationLevel;
  /**
   * Every row with a version that the work has loaded, and has not forgotten by `em.clear()`, is verified at its end, as it
   * was read first: what it has read by key is as good as under SERIALIZABLE, at any isolation level. Rows that a query did
   * not find are not, and `em.refresh()` looks again.
   */
  readonly verifyReads?: boolean;
}

/** What the diagnostics channel `mikro-ool:retry` carries, once for every attempt that is going to be repeated. */
export interface RetryMessage {
  /** A `ConcurrentUpdate`, or the database's own error when it was another statement than a flush that lost. */
  readonly error: Error;
  /** Which attempt failed; the first one is 1. */
  readonly attempt: number;
  /** Milliseconds until the next one. */
  readonly delay: number;
}

const retries = channel('mikro-ool:retry');

/** The first wait is 10 to 20 ms, and every further one twice as long, up to a second. */
const BACKOFF = { minTimeout: 10, maxTimeout: 1000, factor: 2, randomize: true };

/** By which codes databases say that a transaction has lost: serialisation failures, deadlocks, rows newer than a snapshot. */
const LOST_RACES = new Set([
  '40001',
  '40P01',
  'ER_LOCK_DEADLOCK',
  'ER_CHECKREAD',
  'ER_TRANSACTION_ROLLBACK_DURING_COMMIT',
  'SQLITE_BUSY_SNAPSHOT',
]);

/**
 * Runs work in a transaction on a fresh fork, and again after a `ConcurrentUpdate`, at its COMMIT too, and after any other
 * statement by which the database says that the transaction has lost a race.
 *
 * @param em where to fork from
 * @param work reads and writes through the EntityManager it is given, and through no other; it may run several times, so
 *   it does nothing that cannot be repeated (no mails)
 * @param options how often, and until when
 * @returns what the work returned; its entities belong to the fork
 * @throws {ValidationError} inside an open transaction, which a second attempt could not leave, and for bad options
 * @throws {ConcurrentUpdate} at once, when it is about a version that the work has assigned: that is as stale the next time
 * @throws the error of the last attempt, when all were lost
 * @throws the signal's reason when it ends the trying, and any other error of the work at once, as it is
 * @see Brooker, "Exponential Backoff And Jitter"
 */
export async function retryOnConflict<Em extends EntityManager, Result>(
  em: Em,
  work: (em: Em) => Result | Promise<Result>,
  { attempts = 10, signal, isolationLevel, verifyReads = false }: RetryOptions = {},
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
    let isAssigned = false;
    try {
      const result = await (em.fork() as Em).transactional(
        async (tx) => {
          const merged = mergedInto(tx);
          if (verifyReads) {
            verifyingReads(tx.getUnitOfWork(false));
          }
          try {
            const worked = await work(tx as Em);
            if (verifyReads) {
              verifyLoaded(tx);
            }
            // where transactions are disabled, MikroORM does not flush by itself
            await tx.flush();
            return worked;
          } catch (error) {
            // before the rollback, which gives entities other versions
            isAssigned =
              error instanceof ConcurrentUpdate &&
              error.conflicts.some((one) => merged.has(one.entity) || hasAssignedVersion(one));
            throw error;
          }
        },
        { isolationLevel },
      );
      return () => result;
    } catch (error) {
      if (isLostRace(error) && !isAssigned) {
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

function verifyLoaded(em: EntityManager): void {
  const uow = em.getUnitOfWork(false);
  for (const entity of uow.getIdentityMap() as Iterable<Dictionary>) {
    const version = versionOf(em.getMetadata().get(entity.constructor as never))?.name;
    const { __initialized: isLoaded, __originalEntityData: snapshot } = helper(entity);
    if (version && isLoaded && snapshot && entity[version] != null && !uow.getRemoveStack().has(entity as never)) {
      verify(entity);
    }
  }
}

/** Has the transaction lost a race, so that it may win when it is run again? Its outcome is known: nothing is committed. */
function isLostRace(error: unknown): boolean {
  if (!(error instanceof Error)) {
    return false;
  }
  const { code, errno, message } = error as Error & { code?: unknown; errno?: unknown };
  // MariaDB has ended the transaction by then, and only says that its savepoints are gone
  const isEnded = errno === 1305 && message.includes('SAVEPOINT');
  return error instanceof ConcurrentUpdate || LOST_RACES.has(String(code)) || isEnded;
}

/** The entities that will have been handed to `em.merge()`, whose versions are none that were loaded. Rows of `em.map()` are. */
function mergedInto(em: EntityManager): ReadonlySet<object> {
  const merged = new Set<object>();
  const { merge } = em as unknown as { merge(...args: unknown[]): object };
  em.merge = ((...args: unknown[]) => {
    const known = em.getUnitOfWork(false).getIdentityMap();
    const before = new Set<object>(known);
    const entity = merge.apply(em, args);
    const isRow = (args[2] as Dictionary | undefined)?.['convertCustomTypes'] === true;
    // what is nested in the data comes along
    for (const one of isRow ? [] : (known as Iterable<object>)) {
      if (!before.has(one)) {
        merged.add(one);
      }
    }
    return entity;
  }) as never;
  return merged;
}

/** Is the version that was expected none that was loaded? */
function hasAssignedVersion({ entity, expected }: Conflict): boolean {
  const { __originalEntityData: snapshot, __initialized: isLoaded, __em: em, __meta } = helper(entity);
  // what stands on the entity may be the metadata of another ORM in this process
  const meta = em?.getMetadata().find(entity.constructor as never) ?? __meta;
  const version = versionOf(meta as never)?.name;
  const loaded = version && loadedVersion(snapshot, version);
  return typeof loaded === 'number' && expected !== null ? loaded !== expected : !isLoaded;
}
