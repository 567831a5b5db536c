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

const NONE: ReadonlySet<object> = new Set();

/** Called when all listeners have run. Returns what this flush verifies. */
export function takeVerified(em: EntityManager): ReadonlySet<object> {
  const uow = em.getUnitOfWork(false);
  const verified = verifiedIn(uow);
  if (!verified || verified.size === 0) {
    return NONE;
  }
  const taken = new Set([...verified].filter((entity) => isManaged(em, entity)));
  verified.clear();
  const changed = new Set(uow.getChangeSets().map((changeSet) => changeSet.entity));
  const isUnchanged = (entity: object) => !changed.has(entity) && !uow.getRemoveStack().has(entity);
  computeUnchanged(em, [...taken].filter(isUnchanged));
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

/** Makes change sets of nothing but the version, which is the one that the entity has. */
export function computeUnchanged(em: EntityManager, entities: readonly object[]): void {
  const uow = em.getUnitOfWork(false);
  const snapshots = new Map(entities.map((entity) => [entity, snapshotOf(entity)]));
  for (const [entity, snapshot] of snapshots) {
    restoreSnapshot(entity, { ...(snapshot as object), [versionOf(metaOf(em, entity))!.name]: undefined });
    (uow as unknown as Computing).computeChangeSet(entity);
    restoreSnapshot(entity, snapshot);
  }
  for (const changeSet of snapshots.size > 0 ? uow.getChangeSets() : []) {
    if (snapshots.has(changeSet.entity)) {
      const sets = [changeSet, ...(changeSet.tptChangeSets ?? [])];
      sets.forEach((set) => (set.originalEntity = snapshots.get(changeSet.entity) as never));
    }
  }
}
