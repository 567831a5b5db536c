/**
 * Everybody writes tables in the same order, also where foreign keys would allow another one: else two flushes of the
 * same tables deadlock. It is made from all classes, so that it does not depend on which of them a flush writes.
 */
import {
  type Collection,
  DeferMode,
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  ReferenceKind,
} from '@mikro-orm/core';
import { ofAllClasses } from '../mikro-orm/all-classes.ts';
import { targetClasses } from '../mikro-orm/entity.ts';

/** Where each class comes; by its id, which its metadata share. */
interface Ranks {
  readonly written: ReadonlyMap<number, number>;
  readonly deleted: ReadonlyMap<number, number>;
}

/** What is written of M:N collections is what they have now: they come first, before anything is waited for. */
export function manyToManyFirst<T extends object, O extends object>(
  collections: Iterable<Collection<T, O>>,
): Collection<T, O>[] {
  const isManyToMany = ({ property }: Collection<T, O>) => property.kind === ReferenceKind.MANY_TO_MANY;
  const all = [...collections];
  return [...all.filter(isManyToMany), ...all.filter((one) => !isManyToMany(one))];
}

/** The classes of a flush in the order in which rows are inserted and updated, or deleted. */
export function inTableOrder(
  metas: readonly EntityMetadata[],
  metadata: MetadataStorage,
  how: 'written' | 'deleted',
): EntityMetadata[] {
  if (metas.length < 2) {
    return [...metas];
  }
  const ranks = ranksOf(metadata)[how];
  const rank = (meta: EntityMetadata) => ranks.get(meta._id) ?? -1;
  return sort(
    metas.toSorted((a, b) => rank(a) - rank(b)),
    how,
  );
}

const ranksOf = ofAllClasses((metadata): Ranks => {
  const all = [...metadata].filter((meta) => !meta.embeddable && !meta.virtual);
  const name = (meta: EntityMetadata) => `${meta.schema ?? ''}.${meta.tableName}.${meta.className}`;
  const byName = all.toSorted((a, b) => (name(a) < name(b) ? -1 : 1));
  const written = sort(byName, 'written');
  const deleted = sort(written, 'deleted');
  const placesIn = (metas: EntityMetadata[]) => new Map(metas.map((meta, i) => [meta._id, i]));
  return { written: placesIn(written), deleted: placesIn(deleted) };
});

/**
 * Puts classes behind those that they depend on (to be deleted: before them), and leaves the rest as it is. In a
 * circle, keys that may be filled in later do not count: MikroORM's own search looks at circles of two only, and
 * otherwise succeeds or fails by the order in which it is given the classes.
 */
function sort(metas: readonly EntityMetadata[], how: 'written' | 'deleted'): EntityMetadata[] {
  const waiting = new Map(metas.map((meta) => [meta, new Map<number, boolean>()]));
  const byId = new Map(metas.map((meta) => [meta._id, meta]));
  for (const meta of metas) {
    for (const { parent, isHard } of parentsOf(meta)) {
      const other = byId.get(parent);
      if (other && other !== meta) {
        const [from, to] = how === 'written' ? [other, meta] : [meta, other];
        const waitsFor = waiting.get(to)!;
        waitsFor.set(from._id, isHard || (waitsFor.get(from._id) ?? false));
      }
    }
  }
  const sorted: EntityMetadata[] = [];
  while (waiting.size > 0) {
    const next = firstOf(waiting);
    waiting.delete(next);
    waiting.forEach((others) => others.delete(next._id));
    sorted.push(next);
  }
  return sorted;
}

/** The first class that waits for no other one, else for none that it cannot do without. */
function firstOf(waiting: ReadonlyMap<EntityMetadata, ReadonlyMap<number, boolean>>): EntityMetadata {
  const all = [...waiting];
  const free =
    all.find(([, others]) => others.size === 0) ?? all.find(([, others]) => ![...others.values()].includes(true));
  return (free ?? all[0]!)[0];
}

interface Dependency {
  readonly parent: number;
  /** Its key must be there when the row is written. */
  readonly isHard: boolean;
}

/** The tables that rows of a class refer to. */
function parentsOf(meta: EntityMetadata): Dependency[] {
  const parents = meta.relations.filter(isOwner).flatMap((prop) => {
    const targets = targetClasses(prop);
    const isHard = !prop.nullable && prop.deferMode !== DeferMode.INITIALLY_DEFERRED && prop.persist !== false;
    return targets.flatMap(({ root, _id }) => [root._id, _id].map((parent) => ({ parent, isHard })));
  });
  const table = meta.tptParent ? [{ parent: meta.tptParent._id, isHard: true }] : [];
  return [...parents, ...table];
}

function isOwner({ kind, owner, pivotEntity }: EntityProperty): boolean {
  return (
    kind === ReferenceKind.MANY_TO_ONE ||
    (kind === ReferenceKind.ONE_TO_ONE && owner) ||
    (kind === ReferenceKind.MANY_TO_MANY && owner && !pivotEntity)
  );
}
