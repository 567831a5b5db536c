/**
 * After a conflict: puts unsaved changes on top of what is in the database now.
 *
 *   const { clashes } = await rebase(em, error);   // a ConcurrentUpdate
 *   for (const clash of clashes) clash.takeTheirs();   // or ask the user
 *   await em.flush();
 *
 * A three-way merge, property by property: base is what the changes were made to (MikroORM's snapshot), mine is what is in
 * memory, theirs what is in the database. It compares the way a flush does. Afterwards the snapshot and the version are
 * theirs, so a flush writes what is mine, and conflicts with whoever comes third.
 */
import {
  type Collection,
  type Dictionary,
  type EntityKey,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  FlushMode,
  JsonType,
  Reference,
  ReferenceKind,
  ScalarReference,
  Utils,
  ValidationError,
  helper,
} from '@mikro-orm/core';
import { ConcurrentUpdate, isTouched, touch, versionOf } from '@mikro-ool/core';

/** A property that both have changed, to different values. Mine stays, unsaved, until somebody decides otherwise. */
export interface PropertyClash<Entity, Property, Value> {
  readonly entity: Entity;
  /** Its name; inside an embeddable with dots: `address.city`. */
  readonly property: Property;
  /** What both started from; `undefined` when that is not known, because the version was assigned and not loaded. */
  readonly base: Value | undefined;
  readonly mine: Value;
  readonly theirs: Value;
  /** Gives up mine. For anything else, assign to the entity. */
  takeTheirs(): void;
}

type Unwrapped<Value> = Value extends ScalarReference<infer Inner> ? Inner : Value;

/** A clash of one of the entity's properties: its name tells the type of the values. */
export type Clash<Entity extends object = object> = object extends Entity
  ? PropertyClash<object, string, unknown>
  : {
      [Key in EntityKey<Entity>]:
        | PropertyClash<Entity, Key, Unwrapped<Entity[Key]>>
        | (NonNullable<Entity[Key]> extends object ? PropertyClash<Entity, `${Key}.${string}`, unknown> : never);
    }[EntityKey<Entity>];

/** An entity that has unsaved changes, but no row any more. Left as it is, it conflicts again. */
export interface Deleted<Entity extends object = object> {
  readonly entity: Entity;
  /** Forgets the entity and its changes. */
  drop(): void;
  /** Lets the next flush insert it again, under the same key and with the next version; 1:m items are rows of their own. */
  recreate(): void;
}

/** An entity that is to be removed, though others have changed it since. The next flush removes it. */
export interface Removed<Entity extends object = object> {
  readonly entity: Entity;
  /** Does not remove it after all, nor what the removal cascaded to. */
  keep(): void;
}

/** What the caller may decide. Empty lists: everything is merged. */
export interface Rebased<Entity extends object = object> {
  readonly clashes: Clash<Entity>[];
  readonly deleted: Deleted<Entity>[];
  readonly removed: Removed<Entity>[];
}

/**
 * Loads what is in the database and puts unsaved changes on top. Then `em.flush()` works, unless somebody was faster
 * again. Where both have changed a property, mine stays and the clash is reported; what both changed to the same is none.
 *
 * @param em the EntityManager whose flush failed
 * @param stale the error, for all the rows that it lists, or one entity
 * @returns what is left to decide
 * @throws {ValidationError} when the error lists no rows, and for an entity that is not managed or has no version
 * @see Berenson et al. on lost updates; EF Core's "Resolving concurrency conflicts"; diff3
 */
export function rebase(em: EntityManager, stale: ConcurrentUpdate): Promise<Rebased>;
export function rebase<Entity extends object>(em: EntityManager, stale: Entity): Promise<Rebased<Entity>>;
export async function rebase(em: EntityManager, stale: object): Promise<Rebased> {
  if (stale instanceof ConcurrentUpdate && stale.conflicts.length === 0) {
    throw new ValidationError(
      'There is nothing to rebase: the database itself aborted the transaction, and no row is known to be stale. ' +
        'Run the whole transaction again, for instance by retryOnConflict().',
    );
  }
  const entities = new Set(stale instanceof ConcurrentUpdate ? stale.conflicts.map(({ entity }) => entity) : [stale]);
  const context = em.getContext();
  entities.forEach((entity) => check(context, entity));
  const result: Rebased = { clashes: [], deleted: [], removed: [] };
  for (const entity of entities) {
    await new Merge(context, entity).run(result);
  }
  return result;
}

function check(em: EntityManager, entity: object): void {
  const wrapped = helper(entity) as ReturnType<typeof helper> | undefined;
  const name = wrapped?.__meta.className ?? entity.constructor.name;
  if (!wrapped?.__managed || wrapped.__em !== em) {
    throw new ValidationError(
      `${name} cannot be rebased, because this EntityManager does not manage it. Pass the one whose flush failed; ` +
        `after a transaction that was rolled back, run the whole transaction again.`,
      entity,
    );
  }
  if (!versionOf(metaOf(em, entity))) {
    throw new ValidationError(`${name} cannot be rebased, because it has no VersionField. Add one.`, entity);
  }
}

/** What stands on the entity may be the metadata of another ORM in this process. */
function metaOf(em: EntityManager, entity: object): EntityMetadata {
  return em.getMetadata().get(entity.constructor as never) as unknown as EntityMetadata;
}

/** What is merged as one: a property, or one inside an embeddable. */
interface Unit {
  readonly prop: EntityProperty;
  readonly path: readonly string[];
  /** What it is called in a snapshot; absent inside an embeddable that is stored as an object. */
  readonly keys?: readonly string[];
}

class Merge {
  readonly #em: EntityManager;
  readonly #entity: Dictionary;
  readonly #meta: EntityMetadata;
  readonly #version: string;

  constructor(em: EntityManager, entity: object) {
    this.#em = em;
    this.#entity = entity;
    this.#meta = metaOf(em, entity);
    this.#version = versionOf(this.#meta)!.name;
  }

  async run(result: Rebased): Promise<void> {
    const [em, entity, meta] = [this.#em, this.#entity, this.#meta];
    const uow = em.getUnitOfWork(false);
    const wrapped = helper(entity);
    const [removals, orphans] = [uow.getRemoveStack(), new Set(uow.getOrphanRemoveStack())];
    const isRemoved = removals.has(entity) || orphans.has(entity as never);
    const now = { filters: false, connectionType: 'write', flushMode: FlushMode.COMMIT } as const;
    if (!wrapped.__initialized) {
      // merges the row into what was assigned, where init() would replace it
      await em.findOne(meta.class, wrapped.getPrimaryKey() as never, { ...now, schema: wrapped.__schema });
    }
    const snapshot = wrapped.__originalEntityData as Dictionary;
    const comparator = em.getComparator();
    const mineData: Dictionary = comparator.prepareEntity(entity);

    // both are entities of their own, since values are not what is compared but what users see
    const reader = em.fork({ keepTransactionContext: true });
    const base = this.#baseFrom(snapshot);
    const lazy = meta.props.filter((prop) => prop.lazy && (prop.name in snapshot || prop.name in mineData));
    const theirs = (await reader.findOne(meta.class, helper(base).getPrimaryKey() as never, {
      ...now,
      populate: lazy.map(({ name }) => name) as never,
      schema: wrapped.__schema,
    })) as Dictionary | null;
    if (!theirs) {
      return this.#gone(isRemoved, result);
    }
    const theirData: Dictionary = comparator.prepareEntity(theirs);
    const diff = (from: Dictionary, to: Dictionary): Dictionary => comparator.diffEntities(meta.class, from, to);
    const [mineDiff, theirDiff, between] = [
      diff(snapshot, mineData),
      diff(snapshot, theirData),
      diff(mineData, theirData),
    ];
    // An assigned version says that the changes were made to an older state than the loaded one, and after touch() it can
    // no longer be told: then whatever differs is for somebody to decide.
    const touched = isTouched(snapshot, this.#version);
    const isClaim = snapshot[this.#version] !== entity[this.#version];

    for (const unit of this.#units(theirs)) {
      const known = (data: Dictionary) => unit.keys?.some((key) => data[key] !== undefined) ?? true;
      const differs = (found: Dictionary, a: Dictionary, b: Dictionary) =>
        unit.keys ? unit.keys.some((key) => key in found) : !this.#same(unit, a, b);
      if ((!known(snapshot) && !known(mineData)) || !differs(between, entity, theirs)) {
        continue;
      }
      const isMine = differs(mineDiff, base, entity) && !unit.prop.onUpdate;
      if (!isMine) {
        this.#assign(unit, theirs);
      } else if (isClaim || !known(snapshot) || differs(theirDiff, base, theirs)) {
        const from = isClaim || !known(snapshot) ? undefined : this.#valueOf(unit, base);
        result.clashes.push(
          new Overlap(entity, unit.path.join('.'), from, this.#valueOf(unit, entity), this.#valueOf(unit, theirs), () =>
            this.#assign(unit, theirs),
          ),
        );
      }
    }
    for (const { name } of meta.props.filter((prop) => prop.generated || prop.formula)) {
      if (theirs[name] !== undefined && entity[name] !== undefined) {
        entity[name] = theirs[name];
      }
    }
    entity[this.#version] = theirs[this.#version];
    const names = Object.keys(theirData).filter((key) => key in snapshot || key in mineData);
    wrapped.__originalEntityData = Object.fromEntries(names.map((key) => [key, theirData[key]])) as never;
    await this.#mergeCollections(reader, theirs, now);
    // a relation that others have moved on is no orphan of ours
    uow.getOrphanRemoveStack().forEach((orphan) => orphans.has(orphan) || uow.getOrphanRemoveStack().delete(orphan));
    if (touched) {
      touch(entity);
    }
    if (isRemoved) {
      result.removed.push({ entity, keep: () => (em.persist(entity), uow.cancelOrphanRemoval(entity)) });
    }
  }

  /** The entity that a snapshot was taken of; its version may be the mark of touch(). */
  #baseFrom(snapshot: Dictionary): Dictionary {
    const data: Dictionary = { ...snapshot, [this.#version]: undefined };
    const platform = this.#em.getPlatform();
    if (platform.convertsJsonAutomatically()) {
      // it is text in a snapshot all the same
      for (const { name, customType } of this.#meta.comparableProps) {
        if (customType instanceof JsonType && data[name] != null) {
          data[name] = customType.convertToJSValue(data[name], platform, { mode: 'hydration', force: true });
        }
      }
    }
    const options = { merge: true, refresh: true, convertCustomTypes: true, schema: helper(this.#entity).__schema };
    return this.#em
      .fork()
      .getEntityFactory()
      .create(this.#meta.class, data as never, options as never);
  }

  /** Removed by both is what both wanted. */
  #gone(isRemoved: boolean, result: Rebased): void {
    const [em, entity] = [this.#em, this.#entity];
    const drop = () => em.getUnitOfWork(false).unsetIdentity(entity);
    if (isRemoved) {
      return drop();
    }
    const recreate = () => {
      const missing = this.#meta.comparableProps.find(({ name, nullable }) => !nullable && entity[name] === undefined);
      if (missing || !helper(entity).__initialized) {
        throw new ValidationError(
          `${this.#meta.className} cannot be created again, because it was loaded only in part` +
            `${missing ? `, without ${missing.name}` : ''}. Assign what is missing, or drop it.`,
          entity,
        );
      }
      // without a snapshot, it is new
      delete helper(entity).__originalEntityData;
      entity[this.#version] += 1;
      for (const { collection } of this.#collections().filter(({ prop }) => prop.owner)) {
        const items = collection.getItems(false);
        collection.hydrate([]);
        items.forEach((item) => collection.addWithoutPropagation(item));
      }
      em.persist(entity);
    };
    result.deleted.push({ entity, drop, recreate });
  }

  /** Embeddables are merged property by property, except where one side has none, and lists as a whole. */
  #units(theirs: Dictionary): Unit[] {
    const leaves = (prop: EntityProperty): string[] =>
      prop.kind === ReferenceKind.EMBEDDED && !prop.object
        ? Object.values(prop.embeddedProps).flatMap(leaves)
        : [prop.name];
    const split = (prop: EntityProperty, path: string[], inObject: boolean): Unit[] => {
      const isWhole = prop.array || prop.targetMeta?.polymorphs || !at(this.#entity, path) || !at(theirs, path);
      return prop.kind !== ReferenceKind.EMBEDDED || isWhole
        ? [{ prop, path, keys: inObject ? undefined : leaves(prop) }]
        : Object.values(prop.embeddedProps).flatMap((child) =>
            split(child, [...path, child.embedded![1]], inObject || Boolean(prop.object)),
          );
    };
    return this.#meta.comparableProps
      .filter((prop) => !prop.embedded && prop.name !== this.#version && !(prop.getter && !prop.setter))
      .flatMap((prop) => split(prop, [prop.name], false));
  }

  /** Inside an object, where MikroORM compares the whole. */
  #same({ prop, path }: Unit, a: Dictionary, b: Dictionary): boolean {
    const [left, right] = [a, b].map((entity) => {
      const value = at(entity, path);
      return Utils.isEntity(value, true) ? helper(value as object).getPrimaryKey(true) : stored(prop, value, this.#em);
    });
    return (left == null && right == null) || Utils.equals(left, right);
  }

  #valueOf({ prop, path }: Unit, entity: Dictionary): unknown {
    const value = at(entity, path);
    return entity === this.#entity ? value : this.#own(prop, value);
  }

  #assign({ prop, path }: Unit, theirs: Dictionary): void {
    const holder = at(this.#entity, path.slice(0, -1)) as Dictionary | undefined;
    const name = path.at(-1)!;
    const value = this.#own(prop, at(theirs, path));
    if (!holder) {
      return; // mine was set to null meanwhile, by whoever decides
    }
    if (prop.kind === ReferenceKind.SCALAR && prop.ref) {
      (holder[name] ??= new ScalarReference()).set(value);
    } else {
      holder[name] = value;
    }
  }

  /** Entities of another fork become those of ours. */
  #own(prop: EntityProperty, value: unknown): unknown {
    if (value && Utils.isEntity(value, true)) {
      const entity = Reference.unwrapReference(value as object) as Dictionary;
      const target = helper(entity);
      const key = prop.targetKey ? entity[prop.targetKey] : target.getPrimaryKey();
      const options = { wrapped: Boolean(prop.ref), schema: target.__schema, key: prop.targetKey };
      return this.#em.getReference(entity.constructor as never, key as never, options as never);
    }
    if (prop.kind === ReferenceKind.EMBEDDED && value) {
      for (const item of Utils.asArray(value as Dictionary)) {
        for (const child of Object.values(prop.embeddedProps)) {
          const name = child.embedded![1];
          if (item[name] != null) {
            item[name] = this.#own(child, item[name]);
          }
        }
      }
    }
    return value;
  }

  #collections(): { prop: EntityProperty; collection: Collection<object> }[] {
    return this.#meta.relations
      .map((prop) => ({ prop, collection: this.#entity[prop.name] as Collection<object> }))
      .filter(
        ({ collection }) => Utils.isCollection(collection) && collection.isInitialized() && collection.getSnapshot(),
      );
  }

  /** What was added and removed stays so, on top of their items. */
  async #mergeCollections(reader: EntityManager, theirs: Dictionary, now: object): Promise<void> {
    for (const { prop, collection } of this.#collections()) {
      const base = collection.getSnapshot()!;
      const mine = collection.getItems(false);
      await reader.populate(theirs, [`${prop.name}:ref`] as never, { refresh: true, connectionType: 'write' });
      const read = (theirs[prop.name] as Collection<object>).getItems(false);
      const items = read.map((item) => this.#own(prop, item) as object);
      if (items.length > 0) {
        const keys = items.map((item) => Utils.getPrimaryKeyCond(item, prop.targetMeta!.primaryKeys as never));
        await this.#em.find(prop.targetMeta!.class, { $or: keys } as never, now as never);
      }
      mine.filter((item) => !items.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
      items.forEach((item) => collection.addWithoutPropagation(item));
      collection.takeSnapshot();
      mine.filter((item) => !base.includes(item)).forEach((item) => collection.addWithoutPropagation(item));
      base.filter((item) => !mine.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
    }
  }
}

/** Its entity is reachable, but neither printed nor serialised. */
class Overlap implements PropertyClash<object, string, unknown> {
  readonly #entity: object;
  readonly #takeTheirs: () => void;
  readonly property: string;
  readonly base: unknown;
  readonly mine: unknown;
  readonly theirs: unknown;

  constructor(entity: object, property: string, base: unknown, mine: unknown, theirs: unknown, takeTheirs: () => void) {
    this.#entity = entity;
    this.#takeTheirs = takeTheirs;
    this.property = property;
    this.base = base;
    this.mine = mine;
    this.theirs = theirs;
  }

  get entity(): object {
    return this.#entity;
  }

  takeTheirs(): void {
    this.#takeTheirs();
  }
}

function at(entity: Dictionary, path: readonly string[]): unknown {
  const value: unknown = path.reduce((holder: Dictionary | undefined, name) => holder?.[name], entity);
  return value instanceof ScalarReference ? value.unwrap() : value;
}

function stored({ customType }: EntityProperty, value: unknown, em: EntityManager): unknown {
  return customType && value != null && !(customType instanceof JsonType)
    ? customType.convertToDatabaseValue(value, em.getPlatform())
    : value;
}
