/** Rows that are only read: a decision that rests on one holds when the row is still the same at COMMIT. */
import { type EntityClass, type EntityMetadata, helper } from '@mikro-orm/core';
import { Refusal, VersionNotLoaded } from './concurrent-update.ts';
import { versionOf } from './version-field.ts';

/** On a unit of work: the entities that its next flush verifies. Another copy of this package may look for it. */
const VERIFIED = Symbol.for('mikro-ool:verified');

type Verifying = { [VERIFIED]?: Set<object> };

/**
 * Lets the next flush compare the version of an entity that it does not write: when somebody else has changed or removed
 * the row, the flush is a `ConcurrentUpdate`. It bumps nothing, and keeps the row as it is until COMMIT. A flush that fails
 * leaves it pending.
 *
 * @param entity managed by an EntityManager, with a version that is loaded or claimed
 * @throws {ValidationError} when it is not managed, or its class has no `VersionField`
 * @throws {VersionNotLoaded} when its version is neither loaded nor claimed
 * @see Jakarta Persistence, `LockModeType.OPTIMISTIC`; Berenson et al. on write skew
 */
export function verify(entity: object): void {
  const wrapped = helper(entity);
  const em = wrapped?.__em;
  if (!em || !wrapped.__managed || !wrapped.__originalEntityData) {
    const name = wrapped?.__meta.className ?? entity.constructor.name;
    throw new Refusal(`${name} cannot be verified, because it is not managed. Load it first.`, entity);
  }
  // what stands on the entity may be the metadata of another ORM in this process
  const meta = em.getMetadata().get(entity.constructor as EntityClass<object>) as unknown as EntityMetadata;
  const version = versionOf(meta);
  if (!version) {
    throw new Refusal(`${meta.className} cannot be verified, because it has no VersionField. Add one.`, entity);
  }
  if ((entity as Record<string, unknown>)[version.name] == null) {
    throw new VersionNotLoaded(entity, meta.className, version.name, 'check');
  }
  const uow = em.getUnitOfWork(false) as Verifying;
  (uow[VERIFIED] ??= new Set()).add(entity);
}

/** @internal The entities that the next flush of a unit of work verifies, if any. */
export function verifiedIn(uow: object): Set<object> | undefined {
  return (uow as Verifying)[VERIFIED];
}

/** @internal A transaction works on the same entities, in a unit of work of its own: its flush verifies them. */
export function verifyInside(inside: object, around: object): void {
  (inside as Verifying)[VERIFIED] = (around as Verifying)[VERIFIED];
}
