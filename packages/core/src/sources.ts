/** Several EntityManagers may have the same entities: a fork has those of its source, as a transaction works on one. */
import type { UnitOfWork } from '@mikro-orm/core';

/** On a unit of work: the one that it has entities from. Another copy of this package may look for it. */
const SOURCE = Symbol.for('mikro-ool:source');

type Sourced = { [SOURCE]?: UnitOfWork };

/** @internal A unit of work has the entities of this one, too. */
export function setSource(uow: UnitOfWork, source: UnitOfWork): void {
  (uow as Sourced)[SOURCE] = source;
}

/** @internal A unit of work, and those from which it has entities. */
export function withSources(uow: UnitOfWork): UnitOfWork[] {
  const source = (uow as Sourced)[SOURCE];
  return source ? [uow, ...withSources(source)] : [uow];
}
