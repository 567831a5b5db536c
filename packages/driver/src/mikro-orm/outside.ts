/** `em.transactional()` works on a fork, and hands entities to and fro: which unit of work is around which. */
import type { UnitOfWork } from '@mikro-orm/core';

const outside = new WeakMap<object, UnitOfWork>();

/** A transaction works on a unit of work of its own, inside this one. */
export function opened(inside: UnitOfWork, around: UnitOfWork): void {
  outside.set(inside, around);
}

/** A unit of work, and those around it. */
export function withOutside(uow: UnitOfWork): UnitOfWork[] {
  const around = outside.get(uow);
  return around ? [uow, ...withOutside(around)] : [uow];
}
