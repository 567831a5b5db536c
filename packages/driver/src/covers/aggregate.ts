/**
 * Aggregates: one version for a root and its parts, `new VersionField({ aggregate: ['items', 'items.options', 'tags'] })`.
 * Here is which rows and collections belong to which root, and the way back from a part to it, settled on discovery.
 */
import { type EntityMetadata, type EntityProperty, type MetadataStorage, ReferenceKind } from '@mikro-orm/core';
import { type VersionField, versionOf } from '@mikro-ool/core';

/** One relation of a path, from the row nearer to the root to the one further away. */
interface Hop {
  readonly from: EntityMetadata;
  readonly prop: EntityProperty;
  /** The relation of the part that leads back; an m:n collection has none, as its items belong to nobody. */
  readonly back?: EntityProperty;
}

/** A listed path. */
export interface Way {
  readonly root: EntityMetadata;
  readonly path: string;
  readonly hops: readonly Hop[];
}

/** What to look at when a class is written, by its id. */
export interface Aggregates {
  /** Ways that end at its rows. */
  readonly rows: ReadonlyMap<number, readonly Way[]>;
  /** Ways that end at a collection: by the class that has it and its name, from the side of the root or from the other one. */
  readonly collections: ReadonlyMap<string, readonly { way: Way; isOther: boolean }[]>;
}

const known = new WeakMap<MetadataStorage, Aggregates>();

/** The aggregates of all classes, where there are any. */
export function aggregatesOf(storage: MetadataStorage): Aggregates | undefined {
  return known.get(storage);
}

/** How a collection is called in `Aggregates.collections`. */
export function collectionKey({ _id }: EntityMetadata, name: string): string {
  return `${_id} ${name}`;
}

/** Called when all classes are known, and when there are more of them. */
export function settleAggregates(storage: MetadataStorage): void {
  const rows = new Map<number, Way[]>();
  const collections = new Map<string, { way: Way; isOther: boolean }[]>();
  for (const way of [...storage].flatMap((meta) => waysOf(meta))) {
    const { from, prop, back } = way.hops.at(-1)!;
    for (const meta of back ? withBelow(prop.targetMeta!, storage) : []) {
      add(rows, meta._id, way);
    }
    for (const meta of isCollection(prop) ? withBelow(from, storage) : []) {
      add(collections, collectionKey(meta, prop.name), { way, isOther: false });
    }
    const other = prop.kind === ReferenceKind.MANY_TO_MANY ? (prop.mappedBy ?? prop.inversedBy) : undefined;
    for (const meta of other ? withBelow(prop.targetMeta!, storage) : []) {
      add(collections, collectionKey(meta, other!), { way, isOther: true });
    }
  }
  if (rows.size + collections.size > 0) {
    known.set(storage, { rows, collections });
  }
}

function add<Key, Value>(map: Map<Key, Value[]>, key: Key, value: Value): void {
  map.set(key, [...(map.get(key) ?? []), value]);
}

/** A class, and those that extend it. */
function withBelow(meta: EntityMetadata, storage: MetadataStorage): EntityMetadata[] {
  const children = [...storage].filter((child) => child.extends && storage.find(child.extends)?.class === meta.class);
  return [meta, ...children.flatMap((child) => withBelow(child, storage))];
}

function isCollection({ kind }: EntityProperty): boolean {
  return kind === ReferenceKind.ONE_TO_MANY || kind === ReferenceKind.MANY_TO_MANY;
}

/** The ways of a root; with single-table inheritance some may be those of another class. */
function waysOf(root: EntityMetadata): Way[] {
  const { aggregate = [] } = (versionOf(root)?.customType ?? {}) as Partial<VersionField>;
  return aggregate.flatMap((path) => {
    const hops = hopsOf(root, path);
    return typeof hops === 'string' ? [] : [{ root, path, hops }];
  });
}

/** The relations of a path, or what is wrong with it. */
function hopsOf(root: EntityMetadata, path: string): Hop[] | string {
  const hops: Hop[] = [];
  let from = root;
  for (const name of path.split('.')) {
    const prop = from.properties[name as never] as EntityProperty | undefined;
    if (!prop) {
      return `${from.className} has no "${name}". Is it misspelt?`;
    }
    const last = hops.at(-1);
    if (last && !last.back) {
      return `${last.from.className}.${last.prop.name} is m:n, so its items belong to nobody. Let the path end there.`;
    }
    const flaw = flawOfHop(from, prop);
    if (flaw) {
      return `${from.className}.${name} ${flaw}`;
    }
    hops.push({ from, prop, back: backOf(prop) });
    from = prop.targetMeta!;
  }
  return hops;
}

function backOf({ mappedBy, inversedBy, kind, targetMeta }: EntityProperty): EntityProperty | undefined {
  const name = kind === ReferenceKind.MANY_TO_MANY ? undefined : (mappedBy ?? inversedBy);
  return name ? targetMeta!.properties[name as never] : undefined;
}

function flawOfHop(from: EntityMetadata, prop: EntityProperty): string | undefined {
  const target = prop.targetMeta?.className;
  if (prop.kind === ReferenceKind.EMBEDDED) {
    return 'is an embeddable, which is part of the row anyway. Leave it out.';
  }
  if (prop.kind === ReferenceKind.SCALAR) {
    return 'is no relation but a column, which the version covers anyway. Leave it out.';
  }
  if (prop.kind === ReferenceKind.MANY_TO_ONE) {
    return `refers to a ${target} that others may refer to, too, so it is no part. Leave it out.`;
  }
  const back = backOf(prop);
  if (prop.kind !== ReferenceKind.MANY_TO_MANY && !back) {
    return `has no way back from ${target} to ${from.className}. Give it an "inversedBy".`;
  }
  return back?.polymorphic
    ? `is polymorphic from the side of ${target}, so what it belonged to before is not known. Leave it out.`
    : undefined;
}

/** What is wrong with what a version covers beside its row, if anything. */
export function flawOfAggregate(
  meta: EntityMetadata,
  version: EntityProperty,
  storage: MetadataStorage,
): string | undefined {
  const { aggregate = [] } = version.customType as VersionField;
  for (const path of aggregate) {
    const [first] = path.split('.') as [string];
    const isBelow =
      !(first in meta.properties) &&
      [...storage].some((other) => other.root === meta.root && first in other.properties);
    const flaw = isBelow ? undefined : hopsOf(meta, path);
    if (typeof flaw === 'string') {
      return `covers "${path}", but ${flaw}`;
    }
  }
  return undefined;
}
