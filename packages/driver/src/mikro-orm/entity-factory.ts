/**
 * What a row that is read again brings to an entity.
 * MikroORM merges it into the entity: changed properties stay, the rest is refreshed, as far as it was read. A version
 * that is refreshed above what is not would let it overwrite what it was not based on.
 */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  Utils,
  helper,
} from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { metaOf, restoreSnapshot, snapshotOf } from './entity.ts';

interface EntityFactoryMethods {
  create(entityName: unknown, data: Dictionary, options?: Dictionary): object;
  findEntity(data: Dictionary, meta: EntityMetadata, options?: Dictionary): object | undefined;
  mergeData(meta: EntityMetadata, entity: object, data: Dictionary, options?: unknown): void;
}

/** Hooks what happens to the version of an entity that is read again. */
export function hookReads(em: EntityManager): void {
  const factory = ownFactory(em) as unknown as EntityFactoryMethods;
  const { create, findEntity, mergeData } = factory;
  // where a refresh is asked for, MikroORM does not merge, and forgets the state of the columns that are not read
  factory.create = (entityName, data, options) => {
    if (!options?.refresh) {
      return create.call(factory, entityName, data, options);
    }
    const meta = em.getMetadata().find(entityName as never) as EntityMetadata | undefined;
    const isRow = meta && !meta.virtual && data && !Utils.isEntity(data, true);
    const known = isRow ? (findEntity.call(factory, data, meta, options) as Dictionary | undefined) : undefined;
    const version = known && versionOf(metaOf(em, known))?.name;
    if (!known || !version) {
      return create.call(factory, entityName, data, options);
    }
    const { current, based } = versionsOf(known, version);
    const snapshot = snapshotOf(known) as Dictionary;
    // only an upsert says so: what it has written is the state from now on
    const isOurs = options.initialized === true;
    const isClaim = !isOurs && !helper(known).__initialized && current != null;
    const isPart = !covers(Object.keys(data), known);
    const entity = create.call(factory, entityName, data, options);
    if (isPart && !isClaim) {
      restoreSnapshot(known, { ...snapshot, ...(snapshotOf(known) as Dictionary), [version]: based });
    }
    if (isPart || isClaim) {
      known[version] = current;
    }
    return entity;
  };
  factory.mergeData = (meta, entity, data, options) => {
    const version = versionOf(metaOf(em, entity))?.name;
    const left = version ? leftAsItWas(em, entity, version, data) : [];
    if (left.length > 0) {
      // joined relations are found by the data object's constructor
      data = Object.assign(Object.create(Object.getPrototypeOf(data)), data);
      left.forEach((name) => delete data[name]);
    }
    mergeData.call(factory, meta, entity, data, options);
  };
}

/** The version that an entity has, and the one that its unsaved changes are compared with. */
export function versionsOf(entity: Dictionary, version: string): { current: unknown; based: unknown } {
  return { current: entity[version], based: (snapshotOf(entity) as Dictionary | undefined)?.[version] };
}

/** `em.getEntityFactory()` answers with the factory of whichever EntityManager is in context; this one is our own. */
export function ownFactory(em: EntityManager): object {
  em.getContext = () => em as never;
  try {
    return em.getEntityFactory();
  } finally {
    delete (em as Partial<EntityManager>).getContext;
  }
}

/**
 * What a row that is read again must not bring: its version, when the entity has unsaved changes or columns that are not
 * read; and nothing at all when the row is older than the entity (a replica that lags), or was created again.
 */
function leftAsItWas(em: EntityManager, entity: object, version: string, data: Dictionary): string[] {
  const { based, current } = versionsOf(entity, version);
  const known = typeof based === 'number' ? based : current;
  const read = Number(data[version]);
  if (Number.isNaN(read) || read === known) {
    return [];
  }
  // what has no version yet was not based on one: it is being read for the first time
  if (covers(mergedKeys(entity, data), entity) && (known == null || !isDirty(em, entity))) {
    return [];
  }
  const columns = metaOf(em, entity).comparableProps.filter((prop) => !prop.primary);
  return known != null && read < Number(known) ? columns.map((prop) => prop.name) : [version];
}

/** MikroORM keeps a value where NULL is read, which is then as old as the version that it was read with. */
function mergedKeys(entity: object, data: Dictionary): string[] {
  const snapshot = snapshotOf(entity) as Dictionary | undefined;
  return Object.keys(data).filter((key) => data[key] != null || snapshot?.[key] == null);
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

function isDirty(em: EntityManager, entity: object): boolean {
  const { __meta: meta, __originalEntityData: snapshot = {} } = helper(entity);
  const uow = em.getUnitOfWork(false);
  if (uow.getRemoveStack().has(entity) || uow.getOrphanRemoveStack().has(entity as never)) {
    return true;
  }
  const comparator = em.getComparator();
  return Utils.hasObjectKeys(comparator.diffEntities(meta.class, snapshot as never, comparator.prepareEntity(entity)));
}
