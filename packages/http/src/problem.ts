/**
 * What to answer when a write does not happen, as problem details.
 *
 *   app.setErrorHandler((error, request, reply) => {
 *     const answer = problem(error);
 *     return answer ? reply.code(answer.status).headers(answer.headers).send(answer.body) : reply.send(error);
 *   });
 */
import { type Conflict, ConcurrentUpdate, InvalidVersion, hasPrecondition } from '@mikro-ool/core';
import { PreconditionError } from './preconditions.ts';

/** The members of a problem document; it holds plain JSON values only. */
export interface ProblemBody {
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  /** Of a lost race: which rows, by `entityName`, `primaryKey`, `operation`, and the `expected` and `actual` version. */
  readonly conflicts?: readonly object[];
}

/** An answer, for any framework to send. */
export interface Problem {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: ProblemBody;
}

const TITLES = {
  207: 'Multi-Status',
  400: 'Bad Request',
  409: 'Conflict',
  412: 'Precondition Failed',
  428: 'Precondition Required',
} as const;

/**
 * The answer to an error of the lock. It shows names of classes, primary keys and versions, and no other column.
 *
 * @param error whatever a request handler threw, or what `flushEach()` of @mikro-ool/resolve returned
 * @returns 400, 412 or 428 for a `PreconditionError`, as it says; 412 for a `ConcurrentUpdate` of a version
 *   that `ifMatch()` took from a tag, else 409; 400 for an `InvalidVersion`; `undefined` for all other errors, also for
 *   `VersionNotLoaded`, which is a programming error. Of `flushEach()`: 207 when some rows were saved and others were not,
 *   as for the error when none was, and `undefined` when all were
 * @see RFC 9457; RFC 4918, section 13
 */
export function problem(error: unknown): Problem | undefined {
  if (isOfEach(error)) {
    return ofEach(error);
  }
  if (error instanceof PreconditionError) {
    return answer(error.status, error.message);
  }
  if (error instanceof InvalidVersion) {
    return answer(400, 'The version is no number that a version can be. Send the one that was read.');
  }
  if (!(error instanceof ConcurrentUpdate)) {
    return undefined;
  }
  if (error.conflicts.length === 0) {
    // the message repeats what the database said, which may be the statement with its values
    return answer(409, 'Somebody else was writing at the same time. Nothing was written. Send the request again.');
  }
  const failed = error.conflicts.some(({ entity, expected }) => hasPrecondition(entity, expected));
  return answer(failed ? 412 : 409, error.message, plain(error.conflicts));
}

/** What `flushEach()` returns; its package is not needed here. */
interface Each {
  readonly saved: readonly object[];
  readonly conflicts: readonly Conflict[];
}

function isOfEach(value: unknown): value is Each {
  const { saved, conflicts } = (value ?? {}) as Partial<Each>;
  return Array.isArray(saved) && Array.isArray(conflicts);
}

function ofEach({ saved, conflicts }: Each): Problem | undefined {
  if (conflicts.length === 0) {
    return undefined;
  }
  // a client that looks no further than at the class of the status must not take nothing for something
  if (saved.length === 0) {
    return problem(new ConcurrentUpdate(conflicts));
  }
  const [written, stale] = [`${saved.length} saved`, `${conflicts.length} changed or removed by somebody else`];
  return answer(207, `${written}, ${stale} and not saved. Read those again.`, plain(conflicts));
}

function answer(status: keyof typeof TITLES, detail: string, conflicts?: readonly object[]): Problem {
  return {
    status,
    // a cache must not store a 428, and has no use for the others
    headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
    body: { title: TITLES[status], status, detail, ...(conflicts && { conflicts }) },
  };
}

function plain(conflicts: readonly object[]): object[] {
  const json = JSON.stringify(conflicts, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
  return JSON.parse(json) as object[];
}
