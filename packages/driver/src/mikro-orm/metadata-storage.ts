/** Classes that MikroORM discovers late, and what it has compiled of them before. */
import type { Configuration, EntityMetadata, EntityProperty, MetadataStorage } from '@mikro-orm/core';

/**
 * Is the function that takes snapshots a precompiled one from before this property was compared? Asked of the function
 * that MikroORM will use: the name under which it was compiled is another one since 7.2.5.
 */
export function isCompiledWithout(
  prop: EntityProperty,
  meta: EntityMetadata,
  storage: MetadataStorage,
  config: Configuration,
): boolean {
  if (!config.get('compiledFunctions')) {
    return false;
  }
  const code = String(config.getComparator(storage).getSnapshotGenerator(meta.class));
  const quoted = JSON.stringify(prop.name);
  return ![`ret.${prop.name} =`, `ret[${quoted}] =`, `ret['${quoted.slice(1, -1)}'] =`].some((text) =>
    code.includes(text),
  );
}

/** Hooks `orm.discoverEntity()`, which calls no discovery hook: it puts each class into the ORM's storage. */
export function hookLaterDiscovery(storage: MetadataStorage, discovered: (meta: EntityMetadata) => void): void {
  const registry = storage as unknown as { set(entityName: unknown, meta: EntityMetadata): EntityMetadata };
  const { set } = registry;
  registry.set = (entityName, meta) => {
    const known = set.call(storage, entityName, meta);
    discovered(meta);
    return known;
  };
}
