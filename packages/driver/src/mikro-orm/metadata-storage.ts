/** Classes that MikroORM discovers late, and what it has compiled of them before. */
import type { Configuration, EntityMetadata, EntityProperty, MetadataStorage } from '@mikro-orm/core';

/** Is the function that takes snapshots a precompiled one from before this property was compared? */
export function isCompiledWithout(prop: EntityProperty, meta: EntityMetadata, config: Configuration): boolean {
  const compiled = config.get('compiledFunctions')?.[`snapshotGenerator-${meta.uniqueName}`];
  return compiled !== undefined && !String(compiled).includes(prop.name);
}

/** Hooks `orm.discoverEntity()`, which calls no discovery hook: it puts each class into the ORM's storage. */
export function hookLaterDiscovery(storage: MetadataStorage, discovered: (meta: EntityMetadata) => void): void {
  const registry = storage as unknown as { set(entityName: unknown, meta: EntityMetadata): EntityMetadata };
  const { set } = registry;
  registry.set = (entityName, meta) => {
    discovered(meta);
    return set.call(storage, entityName, meta);
  };
}
