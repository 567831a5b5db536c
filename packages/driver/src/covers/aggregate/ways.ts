/**
 * Aggregates: one version for a root and its parts, as in `new VersionField({ aggregate: ['items', 'items.options'] })`.
 * Here is which rows and collections belong to which root, and the way back from a part to it, settled on discovery.
 */
import { type EntityMetadata, type EntityProperty, type MetadataStorage, ReferenceKind } from '@mikro-orm/core';
import { type VersionField, versionOf } from '@mikro-ool/core';
import { childrenOf } from '../../mikro-orm/entity.ts';

/** One relation of a path, from the row nearer to the root to the one further away. */
interface Hop {
  readonly from: EntityMetadata;
  readonly prop: EntityProperty;
  /** The class of the parts; of an m:n collection, whose items belong to nobody, it is that of the links. */
  readonly part: EntityMetadata;
  /** The relation of a part that leads back. */
  readonly back: EntityProperty;
}

/** A listed path. */
export interface Way {
  readonly root: EntityMetadata;
  readonly path: string;
  readonly hops: readonly Hop[];
}

/** A collection at the end of a way, from the side of the root or from the other one. */
interface End {
  readonly name: string;
  readonly way: Way;
  readonly isOther: boolean;
}

/** What to look at when something is written, by its class. */
export interface Aggregates {
  /** Ways that end at its rows, … */
  readonly rows: Map<unknown, Way[]>;
  /** … and at its collections. */
  readonly collections: Map<unknown, End[]>;
  /** The classes along all ways: a flush of others bumps no root. */
  readonly classes: Set<unknown>;
}

const known = new WeakMap<MetadataStorage, Aggregates>();

/** The aggregates of all classes, where there are any. */
export function aggregatesOf(storage: MetadataStorage): Aggregates | undefined {
  return known.get(storage);
}

/** Called when all classes are known, and when there are more of them. */
export function settleAggregates(storage: MetadataStorage): void {
  const settled: Aggregates = { rows: new Map(), collections: new Map(), classes: new Set() };
  for (const way of [...storage].flatMap((meta) => waysOf(meta, storage))) {
    const { from, prop, part } = way.hops.at(-1)!;
    const isToMany = prop.kind === ReferenceKind.MANY_TO_MANY;
    const other = isToMany ? (prop.mappedBy ?? prop.inversedBy) : undefined;
    add(settled.rows, part, way, storage);
    if (isToMany || prop.kind === ReferenceKind.ONE_TO_MANY) {
      add(settled.collections, from, { name: prop.name, way, isOther: false }, storage);
    }
    if (other) {
      add(settled.collections, prop.targetMeta!, { name: other, way, isOther: true }, storage);
    }
    const along = way.hops.flatMap((hop) => [hop.from, hop.part, hop.prop.targetMeta!]);
    along.flatMap((meta) => withBelow(meta, storage)).forEach((meta) => settled.classes.add(meta.class));
  }
  if (settled.classes.size > 0) {
    known.set(storage, settled);
  }
}

/** For a class, and those that extend it. */
function add<Value>(map: Map<unknown, Value[]>, meta: EntityMetadata, value: Value, storage: MetadataStorage): void {
  withBelow(meta, storage).forEach((one) => map.set(one.class, [...(map.get(one.class) ?? []), value]));
}

function withBelow(meta: EntityMetadata, storage: MetadataStorage): EntityMetadata[] {
  return [meta, ...childrenOf(meta, storage).flatMap((child) => withBelow(child, storage))];
}

function pathsOf(version: EntityProperty | undefined): readonly string[] {
  return (version?.customType as Partial<VersionField> | undefined)?.aggregate ?? [];
}

/** The ways of a root; with single-table inheritance some paths may be those of another class. */
function waysOf(root: EntityMetadata, storage: MetadataStorage): Way[] {
  return pathsOf(versionOf(root)).flatMap((path) => {
    const hops = hopsOf(root, path, storage);
    return typeof hops === 'string' ? [] : [{ root, path, hops }];
  });
}

/** The relations of a path, or what is wrong with it. */
function hopsOf(root: EntityMetadata, path: string, storage: MetadataStorage): Hop[] | string {
  const hops: Hop[] = [];
  let from = root;
  for (const name of path.split('.')) {
    const prop = from.properties[name as never] as EntityProperty | undefined;
    const last = hops.at(-1);
    if (!prop) {
      return `${from.className} has no "${name}". Is it misspelt?`;
    }
    if (last?.prop.kind === ReferenceKind.MANY_TO_MANY) {
      return `${last.from.className}.${last.prop.name} is m:n, so its items belong to nobody. Let the path end there.`;
    }
    const end = endOf(from, prop, storage);
    if (typeof end === 'string') {
      return `${from.className}.${name} ${end}`;
    }
    hops.push({ from, prop, ...end });
    from = prop.targetMeta!;
  }
  return hops;
}

/** Where a relation leads, and how it leads back, or what is wrong with it. */
function endOf(
  from: EntityMetadata,
  prop: EntityProperty,
  storage: MetadataStorage,
): Pick<Hop, 'part' | 'back'> | string {
  const { kind, mappedBy, inversedBy, joinColumns, targetMeta } = prop;
  if (kind === ReferenceKind.EMBEDDED) {
    return 'is an embeddable, which is part of the row anyway. Leave it out.';
  }
  if (kind === ReferenceKind.SCALAR) {
    return 'is no relation but a column, which the version covers anyway. Leave it out.';
  }
  if (kind === ReferenceKind.MANY_TO_ONE) {
    return `refers to a ${targetMeta!.className} that others may refer to, too, so it is no part. Leave it out.`;
  }
  const part = kind === ReferenceKind.MANY_TO_MANY ? storage.get(prop.pivotEntity) : targetMeta!;
  const back = Object.values<EntityProperty>(part.properties).find((one) =>
    part === targetMeta ? one.name === (mappedBy ?? inversedBy) : one.fieldNames?.join() === joinColumns.join(),
  );
  if (!back) {
    return `has no way back from ${part.className} to ${from.className}. Give it an "inversedBy".`;
  }
  if (prop.polymorphic || back.polymorphic) {
    return `is polymorphic from the side of ${part.className}, so what it belonged to before is not known. Leave it out.`;
  }
  if (back.persist === false) {
    return `leads back by ${part.className}.${back.name}, which is not persisted, so what it belonged to before is not known. Persist it.`;
  }
  if (back.targetKey) {
    return `leads back by ${part.className}.${back.name}, which names a ${from.className} by "${back.targetKey}", and so MikroORM may have two entities of one. Let it name the primary key.`;
  }
  return { part, back };
}

/** What is wrong with what a version covers beside its row, if anything. */
export function flawOfAggregate(
  meta: EntityMetadata,
  version: EntityProperty,
  storage: MetadataStorage,
): string | undefined {
  for (const path of pathsOf(version)) {
    const [first] = path.split('.') as [string];
    const isBelow =
      !(first in meta.properties) &&
      [...storage].some(({ root, properties }) => root === meta.root && first in properties);
    const flaw = isBelow ? undefined : hopsOf(meta, path, storage);
    if (typeof flaw === 'string') {
      return `covers "${path}", but ${flaw}`;
    }
  }
  return undefined;
}
