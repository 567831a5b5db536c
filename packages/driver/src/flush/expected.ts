/** Which version a row must still have, and what is refused because nobody knows it. */
import {
  Cascade,
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  ReferenceKind,
  helper,
} from '@mikro-orm/core';
import { type Operation, VersionNotLoaded, loadedVersion, maximumVersion, versionOf } from '@mikro-ool/core';
import { ownVersionOf, versionedBelow } from '../discovery.ts';
import { exhausted, invalidVersion, validateGiven } from '../versions.ts';
import { type AnyChangeSet, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import type { CheckedRow, LockedRow, UncoveredRow } from '../write/batch.ts';

/**
 * The version that a row must still have: the entity's current one, whether it was loaded or claimed.
 *
 * @param changes what is written, by property
 * @throws {VersionNotLoaded} when there is none
 * @throws {InvalidVersion} when it is no integer that the column can hold
 */
export function expectedVersion(
  entity: object,
  meta: EntityMetadata,
  operation: Operation,
  changes: object = {},
): number {
  const prop = versionOf(meta)!;
  const value: unknown = (entity as Dictionary)[prop.name];
  if (value == null) {
    const along = helper(entity).__initialized ? undefined : changedAlong(meta, operation, Object.keys(changes));
    throw new VersionNotLoaded(entity, helper(entity).__meta.className, prop.name, operation, along);
  }
  const invalid = invalidVersion(entity, meta, value);
  if (invalid) {
    // databases that do not keep to the column's range have let somebody bump a row beyond its end
    const isLoaded = value === loadedVersion(snapshotOf(entity), prop.name);
    throw isLoaded && value === maximumVersion(prop) + 1 ? exhausted(entity, meta) : invalid;
  }
  return value as number;
}

/**
 * The relation by which MikroORM writes a row that nobody touched: the other side of a one-to-one, when this side was
 * assigned, or what is removed along with its owner.
 */
function changedAlong(meta: EntityMetadata, operation: Operation, changed: readonly string[]): string | undefined {
  if (operation === 'delete') {
    const removes = ({ orphanRemoval, cascade }: EntityProperty) =>
      orphanRemoval || cascade?.some((one) => one === Cascade.REMOVE || one === Cascade.ALL);
    const owner = meta.referencingProperties.find(({ prop }) => removes(prop));
    return owner && `${owner.meta.className}.${owner.prop.name}`;
  }
  const props = changed.filter((key) => key !== meta.versionProperty).map((key) => meta.properties[key as never]);
  const isOtherSide = (prop?: EntityProperty) => prop?.kind === ReferenceKind.ONE_TO_ONE && prop.inversedBy;
  const [first] = props as EntityProperty[];
  return first && props.every(isOtherSide) ? `${first.targetMeta!.className}.${first.inversedBy}` : undefined;
}

/** A row with the version that it must still have. */
export function checkedRow(changeSet: AnyChangeSet, operation: Operation): CheckedRow {
  return { kind: 'checked', changeSet, expected: expectedVersion(changeSet.entity, changeSet.meta, operation) };
}

/** A row whose version does not cover what changes. */
export function uncoveredRow(changeSet: AnyChangeSet): UncoveredRow {
  return { kind: 'uncovered', changeSet };
}

/** A row that is only locked: it is written later, and what it must be then is settled then. */
export function lockedRow(changeSet: AnyChangeSet): LockedRow {
  return { kind: 'locked', changeSet };
}

/** Validates the version that a new row is given. Returns whether its table has one. */
export function validateInitial({ entity, meta }: AnyChangeSet): boolean {
  const version = ownVersionOf(meta);
  if (version) {
    validateGiven(meta, (entity as Record<string, unknown>)[version.name], entity);
  }
  return version !== undefined;
}

/** A row that may be of another class than its entity, one with a version. */
export interface UnsureRow {
  readonly changeSet: AnyChangeSet;
  readonly below: EntityMetadata;
  readonly operation: Operation;
}

/** Rows of one table that may be of another class with a version. */
export function unsureAmong(em: EntityManager, sets: AnyChangeSet[], operation: Operation): UnsureRow[] {
  const inherited = sets[0]!.meta.root.inheritanceType ? sets : [];
  return inherited.flatMap((changeSet) =>
    classesInDoubt(em, changeSet.entity).map((below) => ({ changeSet, below, operation })),
  );
}

/**
 * The classes with a version that a row may be of without its entity knowing: a reference may be made of any class
 * above, and joined tables are loaded partially as the class that was asked for.
 */
function classesInDoubt(em: EntityManager, entity: object): EntityMetadata[] {
  const meta = metaOf(em, entity);
  const known = helper(entity).__initialized && meta.root.inheritanceType === 'sti';
  return known ? [] : versionedBelow(meta, em.getMetadata());
}
