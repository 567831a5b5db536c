/** What is found out of all classes at once, and kept as long as there are no more of them. */
import type { MetadataStorage } from '@mikro-orm/core';

/** Returns what `find` has found of these classes; it is asked again when `orm.discoverEntity()` has added some. */
export function ofAllClasses<Found>(find: (metadata: MetadataStorage) => Found): (metadata: MetadataStorage) => Found {
  const known = new WeakMap<MetadataStorage, { readonly classes: number; readonly found: Found }>();
  return (metadata) => {
    const classes = metadata.getAll().size;
    const before = known.get(metadata);
    if (before?.classes === classes) {
      return before.found;
    }
    const found = find(metadata);
    known.set(metadata, { classes, found });
    return found;
  };
}
