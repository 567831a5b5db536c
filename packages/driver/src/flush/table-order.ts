/**
 * Tables are written in one order by everybody, where foreign keys leave it open: else two flushes of the same tables
 * deadlock. The order comes from all classes, so that it does not depend on which of them a flush writes.
 */
import {
  CommitOrderCalculator,
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  ReferenceKind,
} from '@mikro-orm/core';

/** Where each class comes; by its id, which its metadata share. */
interface Ranks {
  readonly classes: number;
  readonly written: ReadonlyMap<number, number>;
  readonly deleted: ReadonlyMap<number, number>;
}

const known = new WeakMap<MetadataStorage, Ranks>();

/** The classes of a flush in the order in which rows are inserted and updated, or deleted. */
export function inTableOrder(
  metas: readonly EntityMetadata[],
  metadata: MetadataStorage,
  how: 'written' | 'deleted',
): EntityMetadata[] {
  const ranks = ranksOf(metadata)[how];
  const rank = (meta: EntityMetadata) => ranks.get(meta._id) ?? -1;
  return sort(
    metas.toSorted((a, b) => rank(a) - rank(b)),
    how,
  );
}

function ranksOf(metadata: MetadataStorage): Ranks {
  const all = [...metadata].filter((meta) => !meta.embeddable && !meta.virtual);
  const before = known.get(metadata);
  // `orm.discoverEntity()` adds classes
  if (before?.classes === all.length) {
    return before;
  }
  const name = (meta: EntityMetadata) => `${meta.schema ?? ''}.${meta.tableName}.${meta.className}`;
  const byName = all.toSorted((a, b) => (name(a) < name(b) ? -1 : 1));
  const written = sort(byName, 'written');
  const deleted = sort(written, 'deleted');
  const placesIn = (metas: EntityMetadata[]) => new Map(metas.map((meta, i) => [meta._id, i]));
  const ranks = { classes: all.length, written: placesIn(written), deleted: placesIn(deleted) };
  known.set(metadata, ranks);
  return ranks;
}

/**
 * Puts classes behind those that they depend on (rows to be deleted before), and leaves the rest as it is.
 * MikroORM's search ends with what it begins with, so it begins with the last one.
 */
function sort(metas: readonly EntityMetadata[], how: 'written' | 'deleted'): EntityMetadata[] {
  const byId = new Map(metas.toReversed().map((meta) => [meta._id, meta]));
  const calculator = new CommitOrderCalculator();
  byId.forEach((_, id) => calculator.addNode(id));
  for (const meta of metas) {
    for (const { parent, isHard } of parentsOf(meta)) {
      if (parent !== meta._id && byId.has(parent)) {
        const [from, to] = how === 'written' ? [parent, meta._id] : [meta._id, parent];
        calculator.addDependency(from, to, isHard ? 1 : 0);
      }
    }
  }
  // oxlint-disable-next-line unicorn/no-array-sort -- it is the calculator's
  return calculator.sort().map((id) => byId.get(id)!);
}

interface Dependency {
  readonly parent: number;
  /** Its key must be there when the row is written. */
  readonly isHard: boolean;
}

/** The tables that rows of a class refer to, those that they must refer to last: MikroORM keeps the last word. */
function parentsOf(meta: EntityMetadata): Dependency[] {
  const parents = meta.relations.filter(isOwner).flatMap((prop) => {
    const targets = prop.polymorphTargets ?? [prop.targetMeta!];
    const isHard = !prop.nullable && prop.persist !== false;
    return targets.flatMap(({ root, _id }) => [root._id, _id].map((parent) => ({ parent, isHard })));
  });
  const table = meta.tptParent ? [{ parent: meta.tptParent._id, isHard: true }] : [];
  return [...parents, ...table].toSorted((a, b) => Number(a.isHard) - Number(b.isHard));
}

function isOwner({ kind, owner, pivotEntity }: EntityProperty): boolean {
  return (
    kind === ReferenceKind.MANY_TO_ONE ||
    (kind === ReferenceKind.ONE_TO_ONE && owner) ||
    (kind === ReferenceKind.MANY_TO_MANY && owner && !pivotEntity)
  );
}
