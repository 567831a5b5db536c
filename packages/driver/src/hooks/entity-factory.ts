/**
 * What a row that is read again brings to an entity.
 * MikroORM merges it into the entity: changed properties stay, the rest is refreshed, as far as it was read. A version
 * that is refreshed above what is not would let it overwrite what it was not based on; and so would an older row (of a
 * replica that lags, a cache, a snapshot) that is put under a newer version.
 */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { loadedVersion, versionOf, withLoadedVersion } from '@mikro-ool/core';
import { isDoubtful, trust } from '../mikro-orm/doubt.ts';
import { metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import { stateOf } from '../mikro-orm/flush-state.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { settlePolymorphic } from '../mikro-orm/polymorphic.ts';
import { areReadsVerified, isVerified } from '../mikro-orm/verified.ts';

interface EntityFactoryMethods {
  create(entityName: unknown, data: Dictionary, options?: Dictionary): object;
  findEntity(data: Dictionary, meta: EntityMetadata, options?: Dictionary): object | undefined;
  mergeData(meta: EntityMetadata, entity: object, data: Dictionary, options?: Dictionary): void;
}

interface UnitOfWorkMethods {
  register(entity: object, data: Dictionary | undefined, options?: Dictionary): object;
}

interface Merging {
  merge(entityName: unknown, data: object, options?: Dictionary): object;
}

/** What entities are compared with after rows were read, where MikroORM would take what is unsaved for what was read. */
const settled = new WeakMap<object, unknown>();

/** What happens to an entity that is read again. */
export const reading: Layer<EntityFactoryMethods> = (Base) =>
  class extends Base {
    /** Where a refresh is asked for, MikroORM does not merge, and forgets the state of the columns that are not read. */
    override create(entityName: unknown, data: Dictionary, options: Dictionary = {}): object {
      if (!options.refresh) {
        return super.create(entityName, data, options);
      }
      // of a cache, MikroORM hands over the same object for all rows, and says `initialized` in it after the first one
      options = { ...options };
      const { em } = stateOf(this);
      const meta = em.getMetadata().find(entityName as never) as EntityMetadata | undefined;
      const isData = meta && !meta.virtual && data && !Utils.isEntity(data, true);
      const known = isData ? (this.findEntity(data, meta, options) as Dictionary | undefined) : undefined;
      const version = known && versionOf(metaOf(em, known))?.name;
      // only an upsert says `initialized`: what it has written is the state from now on
      if (!known || !version || options.initialized === true) {
        return super.create(entityName, data, options);
      }
      if (isOlder(em, known, version, data, options)) {
        super.create(entityName, data, { ...options, refresh: false });
        settled.set(data, snapshotOf(known));
        return known;
      }
      const { current, based } = versionsOf(known, version);
      const snapshot = snapshotOf(known) as Dictionary;
      const isClaim = !helper(known).__initialized && current != null;
      const isPart = !covers(Object.keys(data), known);
      super.create(entityName, data, options);
      // what is no row says itself how old it is
      const isLower = Number(data[version]) < Number(based);
      const read = readPart(known, snapshotOf(known) as Dictionary, data);
      if (options.recomputeSnapshot) {
        // what was assigned, and neither loaded nor read, is no part of the row
        restoreSnapshot(known, { ...snapshot, ...read });
      }
      if (isPart && !isClaim) {
        const kept = { ...snapshot, ...read, [version]: snapshot[version] };
        restoreSnapshot(known, withLoadedVersion(kept, version, isLower ? read[version] : based));
      }
      if (isPart || isClaim) {
        known[version] = isLower && !isClaim ? Number(data[version]) : current;
        settled.set(data, snapshotOf(known));
      }
      return known;
    }

    override mergeData(meta: EntityMetadata, entity: object, data: Dictionary, options: Dictionary = {}): void {
      const { em } = stateOf(this);
      const version = versionOf(metaOf(em, entity))?.name;
      if (version && isOlder(em, entity, version, data, options)) {
        const older = takenOfOlder(metaOf(em, entity), entity, version, data);
        super.mergeData(meta, entity, older.taken, options);
        // what is next to it is a row of its own
        older.others.forEach(([target, row]) => this.create(target, row, options));
        if (older.isNew) {
          lower(entity, version, data[version]);
        }
        return;
      }
      if (version && keepsVersion(em, entity, version, data)) {
        data = copyOf(data);
        delete data[version];
      }
      super.mergeData(meta, entity, data, options);
    }
  };

/** What was read of polymorphic relations. */
export const readingPolymorphic: Layer<EntityFactoryMethods> = (Base) =>
  class extends Base {
    override create(entityName: unknown, data: Dictionary, options?: Dictionary): object {
      const entity = super.create(entityName, data, options);
      settlePolymorphic(stateOf(this).em, entity);
      return entity;
    }

    override mergeData(meta: EntityMetadata, entity: object, data: Dictionary, options?: Dictionary): void {
      super.mergeData(meta, entity, data, options);
      settlePolymorphic(stateOf(this).em, entity);
    }
  };

/** After `factory.create()`, `em.merge()` and … */
export const settlingMerges: Layer<Merging> = (Base) =>
  class extends Base {
    override merge(entityName: unknown, data: object, options?: Dictionary): object {
      settled.delete(data);
      const entity = super.merge(entityName, data, options);
      if (settled.has(data)) {
        restoreSnapshot(entity, settled.get(data));
      }
      return entity;
    }
  };

/** … the loading of m:n collections take snapshots of their own. */
export const settling: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    override register(entity: object, data: Dictionary | undefined, options?: Dictionary): object {
      const registered = super.register(entity, data && settled.has(data) ? undefined : data, options);
      settlePolymorphic(stateOf(this).em, entity);
      return registered;
    }
  };

/** The version that an entity has, and the one that its unsaved changes are compared with. */
export function versionsOf(entity: Dictionary, version: string): { current: unknown; based: unknown } {
  return { current: entity[version], based: loadedVersion(snapshotOf(entity), version) };
}

/** The version of what is in memory, apart from one that was assigned since. */
export function heldVersion(entity: Dictionary, version: string): unknown {
  const { current, based } = versionsOf(entity, version);
  return typeof based === 'number' ? based : current;
}

/** Is this a row of a database or a cache, and older than what is in memory? One without a version may be. */
function isOlder(
  em: EntityManager,
  entity: Dictionary,
  version: string,
  data: Dictionary,
  options: Dictionary,
): boolean {
  const isRow = (options.convertCustomTypes || options.recomputeSnapshot) && !options.newEntity;
  const held = heldVersion(entity, version);
  if (!isRow || !helper(entity).__initialized || held == null || Utils.isEntity(data)) {
    return false;
  }
  const isLower = data[version] == null || Number(data[version]) < Number(held);
  // a refresh replaces by NULL, too
  const read = options.refresh ? Object.keys(data) : mergedKeys(entity, data);
  if (isLower && isDoubtful(entity) && covers(read, entity) && !isDirty(em, entity)) {
    trust(entity);
    return false;
  }
  return isLower;
}

/**
 * What an older row brings: no column that is in memory, whatever it holds. Collections, and rows that were joined, are
 * rows with versions of their own.
 */
function takenOfOlder(meta: EntityMetadata, entity: object, version: string, data: Dictionary) {
  const taken = copyOf(data);
  const others: [target: unknown, row: Dictionary][] = [];
  let isNew = false;
  for (const name of Object.keys(data)) {
    const prop = meta.properties[name as never] as EntityProperty | undefined;
    if (!prop || prop.primary || [ReferenceKind.ONE_TO_MANY, ReferenceKind.MANY_TO_MANY].includes(prop.kind)) {
      continue;
    }
    if (name !== version && !isHeld(entity, prop)) {
      isNew ||= isColumn(meta, prop);
      continue;
    }
    delete taken[name];
    const row: unknown = data[name];
    if (prop.targetMeta && prop.kind !== ReferenceKind.EMBEDDED && Utils.isPlainObject(row)) {
      others.push([prop.targetMeta.class, row as Dictionary]);
    }
  }
  return { taken, others, isNew };
}

/** With a column from an older row, the whole is as old as that; without a version, it has none any more. */
function lower(entity: Dictionary, version: string, read: unknown): void {
  const { current, based } = versionsOf(entity, version);
  const older = read == null ? undefined : Number(read);
  entity[version] = older !== undefined && Number(current) < older ? current : older;
  if (typeof based === 'number') {
    restoreSnapshot(entity, withLoadedVersion(snapshotOf(entity) as object, version, older));
  }
}

/** Is it the version that the row must not bring? There are unsaved changes, decisions, or columns that are not read. */
function keepsVersion(em: EntityManager, entity: Dictionary, version: string, data: Dictionary): boolean {
  const held = heldVersion(entity, version);
  const read = Number(data[version]);
  if (Number.isNaN(read) || read === held || (helper(entity).__initialized && held != null && read < Number(held))) {
    return false;
  }
  // what has no version yet was not based on one: it is being read for the first time
  const isDecidedOn = () => isDirty(em, entity) || areReadsVerified(em.getUnitOfWork(false));
  return !covers(mergedKeys(entity, data), entity) || (held != null && isDecidedOn());
}

/** Joined relations are found by the data object's constructor. */
function copyOf(data: Dictionary): Dictionary {
  return Object.assign(Object.create(Object.getPrototypeOf(data)), data);
}

/** MikroORM keeps a value where NULL is read, which is then as old as the version that it was read with. */
function mergedKeys(entity: object, data: Dictionary): string[] {
  const snapshot = snapshotOf(entity) as Dictionary | undefined;
  return Object.keys(data).filter((key) => data[key] != null || snapshot?.[key] == null);
}

/** Of a snapshot, what has just been read: with a cached row it has all of the entity, unsaved changes too. */
function readPart(entity: object, snapshot: Dictionary, data: Dictionary): Dictionary {
  const { properties } = helper(entity).__meta as unknown as { properties: Record<string, EntityProperty> };
  const isRead = (name: string): boolean => {
    const holder = properties[name]?.embedded?.[0];
    return name in data || (holder !== undefined && isRead(holder));
  };
  return Object.fromEntries(Object.entries(snapshot).filter(([name]) => isRead(name)));
}

/** Does what was read have every column that the entity has loaded? */
export function covers(read: Iterable<string>, entity: object): boolean {
  const names = new Set(read);
  return helper(entity).__meta.comparableProps.every((prop) => !isKnown(entity, prop) || names.has(prop.name));
}

/** Has the entity a value of this column, whether it was loaded, or assigned and flushed? */
export function isKnown(entity: object, { name }: EntityProperty): boolean {
  const { __loadedProperties: loaded, __originalEntityData: snapshot } = helper(entity);
  return loaded.has(name) || (snapshot as Dictionary | undefined)?.[name] !== undefined;
}

/** The same of any property: of an inline embeddable, its columns are. */
function isHeld(entity: object, prop: EntityProperty): boolean {
  const isInline = prop.kind === ReferenceKind.EMBEDDED && !prop.object;
  return isInline
    ? Object.values<EntityProperty>(prop.embeddedProps).some((child) => isHeld(entity, child))
    : isKnown(entity, prop);
}

/** Is the property stored in a column, or in several? */
function isColumn(meta: EntityMetadata, prop: EntityProperty): boolean {
  return meta.comparableProps.includes(prop as never) || prop.kind === ReferenceKind.EMBEDDED;
}

/** Has the entity changes that are not saved, is it about to be removed, or does a decision rest on what was read? */
export function isDirty(em: EntityManager, entity: object): boolean {
  const { __meta: meta, __originalEntityData: snapshot = {} } = helper(entity);
  const uow = em.getUnitOfWork(false);
  if (isVerified(uow, entity) || uow.getRemoveStack().has(entity) || uow.getOrphanRemoveStack().has(entity as never)) {
    return true;
  }
  const comparator = em.getComparator();
  return Utils.hasObjectKeys(comparator.diffEntities(meta.class, snapshot as never, comparator.prepareEntity(entity)));
}
