/** What is merged as one: a property, or one inside an embeddable. */
import { type Dictionary, type EntityProperty, ReferenceKind, Utils, helper } from '@mikro-orm/core';
import { isOfType } from '@mikro-ool/core';
import type { Row } from './row.ts';
import { at } from './values.ts';

export interface Unit {
  readonly prop: EntityProperty;
  readonly path: readonly string[];
  /** What it is called in a snapshot; absent inside an embeddable that is stored as an object. */
  readonly keys?: readonly string[];
}

/** Embeddables are merged property by property, except where one side has none, and lists as a whole. */
export function unitsOf({ entity, meta, version }: Row, theirs: Dictionary): Unit[] {
  const split = (prop: EntityProperty, path: string[], inObject: boolean): Unit[] =>
    isSplit(prop) && at(entity, path) && at(theirs, path)
      ? Object.values(prop.embeddedProps)
          .filter(({ embedded }) => isOfItsOwn(prop.targetMeta!.properties[embedded![1] as never]!))
          .flatMap((child) => split(child, [...path, child.embedded![1]], inObject || Boolean(prop.object)))
      : [{ prop, path, keys: inObject ? undefined : keysOf(prop) }];
  return meta.comparableProps
    .filter((prop) => !prop.embedded && prop.name !== version && isOfItsOwn(prop))
    .flatMap((prop) => split(prop, [prop.name], false));
}

function isSplit(prop: EntityProperty): boolean {
  return prop.kind === ReferenceKind.EMBEDDED && !prop.array && !prop.targetMeta!.polymorphs;
}

/** Is it stored, and no mere function of others? */
function isOfItsOwn({ getter, setter, persist }: EntityProperty): boolean {
  return persist !== false && (!getter || Boolean(setter));
}

/** What a property is called in a snapshot: an embeddable of columns by each of them. */
export function keysOf(prop: EntityProperty): string[] {
  return prop.kind === ReferenceKind.EMBEDDED && !prop.object
    ? Object.values(prop.embeddedProps).flatMap(keysOf)
    : [prop.name];
}

/** Is it the same in both? For one inside an object, of which MikroORM compares the whole. */
export function isSame({ em }: Row, { prop, path }: Unit, a: Dictionary, b: Dictionary): boolean {
  const [left, right] = [a, b].map((entity) => {
    const value = at(entity, path);
    if (Utils.isEntity<object>(value, true)) {
      return helper(value).getPrimaryKey(true);
    }
    const type = isOfType(prop.customType, 'json') ? undefined : prop.customType;
    return value == null || !type ? value : type.convertToDatabaseValue(value, em.getPlatform());
  });
  return (left == null && right == null) || Utils.equals(left, right);
}
