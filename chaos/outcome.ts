/** What an error says about a transaction: that nothing of it was committed, or nothing at all. */
import { ConcurrentUpdate } from '@mikro-ool/core';
import type { Outcome } from './history.ts';
import type { DatabaseKind, Lock } from './model.ts';

/**
 * Databases on which mikro-ool itself tells a COMMIT whose answer was lost from a write that failed before it, and gives
 * connections back that were lost inside a transaction. There the run insists on both: every other error of a flush is a
 * failure, and a connection that does not come back is an error.
 */
const STRICT: readonly DatabaseKind[] = ['postgresql', 'mariadb'];

export function isStrict(database: DatabaseKind, lock: Lock): boolean {
  return lock === 'mikro-ool' && STRICT.includes(database);
}

/** @param intended all statements but COMMIT were carried out, or COMMIT may have been sent with them */
export function outcomeOf(error: unknown, intended: boolean, strict: boolean): Outcome {
  if ((error as Error).name === 'CommitOutcomeUnknown') {
    return 'unknown';
  }
  return !intended || strict || isAnswer(error) ? 'failure' : 'unknown';
}

/** The server has answered, and goes on: not a connection that broke, and not a server that is shutting down. */
function isAnswer(error: unknown): boolean {
  const { code, sqlState, fatal } = error as { code?: string; sqlState?: string; fatal?: boolean };
  if (error instanceof ConcurrentUpdate || (error as Error).name === 'OptimisticLockError') {
    return true;
  }
  const state = sqlState ?? code ?? '';
  return fatal !== true && /^[0-9A-Z]{5}$/.test(state) && !/^(08|57|70)/.test(state);
}

const OURS = ['ConcurrentUpdate', 'CommitOutcomeUnknown', 'OptimisticLockError'];

/** In a word or two, for counting. */
export function labelOf(error: unknown): string {
  const { code } = ((error as Error).cause ?? error) as { code?: unknown };
  const { name, message } = error as Error;
  const isNamed = typeof code === 'string' || OURS.includes(name);
  return isNamed ? `${name} ${String(code ?? '')}`.trim() : `${name}: ${message.split('\n')[0]!.slice(0, 60)}`;
}

/** A race that the database has decided, by whichever exception it comes. */
export const DEADLOCK = /(40P01|ER_LOCK_DEADLOCK)/;
export const SERIALISATION = /(40001|ER_CHECKREAD)/;
