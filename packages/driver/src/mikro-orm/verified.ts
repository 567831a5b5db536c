/**
 * `verify()` and MikroORM's unit of work, which writes nothing of rows that do not change. A verified row becomes what an
 * assigned version without another change is: a change set that is only compared.
 */
import type { EntityManager } from '@mikro-orm/core';
import { verifiedIn, versionOf } from '@mikro-ool/core';
import { metaOf, restoreSnapshot, snapshotOf } from './entity.ts';

interface Computing {
  computeChangeSet(entity: object): void;
}

/** Called when all listeners have run. Returns what this flush verifies. */
export function takeVerified(em: EntityManager): ReadonlySet<object> {
  const uow = em.getUnitOfWork(false);
  const verified = verifiedIn(uow);
  const taken = new Set([...(verified ?? [])].filter((entity) => isManaged(em, entity)));
  verified?.clear();
  const changed = taken.size > 0 ? new Set(uow.getChangeSets().map((changeSet) => changeSet.entity)) : taken;
  for (const entity of taken) {
    if (!changed.has(entity) && !uow.getRemoveStack().has(entity)) {
      computeUnchanged(em, entity);
    }
  }
  return taken;
}

/** The flush has failed: the next one verifies what this one was to. */
export function keepVerified(em: EntityManager, taken: ReadonlySet<object> | undefined): void {
  const verified = verifiedIn(em.getUnitOfWork(false));
  taken?.forEach((entity) => isManaged(em, entity) && verified!.add(entity));
}

function isManaged(em: EntityManager, entity: object): boolean {
  return em.getUnitOfWork(false).getIdentityMap().getByEntity(entity) === entity;
}

/** Makes a change set of nothing but the version, which is the one that the entity has. */
function computeUnchanged(em: EntityManager, entity: object): void {
  const uow = em.getUnitOfWork(false);
  const snapshot = snapshotOf(entity);
  restoreSnapshot(entity, { ...(snapshot as object), [versionOf(metaOf(em, entity))!.name]: undefined });
  (uow as unknown as Computing).computeChangeSet(entity);
  restoreSnapshot(entity, snapshot);
  const computed = uow.getChangeSets().find((changeSet) => changeSet.entity === entity);
  for (const set of computed ? [computed, ...(computed.tptChangeSets ?? [])] : []) {
    set.originalEntity = snapshot as never;
  }
}
