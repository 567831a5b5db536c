/** A row that is merged: its entity, as its EntityManager knows it. */
import {
  type Collection,
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  Utils,
  helper,
} from '@mikro-orm/core';
import { Refusal, versionOf } from '@mikro-ool/core';
import { metaOf } from '../managed.ts';

export interface Row {
  readonly em: EntityManager;
  /** Mine, with the unsaved changes. */
  readonly entity: Dictionary;
  readonly meta: EntityMetadata;
  /** What its version is called; a part of an aggregate may have none. */
  readonly version: string | undefined;
}

/** @throws {ValidationError} for an entity that is not managed or has no version */
export function staleRow(em: EntityManager, entity: object, managed: ReadonlySet<object>): Row {
  const wrapped = helper(entity) as ReturnType<typeof helper> | undefined;
  const name = wrapped?.__meta.className ?? entity.constructor.name;
  if (!wrapped?.__managed || !managed.has(entity)) {
    throw new Refusal(
      `${name} cannot be rebased, because this EntityManager does not manage it. Pass the one whose flush failed; ` +
        `after a transaction that was rolled back, run the whole transaction again.`,
      entity,
    );
  }
  const row = partRow(em, entity);
  if (!row.version) {
    throw new Refusal(`${name} cannot be rebased, because it has no VersionField. Add one.`, entity);
  }
  return row;
}

/** A part of an aggregate, which is known to be managed. */
export function partRow(em: EntityManager, entity: object): Row {
  const meta = metaOf(em, entity);
  return { em, entity, meta, version: versionOf(meta)?.name };
}

/** Its collections that are loaded. */
export function collectionsOf({ entity, meta }: Row): [EntityProperty, Collection<object>][] {
  return meta.relations
    .map((prop): [EntityProperty, Collection<object>] => [prop, entity[prop.name]])
    .filter(([, items]) => Utils.isCollection(items) && items.isInitialized() && items.getSnapshot());
}

/** What a flush would write of the columns of an entity that is saved, by the name in its snapshot. */
export function changesOf(em: EntityManager, entity: object): Dictionary {
  const { __originalEntityData: snapshot } = helper(entity);
  const comparator = em.getComparator();
  return comparator.diffEntities(metaOf(em, entity).class, snapshot as never, comparator.prepareEntity(entity));
}

export function isChanged(em: EntityManager, entity: object): boolean {
  return Object.keys(changesOf(em, entity)).length > 0;
}
