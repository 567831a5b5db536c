/** What MikroORM knows of an entity and of a change to it: the leaf that everything else of the driver may look at. */
import {
  type ChangeSet,
  ChangeSetType,
  type Dictionary,
  type EntityClass,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  ReferenceKind,
  type Transaction,
  helper,
} from '@mikro-orm/core';

export type AnyChangeSet = ChangeSet<object>;

/** Change sets of one flush by type, then by the class that they are written with. */
export type ChangeSetGroups = Record<AnyChangeSet['type'], Map<number, AnyChangeSet[]>>;

/** Options that the change set persister hands down to the driver. */
export type PersistOptions = Dictionary & { ctx?: Transaction; schema?: string };

/**
 * The metadata of an entity's class in this ORM. What stands on the entity itself is that of whichever ORM started last,
 * when several in one process share the class.
 */
export function metaOf(of: { getMetadata(): MetadataStorage }, entity: object): EntityMetadata {
  return of.getMetadata().get(entity.constructor as EntityClass<object>) as unknown as EntityMetadata;
}

/** The classes that extend this one directly. */
export function childrenOf(meta: EntityMetadata, storage: MetadataStorage): EntityMetadata[] {
  return [...storage].filter((child) => child.extends && storage.find(child.extends)?.class === meta.class);
}

/** Does a relation lead to one row at most? */
export function isToOne({ kind }: EntityProperty): boolean {
  return kind === ReferenceKind.MANY_TO_ONE || kind === ReferenceKind.ONE_TO_ONE;
}

/** The classes that a relation leads to: a polymorphic one to several. */
export function targetClasses({ polymorphTargets, targetMeta }: EntityProperty): EntityMetadata[] {
  return polymorphTargets ?? (targetMeta ? [targetMeta] : []);
}

/** Is this the name of no property of a class, but of one of another class in its hierarchy? */
export function isElsewhere(meta: EntityMetadata, name: string, storage: MetadataStorage): boolean {
  const isIn = ({ properties }: EntityMetadata) => name in properties;
  return !isIn(meta) && [...storage].some((other) => other.root === meta.root && isIn(other));
}

/** The state an entity is compared with when its changes are computed; setting it back makes them dirty again. */
export function snapshotOf(entity: object): unknown {
  return helper(entity).__originalEntityData;
}

/** @see snapshotOf */
export function restoreSnapshot(entity: object, snapshot: unknown): void {
  helper(entity).__originalEntityData = snapshot as never;
}

/** Does an EntityManager know this very object? */
export function isManaged(em: EntityManager, entity: object): boolean {
  return em.getUnitOfWork(false).getIdentityMap().getByEntity(entity) === entity;
}

/** Was it never in the database? A reference by a key that is not the primary one has no snapshot either. */
export function isNew(entity: object): boolean {
  return helper(entity).__initialized && snapshotOf(entity) === undefined;
}

export function isUpdate(type: AnyChangeSet['type']): boolean {
  return type === ChangeSetType.UPDATE || type === ChangeSetType.UPDATE_EARLY;
}

/** The updates of a flush, by table. */
export function updatesOf(groups: ChangeSetGroups): AnyChangeSet[][] {
  return [...groups.update.values(), ...groups.update_early.values()];
}

/** An entity, what is to be written of it later, one property or several, and the values. */
type FollowUp = readonly [entity: object, keys: string | string[], values: unknown, ...rest: unknown[]];

/** What MikroORM has taken off an entity, to write it by a later statement. */
export function laterOf([, keys, values]: FollowUp): Dictionary {
  return Array.isArray(keys)
    ? Object.fromEntries(keys.map((key, i) => [key, (values as unknown[])[i]]))
    : { [keys]: values };
}

/** With joined-table inheritance there is a change set per table. */
export function tablesOf(changeSet: AnyChangeSet): AnyChangeSet[] {
  return [changeSet, ...((changeSet.tptChangeSets ?? []) as AnyChangeSet[])];
}
