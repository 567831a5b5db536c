/**
 * A touch counts in the flush, whatever its listeners recompute: MikroORM takes a new snapshot then, and the mark of the
 * touch stands in the old one.
 */
import { type EntityManager, helper } from '@mikro-orm/core';
import { asTouched, isTouched, touchedIn, versionOf } from '@mikro-ool/core';
import { type AnyChangeSet, isManaged, isUpdate, metaOf, restoreSnapshot, snapshotOf, tablesOf } from './entity.ts';
import { type FlushState, stateOf } from './flush-state.ts';
import type { Layer } from './layers.ts';

interface Recomputing {
  computeChangeSet(entity: object, type?: AnyChangeSet['type']): void;
  recomputeSingleChangeSet(entity: object): void;
}

/** Notices touched entities whose change sets are computed once more. */
export const noticingTouches: Layer<Recomputing> = (Base) =>
  class extends Base {
    override computeChangeSet(entity: object, type?: AnyChangeSet['type']): void {
      note(this, entity);
      super.computeChangeSet(entity, type);
    }

    override recomputeSingleChangeSet(entity: object): void {
      note(this, entity);
      super.recomputeSingleChangeSet(entity);
    }
  };

function note(uow: object, entity: object): void {
  const { em, recomputed } = stateOf(uow);
  if (hasMark(em, entity)) {
    recomputed.add(entity);
  }
}

/** The mark went with the snapshot. Whatever version has been assigned since: it is for the flush to refuse one. */
export function touchAgain(entity: object): void {
  const em = helper(entity).__em;
  const snapshot = snapshotOf(entity);
  if (em && snapshot) {
    restoreSnapshot(entity, marked(em, entity, snapshot));
    touchedIn(em.getUnitOfWork(false)).add(entity);
  }
}

/** Called when all listeners have run. */
export function keepTouches({ em, recomputed }: FlushState): void {
  const uow = em.getUnitOfWork(false);
  const touched = touchedIn(uow);
  if (recomputed.size + touched.size === 0) {
    return;
  }
  const entities = new Set([...recomputed, ...[...touched].filter((entity) => hasMark(em, entity))]);
  recomputed.clear();
  touched.clear();
  const sets = entities.size > 0 ? uow.getChangeSets() : [];
  const written = new Map(sets.map((changeSet) => [changeSet.entity, changeSet as AnyChangeSet]));
  for (const entity of entities) {
    const changeSet = written.get(entity);
    if (changeSet) {
      mark(em, changeSet);
    } else if (isManaged(em, entity) && !uow.getRemoveStack().has(entity)) {
      restoreSnapshot(entity, marked(em, entity, snapshotOf(entity)));
      (uow as unknown as Recomputing).computeChangeSet(entity);
    }
  }
  // it notices these, too
  recomputed.clear();
}

function hasMark(em: EntityManager, entity: object): boolean {
  const version = versionOf(metaOf(em, entity))?.name;
  return version !== undefined && isTouched(snapshotOf(entity), version);
}

/** A snapshot with the mark of a touch. */
function marked(em: EntityManager, entity: object, snapshot: unknown): object {
  return asTouched(snapshot as object, versionOf(metaOf(em, entity))!.name);
}

function mark(em: EntityManager, changeSet: AnyChangeSet): void {
  const { entity, type, originalEntity } = changeSet;
  if (isUpdate(type) && originalEntity) {
    const snapshot = marked(em, entity, originalEntity) as never;
    tablesOf(changeSet).forEach((set) => (set.originalEntity = snapshot));
  }
}
