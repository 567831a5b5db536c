/** Collections: the older state that they are compared with, for which MikroORM has no setter. */
import { Collection } from '@mikro-orm/core';

/** Makes a collection compare its items with an older state again, until it takes its next snapshot. */
export function forgetSnapshot(collection: Collection<object>, older: object[] | undefined): void {
  // the snapshot itself is a private field
  Object.defineProperty(collection, 'getSnapshot', { value: () => older, configurable: true, enumerable: false });
  Object.defineProperty(collection, 'takeSnapshot', {
    value: (forcePropagate?: boolean) => {
      delete (collection as Partial<typeof collection>).getSnapshot;
      delete (collection as Partial<typeof collection>).takeSnapshot;
      collection.takeSnapshot(forcePropagate as true);
    },
    configurable: true,
    enumerable: false,
  });
}

/** A collection cannot be made to forget that it is initialized; a new one in its place can. */
export function replaceByUnloaded(collection: Collection<object>, items: readonly object[]): void {
  const fresh = Collection.create(collection.owner, collection.property.name as never, undefined, false);
  items.forEach((item) => fresh.add(item as never));
}
