/** Which rows belong to the roots that are merged: the parts of their aggregates, as far as they are in memory. */
import {
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  Reference,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { type VersionField, versionOf } from '@mikro-ool/core';
import { managedBy, metaOf } from '../managed.ts';

/**
 * The parts of aggregates that are loaded, and saved: their roots' version stands for them, too. Also those that are to be removed,
 * or were given to another root since; by part, what is to be removed together with it, from the uppermost on.
 */
export function partsOf(em: EntityManager, roots: Iterable<object>): Map<object, readonly object[]> {
  const parts = new Map<object, readonly object[]>();
  const managed = managedBy(em);
  const isPart = (item: object) =>
    managed.has(item) && helper(item).__initialized && Boolean(helper(item).__originalEntityData);
  const follow = (entity: object, [name, ...rest]: readonly string[], above: readonly object[]): void => {
    for (const item of itemsOf(em, entity, name!)) {
      if (rest.length > 0) {
        follow(item, rest, [...above, item]);
      } else if (isPart(item)) {
        parts.set(item, above);
      }
    }
  };
  for (const root of roots) {
    const { aggregate = [] } = (versionOf(metaOf(em, root))?.customType ?? {}) as Partial<VersionField>;
    aggregate.forEach((path) => follow(root, path.split('.'), []));
  }
  return parts;
}

/** What belongs to an entity by a relation, and what has belonged to it when it was read, as far as it is in memory. */
function itemsOf(em: EntityManager, entity: object, name: string): Set<object> {
  const prop = metaOf(em, entity).properties[name as never] as EntityProperty | undefined;
  // an m:n item belongs to nobody
  if (!prop || prop.kind === ReferenceKind.MANY_TO_MANY) {
    return new Set();
  }
  const uow = em.getUnitOfWork(false);
  const { class: Item } = prop.targetMeta!;
  const named = (holder: object, key: string, target: never): object | undefined => {
    const stored: unknown = (helper(holder).__originalEntityData as Dictionary | undefined)?.[key];
    return stored == null ? undefined : uow.getById(target, stored as never, helper(holder).__schema, true);
  };
  const value: unknown = (entity as Dictionary)[name];
  const now = Utils.isCollection<object>(value) ? value.getItems(false) : value ? [value as object] : [];
  const before = prop.mappedBy
    ? [...(uow.getIdentityMap().getStore(prop.targetMeta!).values() as Iterable<object>)].filter(
        (item) => named(item, prop.mappedBy, entity.constructor as never) === entity,
      )
    : [named(entity, name, Item as never)];
  return new Set([...now, ...before].filter((item) => item !== undefined).map((one) => Reference.unwrapReference(one)));
}
