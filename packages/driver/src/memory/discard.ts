/**
 * Rolled back is rolled back: what flushes wrote that had succeeded, in a transaction or savepoint that rolls back all
 * the same, is discarded in memory as in the database. Rows have the values and versions again that they had before;
 * what was inserted is new and not managed, what was removed is managed, and nothing of it is pending.
 *
 * As SQLAlchemy's session does it, but for what the user has assigned since a flush: that stays, unsaved.
 */
import {
  type Collection,
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  Reference,
  ReferenceKind,
  type UnitOfWork,
  Utils,
  helper,
} from '@mikro-orm/core';
import { isTouched, loadedVersion, versionOf } from '@mikro-ool/core';
import { forgetSnapshot, replaceByUnloaded } from '../mikro-orm/collection.ts';
import { isToOne, metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import { Members } from '../mikro-orm/identity-map.ts';
import { withOutside } from '../mikro-orm/outside.ts';
import { touchAgain } from '../mikro-orm/touches.ts';
import { type EntityState, assign, restoreFlags } from './entity-state.ts';
import { type CollectionState, type Undo, restoreCollection } from './undo.ts';
import { changedSince, forget, propOf, rootOf, setBack } from './values.ts';

/** An entity of which at least one of the flushes wrote the row. */
interface Written {
  readonly undo: Undo;
  readonly entity: Dictionary;
  /** As it was before the first of them; none: that one inserted the row. */
  readonly base?: Dictionary;
  readonly state?: EntityState;
  /** What was assigned since the last of them, by column. */
  readonly since: ReadonlySet<string>;
  readonly touched: boolean;
}

/** What the user has done to a collection since the last flush. */
interface Since {
  readonly added: readonly object[];
  readonly removed: ReadonlySet<object>;
}

/** @param undos of flushes that had succeeded, in the order in which they were made */
export function discard(undos: readonly Undo[]): void {
  undos.toReversed().forEach((undo) => undo.putBack());
  const written = writtenBy(undos);
  const collections = collectionsOfAll(undos);
  const removed = new Set<object>(written.map(({ entity }) => entity).filter((entity) => leftBy(undos, entity)));
  const since = new Map(
    [...collections].map(([collection, state]) => [collection, sinceOf(collection, state, removed)]),
  );
  const created = written.filter(({ base }) => !base);
  const changed = written.filter(({ base }) => base);
  const orphans = orphansOf(undos);
  const isNew = new Set<object>(created.map(({ entity }) => entity));
  changed.forEach(manage);
  const left = changed.flatMap(({ entity }) => [...parentsOf(entity)]);
  const members = new Members();
  changed.forEach((one) => restoreValues(one, members));
  // after the values, of which some are the keys that new ones have no more
  created.forEach((one) => expunge(one, isNew, members));
  // after that, where a new one had come in place of what was removed
  changed.filter(({ entity }) => removed.has(entity)).forEach(({ entity }) => reattach(entity));
  new Set([...left, ...changed.flatMap(({ entity }) => [...parentsOf(entity)])]).forEach(settle);
  for (const [collection, state] of collections) {
    if (isNew.has(collection.owner)) {
      restoreCollection(collection, state);
    } else {
      restoreItems(collection, state, since.get(collection)!);
    }
  }
  // relations that are set back may take what they pointed to for orphans
  orphans.forEach((before, uow) => {
    const stack: Set<object> = uow.getOrphanRemoveStack();
    [...stack].filter((entity) => !before.has(entity)).forEach((entity) => stack.delete(entity));
  });
  changed.filter(({ touched }) => touched).forEach(({ entity }) => touchAgain(entity));
  undos.forEach((undo) => undo.verifyAgain());
}

/** The oldest state counts: what the first flush of a transaction found, whatever later ones did to the same row. */
function writtenBy(undos: readonly Undo[]): Written[] {
  const all = new Map<object, Omit<Written, 'since' | 'touched'>>();
  for (const undo of undos) {
    for (const [entity, state] of undo.entities) {
      if (state.created && !all.has(entity)) {
        all.set(entity, { undo, entity, state });
      }
    }
    for (const [entity, base] of undo.known()) {
      if (!all.has(entity)) {
        const { entities } = undos.find((one) => one.entities.has(entity)) ?? undo;
        all.set(entity, { undo, entity, base, state: entities.get(entity) });
      }
    }
  }
  return [...all.values()].map((one) => {
    const snapshot = (snapshotOf(one.entity) ?? leftBy(undos, one.entity)) as Dictionary | undefined;
    const version = versionOf(metaOf(one.undo.em, one.entity))?.name;
    const touched = version !== undefined && isTouched(snapshot, version);
    // a touch alone is no change of the version
    const left = touched ? { ...snapshot, [version]: loadedVersion(snapshot, version) } : snapshot;
    const since = new Set(left && changedSince(one.undo.em, one.entity, left));
    return { ...one, since, touched };
  });
}

function leftBy(undos: readonly Undo[], entity: object): Dictionary | undefined {
  return undos.findLast((undo) => undo.entities.get(entity)?.left)?.entities.get(entity)!.left;
}

function collectionsOfAll(undos: readonly Undo[]): Map<Collection<object>, CollectionState> {
  const all = new Map<Collection<object>, CollectionState>();
  for (const [collection, state] of undos.flatMap((undo) => [...undo.collections])) {
    all.set(collection, { ...(all.get(collection) ?? state), after: state.after });
  }
  return all;
}

function unitsAround(...entities: Written[]): Set<UnitOfWork> {
  const units = entities.flatMap(({ undo, entity }) => [undo.uow, helper(entity).__em?.getUnitOfWork(false)]);
  return new Set(units.filter((uow) => uow !== undefined).flatMap(withOutside));
}

function orphansOf(undos: readonly Undo[]): Map<UnitOfWork, ReadonlySet<object>> {
  const units = new Set(undos.flatMap((undo) => withOutside(undo.uow)));
  return new Map([...units].map((uow) => [uow, new Set<object>(uow.getOrphanRemoveStack())]));
}

/** A row that is not there any more: the entity is new, and belongs to nobody until it is persisted again. */
function expunge(one: Written, isNew: ReadonlySet<object>, members: Members): void {
  const { entity, state, since } = one;
  for (const uow of unitsAround(one)) {
    const map = uow.getIdentityMap();
    if (members.has(map, entity)) {
      map.delete(entity as never); // found by its key, so before the key goes
    }
    const stacks: Set<object>[] = [uow.getPersistStack(), uow.getRemoveStack(), uow.getOrphanRemoveStack()];
    stacks.forEach((stack) => stack.delete(entity));
    leaveCollections(uow, entity);
  }
  leaveRelations(entity, isNew);
  const wrapped = helper(entity) as unknown as Dictionary;
  delete wrapped.__identifier;
  for (const [key, value] of Object.entries(state!.before)) {
    if (!since.has(key)) {
      assign(entity, key, value);
    }
  }
  restoreFlags(entity, state!.flags);
  delete wrapped.__em;
  wrapped.__managed = false;
}

/** Also those of a parent that it had before another one, or none, was assigned: MikroORM leaves it there. */
function leaveCollections(uow: UnitOfWork, entity: object): void {
  for (const { meta, prop } of helper(entity).__meta.referencingProperties) {
    for (const referrer of uow.getIdentityMap().getStore(meta).values() as Iterable<Dictionary>) {
      const items: unknown = referrer[prop.name];
      if (
        prop.kind === ReferenceKind.ONE_TO_MANY &&
        Utils.isCollection(items) &&
        items.contains(entity as never, false)
      ) {
        items.removeWithoutPropagation(entity as never);
        settle(items);
      }
    }
  }
}

/** MikroORM persists what managed entities refer to, so a new one must not stay on the other side of its relations. */
function leaveRelations(entity: Dictionary, isNew: ReadonlySet<object>): void {
  for (const [prop, target] of targetsOf(entity)) {
    const inverse = isNew.has(target) ? undefined : (prop.inversedBy ?? prop.mappedBy);
    const other: unknown = inverse && target[inverse];
    if (Utils.isCollection(other)) {
      other.removeWithoutPropagation(entity as never);
      settle(other);
    } else if (inverse && Reference.unwrapReference(other as object) === entity && !prop.mappedBy) {
      forget(target, inverse);
      if (helper(target).__loadedProperties.has(inverse)) {
        (helper(target).__data as Dictionary)[inverse] = null; // as it was read: another row would be back by now
      }
    }
  }
}

function* targetsOf(entity: Dictionary): Generator<[EntityProperty, Dictionary]> {
  const meta = helper(entity).__meta;
  for (const prop of meta.relations as EntityProperty[]) {
    for (const [target] of Utils.unwrapProperty(entity, meta, prop) as [unknown, number[]][]) {
      const targets = Utils.isCollection(target)
        ? target.getItems(false)
        : [Reference.unwrapReference(target as object)];
      for (const one of targets.filter((value) => Utils.isEntity(value))) {
        yield [prop, one as Dictionary];
      }
    }
  }
}

/** What MikroORM knows of the entity is again what it knew before. */
function manage({ entity, base, state }: Written): void {
  if (state) {
    restoreFlags(entity, state.flags);
  }
  restoreSnapshot(entity, base);
}

function restoreValues(one: Written, members: Members): void {
  const { undo, entity, base, state, since } = one;
  const em = (helper(entity).__em ?? undo.em) as EntityManager;
  const meta = metaOf(em, entity);
  if (state?.values) {
    restoreCopied(entity, state.values, new Set([...since].map((name) => rootOf(meta, propOf(meta, name)).name)));
    return;
  }
  // related entities would come back into the identity map
  const relations = undo.hasForgotten(entity) ? meta.relations.map(({ name }) => name) : [];
  const maps = [...unitsAround(one)].map((uow) => uow.getIdentityMap());
  const knowing = maps.filter((map) => members.has(map, entity));
  const targets = [...targetsOf(entity)].filter(([{ name }]) => !since.has(name) && !relations.includes(name as never));
  knowing.forEach((map) => map.delete(entity as never)); // the key may be another one again
  setBack(em, entity, base!, new Set([...since, ...relations]));
  targets.forEach(([prop, target]) => leave(entity, prop, target));
  knowing.forEach((map) => map.store(entity as never));
  for (const [key, value] of Object.entries(state?.before ?? {})) {
    if (propOf(meta, key).generated && !since.has(key)) {
      assign(entity, key, value);
    }
  }
  restoreSnapshot(entity, base);
  if (!meta.relations.some(({ name }) => since.has(name))) {
    unitsAround(one).forEach((uow) => uow.getOrphanRemoveStack().delete(entity as never)); // it belongs to its parent again
  }
}

/** MikroORM leaves an entity on the other side of a relation that is set to none, and of a polymorphic one in any case. */
function leave(entity: Dictionary, { kind, name, inversedBy, polymorphic }: EntityProperty, target: Dictionary): void {
  const other: unknown = inversedBy && target[inversedBy];
  if (!other || Reference.unwrapReference(entity[name] as object) === target) {
    return;
  }
  if (kind === ReferenceKind.MANY_TO_ONE && Utils.isCollection(other)) {
    other.removeWithoutPropagation(entity as never);
    settle(other);
  } else if (polymorphic && kind === ReferenceKind.ONE_TO_ONE && Reference.unwrapReference(other) === entity) {
    (helper(target).__data as Dictionary)[inversedBy!] = null;
  }
}

/** These were replaced all at once, and those that related entities have of them did not notice. */
function restoreCopied(entity: Dictionary, values: Dictionary, since: ReadonlySet<string>): void {
  const { __data: data, __meta: meta } = helper(entity);
  const tracked = new Set<string>(meta.trackingProps.map(({ name }) => name));
  for (const [name, value] of Object.entries(values).filter(([key]) => !since.has(key))) {
    if (tracked.has(name)) {
      assign(data, name, value);
    } else if (entity[name] !== value) {
      assign(entity, name, value);
    }
  }
}

/** What em.remove() and MikroORM after it have taken off the other side of relations, and that did not change itself. */
function reattach(entity: Dictionary): void {
  // links are put back with the collections: the one of a tag that is not loaded may still have what has left the tag
  const targets = [...targetsOf(entity)].filter(([{ kind }]) => kind !== ReferenceKind.MANY_TO_MANY);
  for (const [prop, target] of targets) {
    const inverse = prop.inversedBy ?? prop.mappedBy;
    const other: unknown = inverse && target[inverse];
    if (Utils.isCollection(other)) {
      if (other.isInitialized() && !other.isPartial()) {
        other.addWithoutPropagation(entity as never);
        settle(other);
      }
      continue;
    }
    // of the classes that a polymorphic relation leads to, some may have no other side
    const back = inverse && propOf(helper(target).__meta as EntityMetadata, inverse);
    if (back && isToOne(back) && other == null && (!prop.mappedBy || hasReferred(target, inverse))) {
      (helper(target).__data as Dictionary)[inverse] = Reference.wrapReference(entity, back as never);
    }
  }
}

/** Setting a relation back makes the collection on its other side dirty, which has what is in the database again. */
function settle(collection: Collection<object>): void {
  if (collection.property.kind === ReferenceKind.ONE_TO_MANY && collection.getSnapshot()) {
    const items = collection.getItems(false);
    const known = items.filter((item) => snapshotOf(item));
    forgetSnapshot(collection, known);
    collection.setDirty(known.length < items.length);
  }
}

/** The collections that an entity belongs to by its own columns. */
function* parentsOf(entity: Dictionary): Generator<Collection<object>> {
  for (const [{ kind, inversedBy }, target] of targetsOf(entity)) {
    const inverse: unknown = inversedBy && target[inversedBy];
    if (kind === ReferenceKind.MANY_TO_ONE && Utils.isCollection(inverse)) {
      yield inverse;
    }
  }
}

function hasReferred(owner: object, name: string): boolean {
  return (snapshotOf(owner) as Dictionary | undefined)?.[name] != null;
}

/**
 * What was done to a collection since its last snapshot; what a flush has removed left it by itself. The collections of
 * such a row went with it, and have no snapshot of that flush: what it has left them with takes its place.
 */
function sinceOf(collection: Collection<object>, { after }: CollectionState, removed: ReadonlySet<object>): Since {
  const items = collection.getItems(false);
  const known = new Set(removed.has(collection.owner) ? after : (collection.getSnapshot() as object[] | undefined));
  const now = new Set(items);
  return {
    added: items.filter((item) => !known.has(item) && !removed.has(item)),
    removed: new Set([...known].filter((item) => !now.has(item) && !removed.has(item))),
  };
}

function restoreItems(collection: Collection<object>, { snapshot, after }: CollectionState, since: Since): void {
  if (!snapshot) {
    // its items were replaced without being loaded, so they are not known
    replaceByUnloaded(collection, since.added);
    return;
  }
  if (collection.property.kind === ReferenceKind.ONE_TO_MANY) {
    // the items themselves say where they belong
    forgetSnapshot(collection, [...snapshot]);
    collection.setDirty(false);
    return;
  }
  const current = (collection.getSnapshot() ?? []) as object[];
  const written = new Set(after);
  // MikroORM takes a removed row out of the items of a collection, but not out of what it knows of it
  const known = snapshot.filter((item) => helper(item).__managed);
  const before = new Set(known);
  // it may have been loaded since
  const kept = current.filter((item) => before.has(item) || !written.has(item));
  const isAsWritten = current.length === written.size && current.every((item) => written.has(item));
  const base = isAsWritten ? known : [...new Set([...kept, ...known.filter((item) => !written.has(item))])];
  setItems(collection, [...new Set([...base.filter((item) => !since.removed.has(item)), ...since.added])]);
  forgetSnapshot(collection, base);
  collection.setDirty(since.added.length + since.removed.size > 0);
}

function setItems(collection: Collection<object>, items: readonly object[]): void {
  const now = collection.getItems(false);
  if (now.length !== items.length || now.some((item, i) => item !== items[i])) {
    now.forEach((item) => collection.removeWithoutPropagation(item as never));
    items.forEach((item) => collection.addWithoutPropagation(item as never));
  }
}
