/** One side has removed the row: what is reported of it, and what may be decided. */
import {
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  Reference,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { Refusal } from '@mikro-ool/core';
import { forget, isOrphan, managedBy, metaOf, orphanStacksOf } from '../managed.ts';
import type { Deleted, Removed } from '../rebased.ts';
import { addedTo, relatedBefore } from './parts.ts';
import { type Row, collectionsOf, isChanged, partRow } from './row.ts';
import { type Base, entityOf, isLoaded } from './sides.ts';
import { keysOf } from './units.ts';
import { at, isOrphanedBy, own } from './values.ts';

/** They have removed what I have changed. */
export function deletedByOthers(row: Row, base: Base): Deleted {
  const { em, entity } = row;
  return { entity, drop: () => drop(em, entity), recreate: () => recreate(row, base) };
}

/**
 * They have removed what it belongs to, too. Whoever has it created again needs that as well.
 *
 * @param ghosts by entity: rows that only they have touched
 * @returns and which of these are needed until it is decided
 */
export function withHolders(
  em: EntityManager,
  all: readonly Deleted[],
  ghosts: ReadonlyMap<object, Deleted | undefined>,
): { deleted: Deleted[]; needed: ReadonlyMap<object, unknown> } {
  const needed = new Map<object, Set<object>>();
  const holdersOf = (entity: Dictionary): object[] => {
    const related = metaOf(em, entity).relations.flatMap(({ name, owner, kind }) => {
      const value: unknown = owner || kind === ReferenceKind.MANY_TO_ONE ? entity[name] : undefined;
      return Utils.isEntity<object>(value, true) ? [Reference.unwrapReference(value)] : [];
    });
    return related.filter((one) => ghosts.get(one)).flatMap((one) => [one, ...holdersOf(one)]);
  };
  const deleted = all.map(({ entity, drop, recreate }): Deleted => {
    const holders = holdersOf(entity);
    holders.forEach((one) => needed.set(one, (needed.get(one) ?? new Set()).add(entity)));
    return {
      entity,
      drop() {
        drop();
        holders.forEach((one) => needed.get(one)!.delete(entity));
        // one that was created again for another part is new
        const free = holders.filter((one) => needed.get(one)!.size === 0 && helper(one).__originalEntityData);
        free.forEach((one) => ghosts.get(one)!.drop());
      },
      recreate() {
        recreate();
        holders.forEach((one) => ghosts.get(one)!.recreate());
      },
    };
  });
  return { deleted, needed };
}

/** What I have put into it goes with it, where it cannot be without, or back to where it was. */
function drop(em: EntityManager, entity: object): void {
  for (const { item, relation } of addedTo(em, entity)) {
    const prop = metaOf(em, item).properties[relation.mappedBy as never] as EntityProperty;
    if (helper(item).__originalEntityData) {
      item[prop.name] = valueBefore(em, item, prop);
    } else if (!prop.nullable || relation.orphanRemoval) {
      drop(em, item);
    }
  }
  forget(em, entity);
}

/** What it referred to when it was read. */
function valueBefore(em: EntityManager, entity: object, prop: EntityProperty): unknown {
  const { __originalEntityData: snapshot } = helper(entity);
  const before = entityOf(partRow(em, entity), snapshot as Dictionary);
  return own(em, prop, before[prop.name]) ?? null;
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

/** Would a flush write the row, its links, or what was put into it? Other 1:m items are rows that say so themselves. */
export function hasChanges({ em, entity, meta }: Row): boolean {
  const links = meta.relations
    .filter(({ kind }) => kind === ReferenceKind.MANY_TO_MANY)
    .map(({ name }) => entity[name]);
  return isChanged(em, entity) || links.some(areLinksChanged) || addedTo(em, entity).length > 0;
}

/** One that is not loaded may have been added to. */
function areLinksChanged(links: unknown): boolean {
  if (!Utils.isCollection<object>(links)) {
    return false;
  }
  const [before, now] = [links.getSnapshot(), links.getItems(false)];
  return links.isInitialized() && before
    ? before.length !== now.length || now.some((item) => !before.includes(item))
    : links.isDirty();
}

/** The first of these that the next flush removes. */
export function removedOf(em: EntityManager, entities: readonly object[]): object | undefined {
  const pending: Set<object> = em.getUnitOfWork(false).getRemoveStack();
  return entities.find((one) => pending.has(one) || isOrphan(em, one));
}

/** I remove what they have changed. */
export function removedByMe(em: EntityManager, entity: object): Removed {
  const keep = () => {
    em.persist(entity);
    orphanStacksOf(em).forEach((stack) => stack.delete(entity));
    giveBack(em, entity);
  };
  return { entity, keep };
}

/** An orphan does not know any more what it belonged to, or that does not know of it, where it has the foreign key. */
function giveBack(em: EntityManager, orphan: Dictionary): void {
  for (const prop of metaOf(em, orphan).relations) {
    if (isOrphanedBy(orphan, prop)) {
      orphan[prop.name] = valueBefore(em, orphan, prop);
    }
  }
  for (const holder of managedBy(em) as ReadonlySet<Dictionary>) {
    for (const prop of metaOf(em, holder).relations) {
      const hasLost = prop.owner && prop.orphanRemoval && holder[prop.name] == null;
      if (hasLost && relatedBefore(em, holder, prop.name, prop.targetMeta!.class) === orphan) {
        holder[prop.name] = own(em, prop, orphan);
      }
    }
  }
}
