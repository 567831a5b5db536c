/** A version that was assigned and nothing else: it is only compared. And how it is told from a change. */
import { type Dictionary, type EntityManager, type EntityProperty } from '@mikro-orm/core';
import { isOfType, isTouched } from '@mikro-ool/core';
import { ownVersionOf } from '../discovery.ts';
import { type AnyChangeSet, type ChangeSetGroups, snapshotOf, updatesOf } from '../mikro-orm/entity.ts';

/**
 * Was nothing but the version assigned to this entity? A touched one is written; and what `onUpdate` sets comes along
 * with every change, and is none by itself.
 */
export function isClaim({ entity, meta, payload, originalEntity }: AnyChangeSet, elsewhere: Set<object>): boolean {
  const version = ownVersionOf(meta)?.name;
  if (!version || !(version in payload) || elsewhere.has(entity) || isTouched(originalEntity, version)) {
    return false;
  }
  const properties = meta.properties as Record<string, EntityProperty>;
  return Object.keys(payload).every((key) => key === version || isStamp(properties[key]));
}

/** With joined-table inheritance an entity has a change set per table: those changed in one without the version. */
export function changedElsewhere(groups: ChangeSetGroups): Set<object> {
  const isElsewhere = ({ meta }: AnyChangeSet) => meta.inheritanceType === 'tpt' && !ownVersionOf(meta);
  // a group is of one table
  return new Set(
    updatesOf(groups)
      .filter(([set]) => isElsewhere(set!))
      .flatMap((sets) => sets.map((set) => set.entity)),
  );
}

/** Set by `onUpdate`, and can be set back: the snapshot has the stored value in a form that can be hydrated. */
function isStamp(prop: EntityProperty | undefined): boolean {
  return Boolean(prop?.onUpdate) && !prop!.embedded && !prop!.object && !isOfType(prop!.customType, 'json');
}

/** MikroORM has called `onUpdate` for a row that is not written after all. */
export function takeBackStamps(em: EntityManager, { entity, meta, payload }: AnyChangeSet): void {
  const snapshot = snapshotOf(entity) as Dictionary;
  const stored: Dictionary = {};
  for (const key of Object.keys(payload).filter((name) => name !== meta.versionProperty)) {
    if (key in snapshot) {
      stored[key] = snapshot[key];
    } else {
      delete (entity as Dictionary)[key];
    }
  }
  const hydrator = em.config.getHydrator(em.getMetadata());
  hydrator.hydrate(entity, meta, stored, em.getEntityFactory(), 'full', false, true);
}
