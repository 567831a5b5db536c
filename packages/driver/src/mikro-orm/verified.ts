/**
 * `verify()` and MikroORM's unit of work, which writes nothing of rows that do not change. A verified row becomes what an
 * assigned version without another change is: a change set that is only compared.
 */
import type { Dictionary, EntityManager, UnitOfWork } from '@mikro-orm/core';
import { verifiedIn, verifiesReads, verify, versionOf, withSources } from '@mikro-ool/core';
import { type AnyChangeSet, isManaged, metaOf, restoreSnapshot, snapshotOf, tablesOf } from './entity.ts';
import { withSourcesOfTransaction } from './outside.ts';

interface Computing {
  computeChangeSet(entity: object): void;
}

/** What a flush verifies, and where each of it was pending. */
export type Verified = ReadonlyMap<object, Set<object>>;

const NONE: Verified = new Map();

/**
 * Called when all listeners have run. Returns what this flush verifies: what is pending here, and where its entities come
 * from. `verify()` knows the EntityManager that has loaded an entity, and a transaction works on a fork of that one.
 * What is pending in a transaction around that is suspended stays so, too: it is to hold until the COMMIT of that one.
 */
export function takeVerified(em: EntityManager): Verified {
  const uow = em.getUnitOfWork(false);
  const pending = withSources(uow).flatMap((one) => verifiedIn(one) ?? []);
  if (pending.every(({ size }) => size === 0)) {
    return NONE;
  }
  const taken = new Map(
    pending.flatMap((set) =>
      [...set].filter((entity) => isManaged(em, entity)).map((entity) => [entity, set] as const),
    ),
  );
  const ending = new Set(withSourcesOfTransaction(uow).map((one) => verifiedIn(one)));
  taken.forEach((set, entity) => ending.has(set) && set.delete(entity));
  verifiedIn(uow)?.clear();
  // of a row whose unique value moves MikroORM may have a follow-up only, which is checked by itself
  const written = new Set<object>([...uow.getExtraUpdates()].map(([entity]) => entity));
  computeUnchanged(
    em,
    [...taken.keys()].filter((entity) => !uow.getRemoveStack().has(entity) && !written.has(entity)),
  );
  return taken;
}

/** The flush has failed, or was rolled back later: the next one verifies what this one was to. */
export function keepVerified(em: EntityManager, taken: Verified | undefined): void {
  taken?.forEach((set, entity) => isManaged(em, entity) && set.add(entity));
}

/** A transaction has failed: what is pending in it waits where its entities have come from. */
export function returnVerified(inside: EntityManager, outside: EntityManager): void {
  for (const entity of verifiedIn(inside.getUnitOfWork(false)) ?? []) {
    if (isManaged(outside, entity) && (entity as Dictionary)[versionOf(metaOf(outside, entity))!.name] != null) {
      verify(entity);
    }
  }
}

/** Is the next flush to verify an entity? */
export function isVerified(uow: UnitOfWork, entity: object): boolean {
  return withSources(uow).some((one) => verifiedIn(one)?.has(entity));
}

/** Does a decision rest on all that is loaded, as by `verifyReads` of `retryOnConflict()`? */
export function areReadsVerified(uow: UnitOfWork): boolean {
  return withSources(uow).some(verifiesReads);
}

/** Makes change sets of nothing but the version, which is the one that the entity has, for those that have none. */
export function computeUnchanged(em: EntityManager, entities: readonly object[]): void {
  const uow = em.getUnitOfWork(false);
  const changed = new Set(uow.getChangeSets().map(({ entity }) => entity as object));
  const unchanged = entities.filter((entity) => !changed.has(entity));
  const snapshots = new Map(unchanged.map((entity) => [entity, snapshotOf(entity)]));
  for (const [entity, snapshot] of snapshots) {
    restoreSnapshot(entity, { ...(snapshot as object), [versionOf(metaOf(em, entity))!.name]: undefined });
    (uow as unknown as Computing).computeChangeSet(entity);
    restoreSnapshot(entity, snapshot);
  }
  for (const changeSet of snapshots.size > 0 ? uow.getChangeSets() : []) {
    if (snapshots.has(changeSet.entity)) {
      const snapshot = snapshots.get(changeSet.entity) as never;
      tablesOf(changeSet as AnyChangeSet).forEach((set) => (set.originalEntity = snapshot));
    }
  }
}
