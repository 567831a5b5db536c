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
import { changesOf, isChanged } from './row.ts';

/**
 * The parts of aggregates that are saved, and loaded or changed by a reference: their roots' version stands for them, too.
 * Also those that are to be removed, or were given to another root since; by part, what is to be removed together with it,
 * from the uppermost on.
 */
export function partsOf(em: EntityManager, roots: Iterable<object>): Map<object, readonly object[]> {
  const parts = new Map<object, readonly object[]>();
  const managed = managedBy(em);
  const isPart = (item: object) =>
    managed.has(item) && helper(item).__originalEntityData && (helper(item).__initialized || isChanged(em, item));
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
  const before = prop.mappedBy
    ? [...(uow.getIdentityMap().getStore(prop.targetMeta!).values() as Iterable<object>)].filter(
        (item) => relatedBefore(em, item, prop.mappedBy, entity.constructor) === entity,
      )
    : [relatedBefore(em, entity, name, prop.targetMeta!.class)];
  return new Set([...itemsNow(entity, name), ...before.filter((item) => item !== undefined)]);
}

function itemsNow(entity: Dictionary, name: string): object[] {
  const value: unknown = entity[name];
  const items = Utils.isCollection<object>(value) ? value.getItems(false) : value ? [value as object] : [];
  return items.map((item) => Reference.unwrapReference(item));
}

/** What an entity referred to when it was read, if that is in memory. */
export function relatedBefore(em: EntityManager, entity: object, name: string, target: unknown): object | undefined {
  const { __originalEntityData: snapshot, __schema: schema } = helper(entity);
  const key: unknown = (snapshot as Dictionary | undefined)?.[name];
  return key == null ? undefined : em.getUnitOfWork(false).getById(target as never, key as never, schema, true);
}

/** What I have put into an entity, and what the relation is called there: a new item, or one of another entity when it was read. */
export function addedTo(em: EntityManager, entity: object): { item: Dictionary; relation: EntityProperty }[] {
  return metaOf(em, entity)
    .relations.filter(({ kind, mappedBy }) => mappedBy && kind !== ReferenceKind.MANY_TO_MANY)
    .flatMap((relation) => itemsNow(entity, relation.name).map((item) => ({ item, relation })))
    .filter(
      ({ item, relation: { mappedBy } }) => !helper(item).__originalEntityData || mappedBy in changesOf(em, item),
    );
}
