/** `em.transactional()` works on a fork, and hands entities to and fro: which unit of work is around which, or has its entities. */
import { ChangeSetType, type EntityManager, type UnitOfWork, helper } from '@mikro-orm/core';
import { setSource, withSources } from '@mikro-ool/core';
import { type AnyChangeSet, isNew } from './entity.ts';
import { StateOn } from './layers.ts';

const outside = new StateOn<UnitOfWork>();
/** Units of work whose transaction is no part of the one that they have entities from. */
const apart = new WeakSet<UnitOfWork>();

/**
 * A transaction works on a unit of work of its own, inside this one.
 *
 * @param isApart the transaction around it is suspended: it is committed by itself (`REQUIRES_NEW`), or there is none
 *   (`NOT_SUPPORTED`)
 */
export function opened(inside: UnitOfWork, around: UnitOfWork, isApart: boolean): void {
  outside.give(inside, around);
  setApart(inside, isApart);
}

function setApart(uow: UnitOfWork, isApart: boolean): void {
  if (isApart) {
    apart.add(uow);
  } else {
    apart.delete(uow);
  }
}

/** A unit of work, and those around it. */
export function withOutside(uow: UnitOfWork): UnitOfWork[] {
  return outside.has(uow) ? [uow, ...withOutside(outside.of(uow))] : [uow];
}

/**
 * A flush in a transaction is about to look for changes. MikroORM notes an orphan where its parent was loaded, which may be
 * around the transaction: there it would wait for another flush, whatever becomes of this one.
 */
export function takeOrphans(uow: UnitOfWork): void {
  if (!outside.has(uow)) {
    return;
  }
  const [, ...around] = withOutside(uow);
  const own: Set<object> = uow.getOrphanRemoveStack();
  for (const orphan of own) {
    const noted = helper(orphan).__em?.getUnitOfWork();
    if (noted && around.includes(noted) && !noted.getOrphanRemoveStack().has(orphan as never)) {
      own.delete(orphan); // it has a parent again
    }
  }
  for (const orphan of around.flatMap((one) => [...(one.getOrphanRemoveStack() as Set<object>)])) {
    if (uow.getIdentityMap().getByEntity(orphan) === orphan) {
      own.add(orphan);
    }
  }
}

/**
 * MikroORM removes a new entity, too, that was taken out of a collection again, or whose parent is removed, before it was
 * saved. In a transaction, one that joins a parent which the EntityManager around has loaded waits there to be inserted.
 */
export function isUnsavedPart(em: EntityManager, { type, entity }: AnyChangeSet): boolean {
  if (type === ChangeSetType.CREATE || !isNew(entity)) {
    return false;
  }
  const [uow, ...around] = withOutside(em.getUnitOfWork(false));
  const stacks: Set<object>[] = [uow!.getOrphanRemoveStack(), ...around.map((one) => one.getPersistStack())];
  return !helper(entity).hasPrimaryKey() || stacks.some((stack) => stack.has(entity));
}

/**
 * A fork has the entities of this unit of work, as that of a transaction has.
 *
 * @param isApart it has them from a transaction, and is in none
 */
export function forked(fork: UnitOfWork, source: UnitOfWork, isApart: boolean): void {
  setSource(fork, source);
  setApart(fork, isApart);
}

/** Of a unit of work and those from which it has entities: those in the same transaction as it, or in none. */
export function withSourcesOfTransaction(uow: UnitOfWork): UnitOfWork[] {
  const all = withSources(uow);
  return all.slice(0, all.findIndex((one) => apart.has(one)) + 1 || all.length);
}
