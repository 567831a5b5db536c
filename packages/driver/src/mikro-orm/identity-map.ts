/** Entities that are known by another unique column too (`targetKey`): MikroORM files them under it since 7.2.5. */
import type { ChangeSet, Dictionary, EntityMetadata, IdentityMap } from '@mikro-orm/core';

/** The columns by which relations refer to a class, besides its primary key. */
function targetKeysOf(meta: EntityMetadata): readonly string[] {
  return (meta.root as { targetKeys?: string[] }).targetKeys ?? [];
}

/** Does a flush file the entity under another key? */
export function hasMovedTargetKey({ meta, payload }: ChangeSet<object>): boolean {
  return targetKeysOf(meta).some((key) => key in payload);
}

/** Files an entity under the keys that the database has; what was assigned meanwhile stays assigned. */
export function restoreTargetKeys(map: IdentityMap, { entity, meta, originalEntity }: ChangeSet<object>): void {
  const values: Dictionary = entity;
  const stored = originalEntity as Dictionary;
  const keys = targetKeysOf(meta);
  const assigned: unknown[] = keys.map((key) => values[key]);
  map.delete(entity as never);
  for (const key of keys) {
    const { customType } = meta.properties[key as never] as EntityMetadata['props'][number];
    values[key] = customType ? customType.convertToJSValue(stored[key], customType.platform!) : stored[key];
  }
  map.store(entity as never);
  keys.forEach((key, i) => (values[key] = assigned[i]));
}
