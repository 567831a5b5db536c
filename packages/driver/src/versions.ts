/**
 * Which numbers a version may be, and what is refused: where its column ends, and what leaves a row no room for
 * changes. Whether a row still has its version is another matter: that is `flush/`.
 */
import { type EntityMetadata, Utils, helper, isRaw } from '@mikro-orm/core';
import { InvalidVersion, VersionExhausted, maximumStart, maximumVersion, versionOf } from '@mikro-ool/core';

/** The error when a row cannot be bumped any more. */
export function exhausted(entity: object, meta: EntityMetadata): VersionExhausted {
  const prop = versionOf(meta)!;
  const { __meta: own } = helper(entity);
  const key: unknown = Utils.getPrimaryKeyValues(entity, meta, true);
  return new VersionExhausted(entity, own.className, prop.name, key, maximumVersion(prop));
}

/** The same of a set-based write, which does not say which row it is. */
export function someExhausted(meta: EntityMetadata): VersionExhausted {
  const prop = versionOf(meta)!;
  return new VersionExhausted(undefined, meta.className, prop.name, undefined, maximumVersion(prop));
}

/** Refuses a version that a row is given, when it is none or leaves no room for changes. */
export function validateGiven(meta: EntityMetadata, value: unknown, entity?: object): void {
  const prop = versionOf(meta)!;
  // data may be spelled as the database has it, an entity may not
  const number = typeof value === 'string' && !entity ? Number(value) : value;
  const maximum = maximumStart(prop);
  if (value != null && !isRaw(value as object) && !isBetween(number, maximum)) {
    throw new InvalidVersion(entity, meta.className, prop.name, value, maximum, maximumVersion(prop));
  }
}

function isBetween(value: unknown, maximum: number): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maximum;
}

/** The error when a value is no integer that the version column can hold. */
export function invalidVersion(entity: object, meta: EntityMetadata, value: unknown): InvalidVersion | undefined {
  const prop = versionOf(meta)!;
  const maximum = maximumVersion(prop);
  return isBetween(value, maximum)
    ? undefined
    : new InvalidVersion(entity, helper(entity).__meta.className, prop.name, value, maximum);
}
