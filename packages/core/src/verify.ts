/** Rows that are only read: a decision that rests on one holds when the row is still the same at COMMIT. */
import { managed } from './managed.ts';

/** On a unit of work: the entities that its next flush verifies. Another copy of this package may look for it. */
const VERIFIED = Symbol.for('mikro-ool:verified');

/** On a unit of work: all that it loads is going to be verified. */
const VERIFIES_READS = Symbol.for('mikro-ool:verifies-reads');

type Verifying = { [VERIFIED]?: Set<object>; [VERIFIES_READS]?: true };

/**
 * Lets the next flush compare the version of an entity that it does not write: when somebody else has changed or removed
 * the row, the flush is a `ConcurrentUpdate`. It bumps nothing, and keeps the row as it is until COMMIT. A flush that fails
 * leaves it pending, also one that fails later, with its transaction.
 *
 * @param entity managed by an EntityManager, with a version that is loaded or claimed
 * @throws {ValidationError} when it is not managed, or its class has no `VersionField`
 * @throws {VersionNotLoaded} when its version is neither loaded nor claimed
 * @see Jakarta Persistence, `LockModeType.OPTIMISTIC`; Berenson et al. on write skew
 */
export function verify(entity: object): void {
  const { uow } = managed(entity, 'verified', 'check', 'Load it first.');
  const verifying = uow as Verifying;
  (verifying[VERIFIED] ??= new Set()).add(entity);
}

/** @internal The entities that the next flush of a unit of work verifies, if any. */
export function verifiedIn(uow: object): Set<object> | undefined {
  return (uow as Verifying)[VERIFIED];
}

/**
 * @internal All that a unit of work loads from now on will be verified, by the version that it is read with first: what is
 * read again by the way was decided on before.
 */
export function verifyingReads(uow: object): void {
  (uow as Verifying)[VERIFIES_READS] = true;
}

/** @internal @see verifyingReads */
export function verifiesReads(uow: object): boolean {
  return (uow as Verifying)[VERIFIES_READS] === true;
}
