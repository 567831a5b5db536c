/**
 * A touch counts in the flush, whatever its listeners recompute: MikroORM takes a new snapshot then, and the mark of the
 * touch stands in the old one.
 */
import { ChangeSetType, type EntityManager } from '@mikro-orm/core';
import { asTouched, isTouched, touchedIn, versionOf } from '@mikro-ool/core';
import { type AnyChangeSet, metaOf, restoreSnapshot, snapshotOf } from './entity.ts';

interface Recomputing {
  computeChangeSet(entity: object, type?: AnyChangeSet['type']): void;
  recomputeSingleChangeSet(entity: object): void;
}

/** Hooks what recomputes change sets. Returns what must run when all listeners have. */
export function hookTouches(em: EntityManager): () => void {
  const uow = em.getUnitOfWork(false);
  const methods = uow as unknown as Recomputing;
  const { computeChangeSet, recomputeSingleChangeSet } = methods;
  const touched = touchedIn(uow);
  /** Those whose mark went with their snapshot. */
  const recomputed = new Set<object>();
  const note = (entity: object) => {
    if (hasMark(em, entity)) {
      recomputed.add(entity);
    }
  };
  methods.computeChangeSet = (entity, type) => {
    note(entity);
    computeChangeSet.call(uow, entity, type);
  };
  methods.recomputeSingleChangeSet = (entity) => {
    note(entity);
    recomputeSingleChangeSet.call(uow, entity);
  };
  return () => {
    const entities = new Set([...recomputed, ...[...touched].filter((entity) => hasMark(em, entity))]);
    recomputed.clear();
    touched.clear();
    const sets = entities.size > 0 ? uow.getChangeSets() : [];
    const written = new Map(sets.map((changeSet) => [changeSet.entity, changeSet as AnyChangeSet]));
    for (const entity of entities) {
      const changeSet = written.get(entity);
      if (changeSet) {
        mark(em, changeSet);
      } else if (uow.getIdentityMap().getByEntity(entity) === entity && !uow.getRemoveStack().has(entity)) {
        restoreSnapshot(entity, asTouched(snapshotOf(entity) as object, versionOf(metaOf(em, entity))!.name));
        computeChangeSet.call(uow, entity);
      }
    }
  };
}

function hasMark(em: EntityManager, entity: object): boolean {
  const version = versionOf(metaOf(em, entity))?.name;
  return version !== undefined && isTouched(snapshotOf(entity), version);
}

/** With joined-table inheritance there is a change set per table. */
function mark(em: EntityManager, changeSet: AnyChangeSet): void {
  const { entity, type, originalEntity, tptChangeSets = [] } = changeSet;
  if ((type === ChangeSetType.UPDATE || type === ChangeSetType.UPDATE_EARLY) && originalEntity) {
    const marked = asTouched(originalEntity, versionOf(metaOf(em, entity))!.name);
    [changeSet, ...tptChangeSets].forEach((set) => (set.originalEntity = marked as never));
  }
}
