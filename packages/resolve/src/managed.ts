/** What an EntityManager knows of an entity: its metadata, whether it manages it, whether it is to verify it. */
import { type EntityManager, type EntityMetadata, helper } from '@mikro-orm/core';
import { verifiedIn } from '@mikro-ool/core';

/** What stands on the entity may be the metadata of another ORM in this process. */
export function metaOf(em: EntityManager, entity: object): EntityMetadata {
  return em.getMetadata().get(entity.constructor as never) as unknown as EntityMetadata;
}

/** Is it to be verified by the next flush, or was it by one that has failed? It may be noted where it was loaded. */
export function isVerified(em: EntityManager, entity: object): boolean {
  return [em, helper(entity).__em].some((one) => one && verifiedIn(one.getUnitOfWork(false))?.has(entity));
}

/**
 * Entities may be in several EntityManagers, as those of a transaction are in the one around it, and each names only one of
 * them. So identity maps are asked; not for the key, which may have been changed.
 */
export function managedBy(em: EntityManager): ReadonlySet<object> {
  return new Set<object>(em.getUnitOfWork(false).getIdentityMap());
}

/** Or the EntityManager that has loaded it, if that is another one, takes it for a new entity. */
export function forget(em: EntityManager, entity: object): void {
  for (const one of new Set([em, helper(entity).__em!])) {
    if (managedBy(one).has(entity)) {
      one.getUnitOfWork(false).unsetIdentity(entity);
    }
  }
}
