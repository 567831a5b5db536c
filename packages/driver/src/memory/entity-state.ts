/**
 * What is remembered of an entity that a flush writes: what MikroORM knows of it, and the properties that the flush fills.
 * Many rows share a class, so what depends on the class alone is found out once.
 */
import {
  type Collection,
  type Dictionary,
  type EntityMetadata,
  type EntityProperty,
  type IdentityMap,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

export interface EntityState {
  readonly entity: Dictionary;
  readonly flags: Flags;
  /** A new entity, and the identity maps that know it all the same, because it was given a key. */
  readonly created?: readonly IdentityMap[];
  /** What a flush may write into the entity: keys, versions, defaults, computed columns. */
  readonly before: Dictionary;
  after?: Dictionary;
  /** What it had when it was removed, as a snapshot: it has none afterwards. */
  left?: Dictionary;
  /** All values, where MikroORM is about to replace them by those of another object for the same row. */
  readonly values?: Dictionary;
}

/** Where MikroORM keeps what it knows of an entity. */
const FLAGS = ['__managed', '__initialized', '__em', '__schema', '__originalEntityData'] as const;
type Flags = Record<(typeof FLAGS)[number], unknown>;

/** What MikroORM knows of an entity. */
export function flagsOf(entity: object): Flags {
  const { __managed, __initialized, __em, __schema, __originalEntityData } = helper(entity) as unknown as Flags;
  return { __managed, __initialized, __em, __schema, __originalEntityData };
}

/** Makes it what MikroORM knows again. */
export function restoreFlags(entity: object, flags: Flags): void {
  const wrapped = helper(entity) as unknown as Dictionary;
  FLAGS.forEach((flag) => assign(wrapped, flag, flags[flag]));
}

/** Some properties of an entity. */
export function pick(entity: Dictionary, names: readonly string[]): Dictionary {
  const picked: Dictionary = {};
  for (const name of names) {
    picked[name] = entity[name];
  }
  return picked;
}

export function assign(target: Dictionary, key: string, value: unknown): void {
  if (value === undefined) {
    delete target[key];
  } else {
    target[key] = value;
  }
}

interface Shape {
  /** Properties that an INSERT fills, … */
  readonly insert: readonly string[];
  /** … and those that an UPDATE does. */
  readonly update: readonly string[];
  /** Relations that may hold a collection. */
  readonly toMany: readonly string[];
  /** Does updating a row change nothing in memory but the snapshot and the version? */
  readonly isSimple: boolean;
}

const shapes = new WeakMap<EntityMetadata, Shape>();

/** What a flush does to entities of a class. */
export function shapeOf(meta: EntityMetadata): Shape {
  let shape = shapes.get(meta);
  if (!shape) {
    const props = meta.props as EntityProperty[];
    const names = (some: EntityProperty[]) => some.map(({ name }) => name);
    shape = {
      insert: names(props.filter(isFilledByInsert)),
      update: names(props.filter(isFilledByUpdate)),
      toMany: names(props.filter(({ kind }) => isToMany(kind))),
      isSimple: !meta.root.props.some((prop) => prop.generated || isToMany(prop.kind)),
    };
    shapes.set(meta, shape);
  }
  return shape;
}

/** Is it of a class that may have collections? */
export function hasCollections(entity: object): boolean {
  return shapeOf(helper(entity).__meta as EntityMetadata).toMany.length > 0;
}

export function collectionsOf(entity: object): Collection<object>[] {
  const names = shapeOf(helper(entity).__meta as EntityMetadata).toMany;
  const values = names.map((name): unknown => (entity as Dictionary)[name]);
  return values.filter((value) => Utils.isCollection(value)) as Collection<object>[];
}

export function isToMany(kind: ReferenceKind): boolean {
  return kind === ReferenceKind.ONE_TO_MANY || kind === ReferenceKind.MANY_TO_MANY;
}

function isFilledByUpdate(prop: EntityProperty): boolean {
  return prop.kind === ReferenceKind.SCALAR && Boolean(prop.generated);
}

function isFilledByInsert(prop: EntityProperty): boolean {
  const { primary, autoincrement, defaultRaw, generated, kind, customType } = prop;
  const isFilled = primary || autoincrement || defaultRaw || generated || customType instanceof VersionField;
  // MikroORM takes what a getter of a new entity returns for a default
  const isComputed = prop.persist === false || (prop.getter && !prop.setter);
  return kind === ReferenceKind.SCALAR && Boolean(isFilled) && !isComputed;
}
