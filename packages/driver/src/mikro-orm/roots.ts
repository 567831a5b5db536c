/**
 * Roots of aggregates and MikroORM's unit of work, which writes nothing of rows that do not change. A root of which a part
 * is written gets a change set of its own, or its change set counts: before all others, as everybody who writes a part
 * begins with its root.
 */
import {
  ChangeSetType,
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  type MetadataStorage,
  Reference,
  Utils,
} from '@mikro-orm/core';
import { aggregatesOf } from '../covers/aggregate.ts';
import { type Roots, NO_ROOTS, explain, rootsOf } from '../flush/roots.ts';
import { type AnyChangeSet, snapshotOf } from './entity.ts';
import { computeUnchanged } from './verified.ts';

/** Called when all listeners have run. Returns the roots that this flush writes, because it writes a part of them. */
export function takeRoots(em: EntityManager): Roots {
  const aggregates = aggregatesOf(em.getMetadata() as MetadataStorage);
  const roots = aggregates ? rootsOf(em, aggregates) : NO_ROOTS;
  if (roots.size === 0) {
    return NO_ROOTS;
  }
  const uow = em.getUnitOfWork(false);
  const changed = new Set(uow.getChangeSets().map(({ entity }) => entity as object));
  computeUnchanged(
    em,
    [...roots.keys()].filter((root) => !changed.has(root)),
  );
  for (const changeSet of uow.getChangeSets() as AnyChangeSet[]) {
    const sets = [changeSet, ...((changeSet.tptChangeSets ?? []) as AnyChangeSet[])];
    if (roots.has(changeSet.entity) && sets.every(canBeEarly)) {
      sets.forEach((set) => (set.type = ChangeSetType.UPDATE_EARLY));
    }
  }
  explain(roots);
  return roots;
}

/** A key of a row that is still to be inserted, and a value that another row has to give up, come first. */
function canBeEarly({ entity, meta, payload }: AnyChangeSet): boolean {
  const uniques = new Set(meta.uniques.flatMap(({ properties }) => Utils.asArray(properties) as string[]));
  return Object.keys(payload).every((name) => {
    const prop = meta.properties[name as never] as EntityProperty | undefined;
    const target = Reference.unwrapReference((entity as Dictionary)[name] as object);
    const isNew = Utils.isEntity(target) && snapshotOf(target) === undefined;
    return prop && !prop.unique && !uniques.has(name) && !isNew;
  });
}
