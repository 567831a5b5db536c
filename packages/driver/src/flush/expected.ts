/** Which version a row must still have, and what is refused because nobody knows it. */
import { type Dictionary, type EntityManager, type EntityMetadata, helper } from '@mikro-orm/core';
import { InvalidVersion, type Operation, VersionNotLoaded, maximumVersion, versionOf } from '@mikro-ool/core';
import { versionedBelow } from '../discovery.ts';
import { type AnyChangeSet, metaOf } from '../mikro-orm/entity.ts';
import type { VersionedRow } from '../write/batch.ts';

/**
 * The version that a row must still have: the entity's current one, whether it was loaded or claimed.
 *
 * @throws {VersionNotLoaded} when there is none
 * @throws {InvalidVersion} when it is no integer that the column can hold
 */
export function expectedVersion(entity: object, meta: EntityMetadata, operation: Operation): number {
  const prop = versionOf(meta)!;
  const value: unknown = (entity as Dictionary)[prop.name];
  if (value == null) {
    throw new VersionNotLoaded(entity, helper(entity).__meta.className, prop.name, operation);
  }
  const invalid = invalidVersion(entity, meta, value);
  if (invalid) {
    throw invalid;
  }
  return value as number;
}

/** The error when a value is no integer that the version column can hold. */
export function invalidVersion(entity: object, meta: EntityMetadata, value: unknown): InvalidVersion | undefined {
  const prop = versionOf(meta)!;
  const maximum = maximumVersion(prop);
  const isVersion = Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maximum;
  return isVersion ? undefined : new InvalidVersion(entity, helper(entity).__meta.className, prop.name, value, maximum);
}

/** A row with the version that it must still have. */
export function rowOf(changeSet: AnyChangeSet, operation: Operation): VersionedRow {
  return { changeSet, expected: expectedVersion(changeSet.entity, changeSet.meta, operation) };
}

/**
 * The classes with a version that a row may be of without its entity knowing: a reference may be made of any class
 * above, and joined tables are loaded partially as the class that was asked for.
 */
export function classesInDoubt(em: EntityManager, entity: object): EntityMetadata[] {
  const meta = metaOf(em, entity);
  const known = helper(entity).__initialized && meta.root.inheritanceType === 'sti';
  return known ? [] : versionedBelow(meta, em.getMetadata());
}
