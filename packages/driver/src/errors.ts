/** Which errors of a database are lost races, which leave the outcome open, and who is told of conflicts. */
import diagnostics from 'node:diagnostics_channel';
import { CommitOutcomeUnknown, ConcurrentUpdate } from '@mikro-ool/core';
import type { Dialect, DriverError } from './write/dialects/dialect.ts';

/** Where each `ConcurrentUpdate` that is thrown is published once, as `{ error }`. */
const channel = diagnostics.channel('mikro-ool:conflict');
const published = new WeakSet<object>();

/** Tells those who listen, counters and loggers, of a conflict that is about to be thrown. Returns it. */
export function publish<Failure>(error: Failure): Failure {
  if (channel.hasSubscribers && error instanceof ConcurrentUpdate && !published.has(error)) {
    published.add(error);
    channel.publish({ error });
  }
  return error;
}

/** The same error, or a `ConcurrentUpdate` when the database decided a race between transactions by it. */
export function asLostRace(error: unknown, dialect: Dialect | undefined): unknown {
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === 'string' && dialect?.lostRaceCodes.includes(code) ? new ConcurrentUpdate([], error) : error;
}

/** Errors of our own SELECTs, whose answer nothing depends on. */
const readFailures = new WeakSet<object>();

/** Remembers an error of a SELECT of our own. */
export function noteReadFailure(error: unknown): void {
  readFailures.add(error as object);
}

/** The same error, or `CommitOutcomeUnknown` when a COMMIT, or a statement that is one, may have been carried out. */
export function asUnknown(error: unknown, dialect: Dialect | undefined): unknown {
  const isLost = dialect?.losesAnswer((error ?? {}) as DriverError) && !readFailures.has(error as object);
  return isLost ? new CommitOutcomeUnknown(error) : error;
}
