/** `em.transactional()` works on a fork, and hands entities to and fro: which unit of work is around which, or has its entities. */
import type { UnitOfWork } from '@mikro-orm/core';
import { StateOn } from './layers.ts';

const outside = new StateOn<UnitOfWork>();

/** A transaction works on a unit of work of its own, inside this one. */
export function opened(inside: UnitOfWork, around: UnitOfWork): void {
  outside.give(inside, around);
}

/** A unit of work, and those around it. */
export function withOutside(uow: UnitOfWork): UnitOfWork[] {
  return upwards(uow, outside);
}

const sources = new StateOn<UnitOfWork>();

/** A fork has the entities of this unit of work, as that of a transaction has. */
export function forked(fork: UnitOfWork, source: UnitOfWork): void {
  sources.give(fork, source);
}

/** A unit of work, and those from which it has entities. */
export function withSources(uow: UnitOfWork): UnitOfWork[] {
  return upwards(uow, sources);
}

function upwards(uow: UnitOfWork, next: StateOn<UnitOfWork>): UnitOfWork[] {
  return next.has(uow) ? [uow, ...upwards(next.of(uow), next)] : [uow];
}
