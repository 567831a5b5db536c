/**
 * Aggregates: one version for a root and its parts, as in `new VersionField({ aggregate: ['items', 'items.options'] })`.
 * Here is which rows and collections belong to which root, and the way back from a part to it, settled on discovery.
 */
import { type EntityMetadata, type EntityProperty, type MetadataStorage, ReferenceKind } from '@mikro-orm/core';
import { type VersionField, versionOf } from '@mikro-ool/core';
import { childrenOf, isElsewhere } from '../../mikro-orm/entity.ts';

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

/** Where in a way something is that a flush may write: so many hops away from the root. */
interface Place {
  readonly way: Way;
  readonly depth: number;
}

/** What to look at when something is written, by its class. */
export interface Aggregates {
  /** Rows: those at the end of a way count with whatever is written, those along it with the key of another one only. */
  readonly rows: Map<unknown, (Place & { readonly key?: string })[]>;
  /** Collections; of an m:n from the other side, the items are in that place. */
  readonly collections: Map<unknown, (Place & { readonly name: string; readonly isOther: boolean })[]>;
}

const known = new WeakMap<MetadataStorage, Aggregates>();

/** The aggregates of all classes, where there are any. */
export function aggregatesOf(storage: MetadataStorage): Aggregates | undefined {
  return known.get(storage);
}

/** Called when all classes are known, and when there are more of them. */
export function settleAggregates(storage: MetadataStorage): void {
  const settled: Aggregates = { rows: new Map(), collections: new Map() };
  for (const way of [...storage].flatMap((meta) => waysOf(meta, storage))) {
    const names = way.path.split('.');
    for (const [depth, { from, prop, part, back }] of way.hops.entries()) {
      const other = prop.mappedBy ?? prop.inversedBy;
      // the name of a relation to one is that of no collection
      add(settled.collections, from, { way, depth, name: prop.name, isOther: false }, storage);
      if (other) {
        add(settled.collections, prop.targetMeta!, { way, depth, name: other, isOther: true }, storage);
      }
      // whoever has the key takes along what is further away; when it is listed itself, it counts anyway
      const [holder, at, key] = back.mappedBy ? [from, depth, prop.name] : [part, depth + 1, back.name];
      if (at > 0 && !lists(way.root, names.slice(0, at).join('.'))) {
        add(settled.rows, holder, { way, depth: at, key }, storage);
      }
    }
    add(settled.rows, way.hops.at(-1)!.part, { way, depth: way.hops.length }, storage);
  }
  if (settled.rows.size > 0) {
    known.set(storage, settled);
  }
}

/** For a class, and those that extend it. */
function add<Value>(map: Map<unknown, Value[]>, meta: EntityMetadata, value: Value, storage: MetadataStorage): void {
  map.set(meta.class, [...(map.get(meta.class) ?? []), value]);
  childrenOf(meta, storage).forEach((child) => add(map, child, value, storage));
}

function pathsOf(version: EntityProperty | undefined): readonly string[] {
  return (version?.customType as Partial<VersionField> | undefined)?.aggregate ?? [];
}

/** Does a class list this path? With single-table inheritance, another one of the same table may not. */
export function lists(meta: EntityMetadata, path: string): boolean {
  return pathsOf(versionOf(meta)).includes(path);
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
  for (const name of path.split('.')) {
    const last = hops.at(-1)?.prop;
    const from = last?.targetMeta ?? root;
    if (last?.kind === ReferenceKind.MANY_TO_MANY && name in from.properties) {
      return `${hops.at(-1)!.from.className}.${last.name} is m:n, so its items belong to nobody. Let the path end there.`;
    }
    const hop = hopOf(from, name, storage);
    if (typeof hop === 'string') {
      return hop;
    }
    hops.push(hop);
  }
  return hops;
}

/** Where a relation leads, and how it leads back, or what is wrong with it. */
function hopOf(from: EntityMetadata, name: string, storage: MetadataStorage): Hop | string {
  const prop = from.properties[name as never] as EntityProperty | undefined;
  if (!prop) {
    return `${from.className} has no "${name}". Is it misspelt?`;
  }
  const { kind, targetMeta } = prop;
  const relation = `${from.className}.${name}`;
  if (kind === ReferenceKind.SCALAR || kind === ReferenceKind.EMBEDDED) {
    return `${relation} is part of the row, which the version covers anyway. Leave it out.`;
  }
  if (kind === ReferenceKind.MANY_TO_ONE) {
    return `${relation} refers to a ${targetMeta!.className} that others may refer to, too, so it is no part. Leave it out.`;
  }
  const part = kind === ReferenceKind.MANY_TO_MANY ? storage.get(prop.pivotEntity) : targetMeta!;
  const back = part.relations.find((one) =>
    part === targetMeta
      ? one.name === (prop.mappedBy ?? prop.inversedBy)
      : one.fieldNames.join() === prop.joinColumns.join(),
  );
  if (!back) {
    return `${relation} has no way back from ${part.className} to ${from.className}. Give it an "inversedBy".`;
  }
  const isPolymorphic = prop.polymorphic || back.polymorphic;
  const why = [
    isPolymorphic && 'is polymorphic',
    back.persist === false && 'is not persisted',
    back.targetKey && `names it by "${back.targetKey}"`,
  ].find((reason) => reason);
  if (why) {
    return `${relation} leads back by ${part.className}.${back.name}, which ${why}, so what it belonged to before is not known. Leave it out.`;
  }
  return { from, prop, part, back };
}

/** What is wrong with what a version covers beside its row, if anything. */
export function flawOfAggregate(
  meta: EntityMetadata,
  version: EntityProperty,
  storage: MetadataStorage,
): string | undefined {
  for (const path of pathsOf(version)) {
    const flaw = isElsewhere(meta, path.split('.')[0]!, storage) ? undefined : hopsOf(meta, path, storage);
    if (typeof flaw === 'string') {
      return `covers "${path}", but ${flaw}`;
    }
  }
  return undefined;
}
