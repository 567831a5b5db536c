/**
 * Identity maps: who is in one, asked without changing it; and entities that are known by another unique column too
 * (`targetKey`), under which MikroORM files them since 7.2.5.
 */
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

/**
 * Which identity maps have an entity under its key. MikroORM's own answer makes a place for the class where there is none,
 * and rows are written in the order of these places; so it is asked only where the entity was seen in the map, which is
 * gone through once.
 */
export class Members {
  readonly #known = new Map<IdentityMap, ReadonlySet<object>>();

  has(map: IdentityMap, entity: object): boolean {
    const known = this.#known.get(map) ?? new Set<object>(map);
    this.#known.set(map, known);
    return known.has(entity) && map.getByEntity(entity as never) === entity;
  }
}
