/**
 * What is thrown when a write does not happen.
 *
 *   try { await em.flush() } catch (e) {
 *     if (e instanceof ConcurrentUpdate) return reply.code(409).send(e.conflicts);   // somebody else was faster
 *     throw e;
 *   }
 *
 * `ConcurrentUpdate` is a lost race. `VersionNotLoaded` and `InvalidVersion` are not: they are a programming error and a
 * client's nonsense. Nor is `CommitOutcomeUnknown`, nor `VersionExhausted`. None of them is `instanceof OptimisticLockError`.
 */
import { OptimisticLockError, ValidationError } from '@mikro-orm/core';
import { recogniseCopies } from './copies.ts';

/** What was attempted on a stale row; `check` wrote nothing: a claimed version without another change, or `em.lock()`. */
export type Operation = 'update' | 'delete' | 'check';

/** One row that somebody else changed or removed. Prints and serialises without the entity's other columns. */
export interface Conflict {
  /** The very object in the identity map. */
  readonly entity: object;
  /** Name of the concrete class. */
  readonly entityName: string;
  /** The value of a simple key, an object by property for a composite one. */
  readonly primaryKey: unknown;
  readonly operation: Operation;
  /** The version that the flush claimed; `null`: none, because it wrote only columns that the version does not cover. */
  readonly expected: number | null;
  /** The version in the database now; `null`: the row is gone. */
  readonly actual: number | null;
  /** The listed paths of an aggregate at whose ends this flush has written something, so that it wrote the root as well. */
  readonly parts?: readonly string[];
}

/** A conflict whose entity is reachable, but neither printed nor serialised. */
class StaleRow implements Conflict {
  readonly #entity: object;
  readonly entityName: string;
  readonly primaryKey: unknown;
  readonly operation: Operation;
  readonly expected: number | null;
  readonly actual: number | null;
  declare readonly parts?: readonly string[];

  constructor(conflict: Conflict) {
    this.#entity = conflict.entity;
    this.entityName = conflict.entityName;
    this.primaryKey = conflict.primaryKey;
    this.operation = conflict.operation;
    this.expected = conflict.expected;
    this.actual = conflict.actual;
    if (conflict.parts) {
      this.parts = conflict.parts;
    }
  }

  get entity(): object {
    return this.#entity;
  }

  toJSON(): object {
    return { ...this, primaryKey: printable(this.primaryKey) };
  }
}

/**
 * A flush wrote nothing, because rows were changed or removed by somebody else since they were read, or because the
 * database aborted the transaction for a race of its own (deadlock, serialisation failure).
 * The way out: `em.refresh()` the stale entities, apply the change again and flush, or show both states to the user.
 *
 * @see Hibernate's StaleObjectStateException, Rails' StaleObjectError
 */
export class ConcurrentUpdate extends OptimisticLockError {
  /** Every stale row of the failing statement; empty when the database itself aborted the transaction (see `cause`). */
  readonly conflicts: readonly Conflict[];
  declare readonly cause?: unknown;

  /**
   * @param conflicts the stale rows; the first one's entity is what `getEntity()` returns
   * @param cause the driver's exception, when the database decided the race
   */
  constructor(conflicts: readonly Conflict[], cause?: unknown) {
    super(conflicts.length > 0 ? describe(conflicts) : describeAbort(cause), conflicts[0]?.entity);
    this.name = 'ConcurrentUpdate';
    this.conflicts = conflicts.map((conflict) => new StaleRow(conflict));
    if (cause !== undefined) {
      hideStatement(cause);
      Object.defineProperty(this, 'cause', { value: cause, enumerable: false, configurable: true, writable: true });
    }
    hideEntity(this);
  }

  /** What a log or an API may show: no entities, no cycles. */
  toJSON(): object {
    return { name: this.name, message: this.message, conflicts: this.conflicts };
  }
}

/**
 * The connection was lost, or a cluster lost track, after COMMIT was sent (or the one statement of a flush that needs no
 * COMMIT): the changes may be in the database or not. It is no conflict, so nothing repeats it by itself.
 *
 * Entities are as before the flush. Flushing again is safe for updates and deletes: it writes when the COMMIT did not
 * happen, and throws `ConcurrentUpdate` when it did. A new row with a generated key could be inserted twice: look first.
 *
 * @see SQLSTATE 40003, statement_completion_unknown
 */
export class CommitOutcomeUnknown extends Error {
  /** @param cause the driver's exception */
  constructor(cause: unknown) {
    const reason = cause instanceof Error ? ` (${cause.message.split('\n')[0]})` : '';
    super(
      `The answer to COMMIT was lost${reason}. The changes may be in the database or not: read again before you repeat them.`,
      { cause },
    );
    this.name = 'CommitOutcomeUnknown';
    hideStatement(cause);
  }

  /** What a log or an API may show. */
  toJSON(): object {
    return { name: this.name, message: this.message };
  }
}

/** @internal What is refused. Its entity is what `getEntity()` returns, and is neither printed nor serialised. */
export class Refusal extends ValidationError {
  constructor(message: string, entity?: object) {
    super(message, entity);
    this.name = 'ValidationError';
    hideEntity(this);
  }

  /** What a log or an API may show: no entity. */
  toJSON(): object {
    return { name: this.name, message: this.message };
  }
}

/** A versioned row would be written without knowing its version: a blind write. Nothing was sent to the database. */
export class VersionNotLoaded extends Refusal {
  /**
   * @param entity what would be written
   * @param entityName name of its class
   * @param property name of the version property
   * @param operation what would be done to the row
   * @param along the relation by which MikroORM came to do it, as `Person.pet`
   */
  constructor(entity: object, entityName: string, property: string, operation: Operation, along?: string) {
    const load = along
      ? `It is changed along with ${along}: load it with populate: ['${along.slice(along.indexOf('.') + 1)}']`
      : 'Load the entity first';
    super(
      `${entityName}.${property} is not known, so this ${operation} could overwrite somebody else's change; nothing was ` +
        `sent to the database. ${load}, or assign the version that your change is based on.`,
      entity,
    );
    this.name = 'VersionNotLoaded';
  }
}

/** A version is not a number that the column can hold, say a client's nonsense. Nothing was sent to the database. */
export class InvalidVersion extends Refusal {
  /**
   * @param entity what would be written; nothing for plain data
   * @param entityName name of its class
   * @param property name of the version property
   * @param value what was found there
   * @param maximum the largest version that is allowed there
   * @param end the largest version that the column can hold, when that is more: a row must have room for its changes
   */
  constructor(
    entity: object | undefined,
    entityName: string,
    property: string,
    value: unknown,
    maximum: number,
    end = maximum,
  ) {
    const isAtEnd = typeof value === 'number' && value > maximum && value <= end;
    super(
      isAtEnd
        ? `${entityName}.${property} is ${value}, which leaves the row no room for changes, because the column ends at ` +
            `${end}; nothing was sent to the database. Give it an integer from 0 to ${maximum}.`
        : `${entityName}.${property} is ${show(value)}, which is no version; nothing was sent to the database. ` +
            `Assign an integer from 0 to ${maximum}, the version that your change is based on.`,
      entity,
    );
    this.name = 'InvalidVersion';
  }
}

/** A row has the last version that its column can hold, so it cannot be changed any more. Nothing was written. */
export class VersionExhausted extends Refusal {
  /**
   * @param entity what would be written; nothing for a set-based write
   * @param entityName name of its class
   * @param property name of the version property
   * @param primaryKey the key of the row, where it is known
   * @param maximum the largest version that the column can hold
   */
  constructor(entity: object | undefined, entityName: string, property: string, primaryKey: unknown, maximum: number) {
    const row = entity ? `${entityName} ${show(primaryKey)}` : `A row of ${entityName} that this would write`;
    super(
      `${row} cannot be changed any more, because ${entityName}.${property} has reached ` +
        `${maximum}, the end of its column; nothing was written. Make the column larger (bigint), or set the version ` +
        `back to 1 by em.nativeUpdate() while nobody else has the row loaded.`,
      entity,
    );
    this.name = 'VersionExhausted';
  }
}

/** Drivers put the statement on their error, with all values in it: reachable, but no log of ours prints it. */
function hideStatement(cause: unknown): void {
  for (const key of ['sql', 'query', 'parameters']) {
    if (typeof cause === 'object' && cause !== null && Object.getOwnPropertyDescriptor(cause, key)?.configurable) {
      Object.defineProperty(cause, key, { enumerable: false });
    }
  }
}

recogniseCopies(ConcurrentUpdate, 'ConcurrentUpdate');
recogniseCopies(CommitOutcomeUnknown, 'CommitOutcomeUnknown');
recogniseCopies(VersionNotLoaded, 'VersionNotLoaded');
recogniseCopies(InvalidVersion, 'InvalidVersion');
recogniseCopies(VersionExhausted, 'VersionExhausted');

/** Reachable by getEntity(), but an error that is logged must not print the columns of a row. */
function hideEntity(error: ValidationError): void {
  Object.defineProperty(error, 'entity', { enumerable: false });
}

const LISTED = 5;

function describe(conflicts: readonly Conflict[]): string {
  const lines = conflicts.slice(0, LISTED).map(describeRow);
  if (conflicts.length > LISTED) {
    lines.push(`The same happened to ${conflicts.length - LISTED} more.`);
  }
  return `${lines.join(' ')} Nothing of this flush was written. Reload and try again, or show the user both states.`;
}

const ATTEMPT = { update: 'could not be updated', delete: 'could not be deleted', check: 'is not what was claimed' };

function describeRow({ entityName, primaryKey, operation, expected, actual, parts }: Conflict): string {
  const wanted = expected === null ? 'any version would do' : `version ${expected} was expected`;
  const along = parts ? ` along with its ${parts.join(', ')}` : '';
  const attempt = `${entityName} ${show(primaryKey)} ${ATTEMPT[operation]}${along}: ${wanted}, but`;
  if (actual === null) {
    return `${attempt} the row is gone.`;
  }
  if (actual === expected) {
    return `${attempt} the row was not written, although it has that version now (a trigger, a row policy, or a row that was deleted and created again).`;
  }
  return `${attempt} it is ${actual} now.`;
}

function describeAbort(cause: unknown): string {
  const reason = cause instanceof Error ? ` (${cause.message.split('\n')[0]})` : '';
  return `The database aborted the transaction, because another one was writing the same rows${reason}. Nothing of it was written. Run the whole transaction again.`;
}

function show(value: unknown): string {
  const safe = printable(value);
  return (typeof safe === 'number' ? String(safe) : JSON.stringify(safe)) ?? String(value);
}

function printable(value: unknown): unknown {
  if (typeof value === 'bigint') {
    return String(value);
  }
  if (value instanceof Uint8Array) {
    return Buffer.from(value).toString('hex');
  }
  if (value !== null && typeof value === 'object' && Object.getPrototypeOf(value) === Object.prototype) {
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, printable(part)]));
  }
  return value;
}
