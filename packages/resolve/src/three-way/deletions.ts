/** One side has removed the row: what is reported of it, and what may be decided. */
import { type Dictionary, type EntityManager, type EntityProperty, ReferenceKind, helper } from '@mikro-orm/core';
import { Refusal } from '@mikro-ool/core';
import { forget, metaOf } from '../managed.ts';
import type { Deleted, Removed } from '../rebased.ts';
import { type Row, collectionsOf } from './row.ts';
import { type Base, isLoaded } from './sides.ts';
import { keysOf } from './units.ts';
import { at } from './values.ts';

/** They have removed what I have changed. */
export function deletedByOthers(row: Row, base: Base): Deleted {
  const { em, entity } = row;
  return { entity, drop: () => forget(em, entity), recreate: () => recreate(row, base) };
}

function recreate(row: Row, base: Base): void {
  const { em, entity, meta, version } = row;
  if (!helper(entity).__originalEntityData) {
    return; // it is already
  }
  const missing = missingIn(row, base);
  if (missing !== undefined || !helper(entity).__initialized) {
    throw new Refusal(
      `${meta.className} cannot be created again, because it was loaded only in part` +
        `${missing === undefined ? '' : `, without ${missing}`}. Assign what is missing, or drop it.`,
      entity,
    );
  }
  // without a snapshot, it is new, and so are its links
  delete helper(entity).__originalEntityData;
  if (version) {
    entity[version] += 1;
  }
  for (const [prop, collection] of collectionsOf(row)) {
    const items = prop.owner ? collection.getItems(false) : [];
    items.forEach((item) => collection.removeWithoutPropagation(item));
    collection.takeSnapshot();
    items.forEach((item) => collection.addWithoutPropagation(item));
  }
  em.persist(entity);
}

/** What would be inserted as NULL, or not at all, though nobody knows what it was. */
function missingIn(row: Row, base: Base): string | undefined {
  const find = (prop: EntityProperty, path: string[]): string[] => {
    const value = at(row.entity, path);
    if (value && prop.kind === ReferenceKind.EMBEDDED && !prop.object) {
      return Object.values(prop.embeddedProps).flatMap((child) => find(child, [...path, child.embedded![1]]));
    }
    const isMissing = value === undefined && !keysOf(prop).some((name) => isLoaded(row, base, name));
    return isMissing && prop.persist !== false ? [path.join('.')] : [];
  };
  const props = row.meta.comparableProps.filter((prop) => !prop.embedded);
  return props.flatMap((prop) => find(prop, [prop.name])).at(0);
}

/** Would a flush write the row, or its links? The rows of 1:m items change, and say so themselves. */
export function hasChanges(row: Row, { snapshot }: Base): boolean {
  const { em, entity, meta } = row;
  const comparator = em.getComparator();
  const diff = comparator.diffEntities(meta.class, snapshot as never, comparator.prepareEntity(entity));
  const links = collectionsOf(row).filter(([{ kind }]) => kind === ReferenceKind.MANY_TO_MANY);
  return Object.keys(diff).length > 0 || links.some(([, collection]) => collection.isDirty());
}

/** The first of these that the next flush removes. */
export function removedOf(em: EntityManager, entities: readonly object[]): object | undefined {
  const uow = em.getUnitOfWork(false);
  return entities.find((one) => uow.getRemoveStack().has(one) || uow.getOrphanRemoveStack().has(one));
}

/** I remove what they have changed. */
export function removedByMe(em: EntityManager, entity: object): Removed {
  const keep = () => {
    em.persist(entity);
    em.getUnitOfWork(false).cancelOrphanRemoval(entity);
    giveBack(em, entity);
  };
  return { entity, keep };
}

/** Removed from a collection, or from the other side of a 1:1, an orphan does not know any more what it belonged to. */
function giveBack(em: EntityManager, orphan: Dictionary): void {
  const { __originalEntityData: snapshot, __schema: schema } = helper(orphan);
  for (const { name, inversedBy, targetMeta, ref } of metaOf(em, orphan).relations) {
    const key: unknown = (snapshot as Dictionary)[name];
    const other = inversedBy && (targetMeta!.properties[inversedBy as never] as EntityProperty);
    if (other && other.orphanRemoval && orphan[name] == null && key != null) {
      const options = { wrapped: Boolean(ref), schema, convertCustomTypes: true };
      orphan[name] = em.getReference(targetMeta!.class, key as never, options as never);
    }
  }
}
