/** What an EntityManager knows of an entity: its metadata, whether it manages it, whether it is to verify it. */
import { type EntityManager, type EntityMetadata, type UnitOfWork, helper } from '@mikro-orm/core';
import { verifiedIn, withSources } from '@mikro-ool/core';

/** What stands on the entity may be the metadata of another ORM in this process. */
export function metaOf(em: EntityManager, entity: object): EntityMetadata {
  return em.getMetadata().get(entity.constructor as never) as unknown as EntityMetadata;
}

/** Is it to be verified by the next flush, or was it by one that has failed? It may be noted where it was loaded. */
export function isVerified(em: EntityManager, entity: object): boolean {
  return unitsOf(em, entity).some((uow) => verifiedIn(uow)?.has(entity));
}

/**
 * Entities may be in several EntityManagers, as those of a transaction are in the one around it, and each names only one of
 * them. So identity maps are asked; not for the key, which may have been changed.
 */
export function managedBy(em: EntityManager): ReadonlySet<object> {
  return managedIn(em.getUnitOfWork(false));
}

function managedIn(uow: UnitOfWork): ReadonlySet<object> {
  return new Set<object>(uow.getIdentityMap());
}

/** Wherever it is known, or an EntityManager that still has it takes it for a new entity. */
export function forget(em: EntityManager, entity: object): void {
  for (const uow of unitsOf(em, entity)) {
    if (managedIn(uow).has(entity) || uow.getPersistStack().has(entity)) {
      uow.unsetIdentity(entity);
    }
  }
}

/** The EntityManager, those that it has entities from, and the one that the entity names. */
function unitsOf(em: EntityManager, entity: object): UnitOfWork[] {
  const named = helper(entity).__em?.getUnitOfWork(false);
  return [...new Set([...withSources(em.getUnitOfWork(false)), ...(named ? [named] : [])])];
}

/** Orphans of its entities are noted where their parent was loaded, which may be around a transaction. */
export function orphanStacksOf(em: EntityManager): Set<object>[] {
  return withSources(em.getUnitOfWork(false)).map((uow) => uow.getOrphanRemoveStack());
}

export function isOrphan(em: EntityManager, entity: object): boolean {
  return orphanStacksOf(em).some((stack) => stack.has(entity));
}
