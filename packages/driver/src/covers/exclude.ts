/**
 * Columns that a version does not cover, `new VersionField({ exclude: ['likes'] })`: they are "uncovered" all over the
 * driver. A change of these alone finds its row by the key, and neither checks nor bumps the version.
 */
import {
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  type Dictionary,
  type MetadataStorage,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { VersionField, versionOf } from '@mikro-ool/core';
import { type AnyChangeSet, isElsewhere, laterOf, metaOf, snapshotOf } from '../mikro-orm/entity.ts';

const NONE: ReadonlySet<string> = new Set();
const NOBODY: ReadonlySet<object> = new Set();

/** By class: the properties as change sets name them, and their columns. */
const known = new WeakMap<EntityMetadata, { props: ReadonlySet<string>; columns: ReadonlySet<string> }>();

function uncoveredIn(meta: EntityMetadata): { props: ReadonlySet<string>; columns: ReadonlySet<string> } {
  let uncovered = known.get(meta);
  if (!uncovered) {
    const names = (versionOf(meta)?.customType as VersionField | undefined)?.exclude ?? [];
    const props = names.flatMap((name) => partsOf(meta.properties[name as never]));
    uncovered = {
      props: names.length > 0 ? new Set(props.map((prop) => prop.name)) : NONE,
      columns: names.length > 0 ? new Set(props.flatMap((prop) => prop.fieldNames)) : NONE,
    };
    known.set(meta, uncovered);
  }
  return uncovered;
}

/** The columns of an embeddable that has some of its own; else the property itself. */
function partsOf(prop: EntityProperty | undefined): EntityProperty[] {
  if (prop?.kind === ReferenceKind.EMBEDDED && !prop.object) {
    return Object.values<EntityProperty>(prop.embeddedProps).flatMap(partsOf);
  }
  return prop ? [prop] : [];
}

/** Are these all columns that the version does not cover? */
export function areUncovered(meta: EntityMetadata, columns: readonly string[]): boolean {
  const uncovered = uncoveredIn(meta).columns;
  return uncovered.size > 0 && columns.length > 0 && columns.every((column) => uncovered.has(column));
}

/** Does this change set change nothing that the version covers? A version that was assigned is to be checked. */
export function changesOnlyUncovered(
  of: { getMetadata(): MetadataStorage },
  { entity, meta, payload }: Pick<AnyChangeSet, 'entity' | 'meta' | 'payload'>,
): boolean {
  return areAllUncovered(covering(of, entity, meta), Object.keys(payload));
}

function areAllUncovered(meta: EntityMetadata, changed: readonly string[]): boolean {
  const uncovered = uncoveredIn(meta).props;
  return uncovered.size > 0 && changed.length > 0 && changed.every((name) => uncovered.has(name));
}

/**
 * The same of what MikroORM writes by a later statement. When a unique value of a row moves, that is all of its unique
 * values, also those that stay what they are.
 */
export function isUncoveredLater(em: EntityManager, entity: object, later: Dictionary): boolean {
  const stored = snapshotOf(entity) as Dictionary | undefined;
  const keyOf = (value: unknown) => (Utils.isEntity<object>(value, true) ? helper(value).getPrimaryKey() : value);
  const changed = Object.keys(later).filter((name) => (keyOf(later[name]) ?? null) !== (stored?.[name] ?? null));
  return stored !== undefined && areAllUncovered(metaOf(em, entity), changed);
}

/** The class that says what the version covers. In joined tables it may be declared below the one of this table. */
function covering(of: { getMetadata(): MetadataStorage }, entity: object, meta: EntityMetadata): EntityMetadata {
  return meta.inheritanceType === 'tpt' ? metaOf(of, entity) : meta;
}

/**
 * The entities of a flush of which only such columns change, in whichever of their tables, and by whichever statement.
 *
 * @param verified entities whose version counts all the same
 */
export function uncoveredAmong(
  em: EntityManager,
  updates: readonly AnyChangeSet[][],
  verified: ReadonlySet<object>,
): ReadonlySet<object> {
  const sets = updates.flat().filter(({ entity, meta }) => uncoveredIn(covering(em, entity, meta)).props.size > 0);
  const followUps = [...em.getUnitOfWork(false).getExtraUpdates()];
  const later = followUps.filter((one) => isUncoveredLater(em, one[0], laterOf(one)));
  if (sets.length + later.length === 0) {
    return NOBODY;
  }
  const isUncovered = (set: AnyChangeSet) => changesOnlyUncovered(em, set);
  const isEmpty = ({ payload }: AnyChangeSet) => Object.keys(payload).length === 0;
  const uncovered = new Set<object>(sets.filter(isUncovered).map(({ entity }) => entity));
  later.forEach(([entity]) => uncovered.add(entity));
  verified.forEach((entity) => uncovered.delete(entity));
  sets.filter((set) => !isEmpty(set) && !isUncovered(set)).forEach(({ entity }) => uncovered.delete(entity));
  return uncovered;
}

/** What is wrong with what a version excludes, if anything. */
export function flawOfExclude(
  meta: EntityMetadata,
  version: EntityProperty,
  storage: MetadataStorage,
): string | undefined {
  const { exclude } = version.customType as VersionField;
  for (const name of exclude ?? []) {
    const prop = meta.properties[name as never] as EntityProperty | undefined;
    if (!prop && !isElsewhere(meta, name, storage)) {
      return `excludes "${name}", but ${meta.className} has no such property. Is it misspelt?`;
    }
    const reason = prop && reasonAgainst(meta, prop, version);
    if (reason) {
      return `excludes "${name}", but that is ${reason}. Leave it out of "exclude".`;
    }
  }
  return undefined;
}

function reasonAgainst(meta: EntityMetadata, prop: EntityProperty, version: EntityProperty): string | undefined {
  if (prop.name === version.name) {
    return 'the version itself';
  }
  if (prop.primary) {
    return 'a key, and a row under another key is another row';
  }
  if (prop.name === meta.root.discriminatorColumn) {
    return 'the discriminator, which says what the row is';
  }
  if (partsOf(prop).some((part) => part.targetMeta && part.kind !== ReferenceKind.EMBEDDED)) {
    return 'a relation, and what rows belong together matters';
  }
  if (prop.persist === false || prop.formula || prop.generated) {
    return 'no column that a flush writes';
  }
  return prop.concurrencyCheck ? 'compared by MikroORM, as it has a "concurrencyCheck"' : undefined;
}
