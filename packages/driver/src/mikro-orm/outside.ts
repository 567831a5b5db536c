/** `em.transactional()` works on a fork, and hands entities to and fro: which unit of work is around which, or has its entities. */
import type { UnitOfWork } from '@mikro-orm/core';

const outside = new WeakMap<object, UnitOfWork>();

/** A transaction works on a unit of work of its own, inside this one. */
export function opened(inside: UnitOfWork, around: UnitOfWork): void {
  outside.set(inside, around);
}

/** A unit of work, and those around it. */
export function withOutside(uow: UnitOfWork): UnitOfWork[] {
  return upwards(uow, outside);
}

const sources = new WeakMap<object, UnitOfWork>();

/** A fork has the entities of this unit of work, as that of a transaction has. */
export function forked(fork: UnitOfWork, source: UnitOfWork): void {
  sources.set(fork, source);
}

/** A unit of work, and those from which it has entities. */
export function withSources(uow: UnitOfWork): UnitOfWork[] {
  return upwards(uow, sources);
}

function upwards(uow: UnitOfWork, next: WeakMap<object, UnitOfWork>): UnitOfWork[] {
  const above = next.get(uow);
  return above ? [uow, ...upwards(above, next)] : [uow];
}
