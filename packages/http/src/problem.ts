/**
 * What to answer when a write does not happen, as problem details, in words for the clients of an API.
 *
 *   app.setErrorHandler((error, request, reply) => {
 *     const answer = problem(error);
 *     return answer ? reply.code(answer.status).headers(answer.headers).send(answer.body) : reply.send(error);
 *   });
 */
import { type Conflict, ConcurrentUpdate, InvalidVersion, hasPrecondition } from '@mikro-ool/core';
import { inWords, tagOf } from './etag.ts';
import { PreconditionError, type PreconditionReason } from './preconditions.ts';

/**
 * Why nothing was written, or not all: as `PreconditionReason`, and of a race `changed`, `removed` when every row is gone,
 * `busy` when the database ended the transaction, `partial` when some rows were saved.
 */
export type Reason = PreconditionReason | 'busy' | 'partial' | 'removed';

/** The members of a problem document; it holds plain JSON values only. */
export interface ProblemBody {
  readonly title: string;
  readonly status: number;
  /** For programs: does not change with the language. */
  readonly reason: Reason;
  /** For people. */
  readonly detail: string;
  /** Of a lost race: which rows, by `entityName`, `primaryKey`, `operation`, and the `expected` and `actual` version. */
  readonly conflicts?: readonly object[];
}

/** An answer, for any framework to send. */
export interface Problem {
  readonly status: number;
  /** Of a 412 also the `etag` that the row has now, where it is one row and there. */
  readonly headers: Record<string, string>;
  readonly body: ProblemBody;
}

/** What an application says for itself. */
export interface ProblemOptions {
  /** What `detail` says instead, in another language for instance; it is given what would be sent, in English. */
  readonly detail?: (body: ProblemBody) => string;
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
 * @param options what to say otherwise
 * @returns 400, 409, 412 or 428 for a `PreconditionError`, as it says; 412 for a `ConcurrentUpdate` of a version
 *   that `ifMatch()` took from a tag, else 409; 400 for an `InvalidVersion`; `undefined` for all other errors, also for
 *   `VersionNotLoaded`, which is a programming error. Of `flushEach()`: 207 when some rows were saved and others were not,
 *   as for the error when none was, and `undefined` when all were
 * @see RFC 9457; RFC 4918, section 13
 */
export function problem(error: unknown, { detail }: ProblemOptions = {}): Problem | undefined {
  const answer = answerTo(error);
  return answer && detail ? { ...answer, body: { ...answer.body, detail: detail(answer.body) } } : answer;
}

function answerTo(error: unknown): Problem | undefined {
  if (isOfEach(error)) {
    return ofEach(error);
  }
  if (error instanceof PreconditionError) {
    return withTag(answer(error.status, error.reason, error.message), error.etag);
  }
  if (error instanceof InvalidVersion) {
    return answer(400, 'malformed', 'The version is no number that a version can be. Send the one that was read.');
  }
  return error instanceof ConcurrentUpdate ? ofRace(error.conflicts) : undefined;
}

function ofRace(conflicts: readonly Conflict[]): Problem {
  if (conflicts.length === 0) {
    // the message repeats what the database said, which may be the statement with its values
    const message = 'Somebody else was writing at the same time. Nothing was written. Send the request again.';
    return answer(409, 'busy', message);
  }
  const named = conflicts.filter(({ entity, expected }) => hasPrecondition(entity, expected));
  const reason = conflicts.every(({ actual }) => actual === null) ? 'removed' : 'changed';
  const text = `${subjectOf(conflicts)} ${reason} by somebody else. Nothing was written. Read again, and decide again.`;
  const race = answer(named.length > 0 ? 412 : 409, reason, text, plain(conflicts));
  const [one, ...others] = named;
  return one && others.length === 0 && one.actual !== null ? withTag(race, tagOf(one.entity, one.actual)) : race;
}

function subjectOf({ length, 0: first }: readonly Conflict[]): string {
  return length === 1 ? `The ${inWords(first!.entityName)} was` : `${length} rows were`;
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

function ofEach({ saved, conflicts: found }: Each): Problem | undefined {
  if (found.length === 0) {
    return undefined;
  }
  const { conflicts } = new ConcurrentUpdate(found); // which are serialised without their entities
  // a client that looks no further than at the class of the status must not take nothing for something
  if (saved.length === 0) {
    return ofRace(conflicts);
  }
  const [written, stale] = [`${saved.length} saved`, `${conflicts.length} changed or removed by somebody else`];
  return answer(207, 'partial', `${written}, ${stale} and not saved. Read those again.`, plain(conflicts));
}

function answer(status: keyof typeof TITLES, reason: Reason, detail: string, conflicts?: readonly object[]): Problem {
  return {
    status,
    // a cache must not store a 428, and has no use for the others
    headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
    body: { title: TITLES[status], status, reason, detail, ...(conflicts && { conflicts }) },
  };
}

/** What the client would have to send, once it has read the row. */
function withTag(problem: Problem, etag: string | undefined): Problem {
  return etag === undefined ? problem : { ...problem, headers: { ...problem.headers, etag } };
}

function plain(conflicts: readonly object[]): object[] {
  const json = JSON.stringify(conflicts, (_key, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
  return JSON.parse(json) as object[];
}
