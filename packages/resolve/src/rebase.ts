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
  LockMode,
  Reference,
  ReferenceKind,
  ScalarReference,
  Utils,
  ValidationError,
  helper,
} from '@mikro-orm/core';
import {
  ConcurrentUpdate,
  Refusal,
  type VersionField,
  asTouched,
  isOfType,
  isTouched,
  loadedVersion,
  readsSnapshots,
  touchedIn,
  versionOf,
} from '@mikro-ool/core';
import { metaOf } from './stale.ts';

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
  const entities = stale instanceof ConcurrentUpdate ? stale.conflicts.map(({ entity }) => entity) : [stale];
  const context = em.getContext();
  const { rebased, gone, settle } = await mergeRows(context, new Set(entities));
  settle();
  gone.forEach((entity) => forget(context, entity));
  return rebased;
}

/** @internal Merged rows, which conflict as before until it is settled: a flush in between must not overwrite theirs. */
export interface Merged {
  readonly rebased: Rebased;
  /** What both have removed; it is to be forgotten. */
  readonly gone: readonly object[];
  /** Gives them the version of theirs. */
  settle(): void;
  /** Makes the rows as stale again as they were, with the same unsaved changes. What was assigned since stays. */
  undo(): void;
}

/** @internal The same as `rebase()`, and may be taken back. */
export async function mergeRows(em: EntityManager, entities: ReadonlySet<object>): Promise<Merged> {
  const rebased: Rebased = { clashes: [], deleted: [], removed: [] };
  const managed = managedBy(em);
  const known = partsOf(em, entities);
  const merges = [...entities].map((entity) => new Merge(em, entity, { managed, parts: known }));
  const settle = () => merges.forEach((merge) => merge.settle());
  const undo = () => merges.toReversed().forEach((merge) => merge.undo());
  try {
    for (const merge of merges) {
      await merge.run(rebased);
    }
    for (const [part, above] of new Map([...known, ...partsOf(em, entities)])) {
      if (entities.has(part)) {
        continue;
      }
      const merge = new Merge(em, part, { parts: known, above });
      merges.push(merge);
      await merge.run(rebased);
    }
  } catch (error) {
    // a read has failed, and nobody sees the clashes: the next flush must not overwrite what they are about
    undo();
    throw error;
  }
  const gone = merges.filter((merge) => merge.isGone).map((merge) => merge.entity);
  return { rebased, gone, settle, undo };
}

/**
 * @internal Entities may be in several EntityManagers, as those of a transaction are in the one around it, and each names only one of
 * them. So identity maps are asked; not for the key, which may have been changed.
 */
export function managedBy(em: EntityManager): ReadonlySet<object> {
  return new Set<object>(em.getUnitOfWork(false).getIdentityMap());
}

/** @internal Or the EntityManager that has loaded it, if that is another one, takes it for a new entity. */
export function forget(em: EntityManager, entity: object): void {
  for (const one of new Set([em, helper(entity).__em!])) {
    if (managedBy(one).has(entity)) {
      one.getUnitOfWork(false).unsetIdentity(entity);
    }
  }
}

/**
 * The parts of aggregates that are loaded, and saved: their roots' version stands for them, too. Also those that are to be removed,
 * or were given to another root since; by part, what is to be removed together with it, from the uppermost on.
 */
function partsOf(em: EntityManager, roots: Iterable<object>): Map<object, readonly object[]> {
  const parts = new Map<object, readonly object[]>();
  const managed = managedBy(em);
  const isPart = (item: object) =>
    managed.has(item) && helper(item).__initialized && Boolean(helper(item).__originalEntityData);
  const follow = (entity: object, [name, ...rest]: readonly string[], above: readonly object[]): void => {
    for (const item of itemsOf(em, entity, name!)) {
      if (rest.length > 0) {
        follow(item, rest, [...above, item]);
      } else if (isPart(item)) {
        parts.set(item, above);
      }
    }
  };
  for (const root of roots) {
    const { aggregate = [] } = (versionOf(metaOf(em, root))?.customType ?? {}) as Partial<VersionField>;
    aggregate.forEach((path) => follow(root, path.split('.'), []));
  }
  return parts;
}

/** What belongs to an entity by a relation, and what has belonged to it when it was read, as far as it is in memory. */
function itemsOf(em: EntityManager, entity: object, name: string): Set<object> {
  const prop = metaOf(em, entity).properties[name as never] as EntityProperty | undefined;
  // an m:n item belongs to nobody
  if (!prop || prop.kind === ReferenceKind.MANY_TO_MANY) {
    return new Set();
  }
  const uow = em.getUnitOfWork(false);
  const { class: Item } = prop.targetMeta!;
  const named = (holder: object, key: string, target: never): object | undefined => {
    const stored: unknown = (helper(holder).__originalEntityData as Dictionary | undefined)?.[key];
    return stored == null ? undefined : uow.getById(target, stored as never, helper(holder).__schema, true);
  };
  const value: unknown = (entity as Dictionary)[name];
  const now = Utils.isCollection<object>(value) ? value.getItems(false) : value ? [value as object] : [];
  const before = prop.mappedBy
    ? [...(uow.getIdentityMap().getStore(prop.targetMeta!).values() as Iterable<object>)].filter(
        (item) => named(item, prop.mappedBy, entity.constructor as never) === entity,
      )
    : [named(entity, name, Item as never)];
  return new Set([...now, ...before].filter((item) => item !== undefined).map((one) => Reference.unwrapReference(one)));
}

/** How many keys a query asks for: SQLite nests a thousand conditions, each of which may be one of several columns. */
const MOST_CONDITIONS = 300;

/** What is merged as one: a property, or one inside an embeddable. */
interface Unit {
  readonly prop: EntityProperty;
  readonly path: readonly string[];
  /** What it is called in a snapshot; absent inside an embeddable that is stored as an object. */
  readonly keys?: readonly string[];
}

/**
 * Whoever reads a stale row wants what is there: not on a replica, not in a cache, not hidden by a filter, without a flush
 * before. Where a transaction reads from a snapshot, only a lock shows what a write would see; the flush writes the row.
 */
function currentOptions(em: EntityManager) {
  const lockMode = em.isInTransaction() && readsSnapshots(em.getPlatform()) ? LockMode.PESSIMISTIC_WRITE : undefined;
  return { filters: false, connectionType: 'write', cache: false, flushMode: FlushMode.COMMIT, lockMode } as const;
}

class Merge {
  /** Both have removed it. */
  isGone = false;
  readonly #em: EntityManager;
  readonly #entity: Dictionary;
  readonly #meta: EntityMetadata;
  /** A part of an aggregate may have none. */
  readonly #version: string | undefined;
  readonly #stale: unknown;
  /** What the changes were made to, … */
  #base?: Dictionary;
  /** … and what they are made to now, once it is merged. */
  #merged?: Dictionary;
  /** The version of theirs. */
  #found: unknown;
  /** Parts of aggregates, which are merged by themselves. */
  readonly #parts: ReadonlyMap<object, unknown>;
  /** Of one of these: what it belongs to, but for the root. */
  readonly #above: readonly object[] | undefined;
  readonly #undos: (() => void)[] = [];

  /**
   * @param with.managed what the EntityManager manages; a part is known to be
   * @param with.above of a part
   */
  constructor(
    em: EntityManager,
    entity: object,
    {
      managed,
      parts,
      above,
    }: { managed?: ReadonlySet<object>; parts: ReadonlyMap<object, unknown>; above?: readonly object[] },
  ) {
    const wrapped = helper(entity) as ReturnType<typeof helper> | undefined;
    const name = wrapped?.__meta.className ?? entity.constructor.name;
    if (managed && !(wrapped?.__managed && managed.has(entity))) {
      throw new Refusal(
        `${name} cannot be rebased, because this EntityManager does not manage it. Pass the one whose flush failed; ` +
          `after a transaction that was rolled back, run the whole transaction again.`,
        entity,
      );
    }
    this.#meta = metaOf(em, entity);
    const version = versionOf(this.#meta);
    if (!version && managed) {
      throw new Refusal(`${name} cannot be rebased, because it has no VersionField. Add one.`, entity);
    }
    this.#version = version?.name;
    this.#em = em;
    this.#entity = entity;
    this.#parts = parts;
    this.#above = above;
    this.#stale = this.#version && this.#entity[this.#version];
  }

  get entity(): object {
    return this.#entity;
  }

  /** Up to now, any flush would have conflicted. */
  settle(): void {
    if (this.#isMerged()) {
      helper(this.#entity).__originalEntityData = this.#merged as never;
      if (this.#version) {
        this.#entity[this.#version] = this.#found;
      }
    }
  }

  /** And neither flushed since, nor read again. A flush that has failed meanwhile has put back what it had begun with. */
  #isMerged(): boolean {
    const snapshot: unknown = helper(this.#entity).__originalEntityData;
    return this.#merged !== undefined && (snapshot === this.#merged || snapshot === this.#base);
  }

  /** Whatever was merged already: it conflicts again. */
  undo(): void {
    if (!this.#isMerged()) {
      return;
    }
    const orphans: Set<object> = this.#em.getUnitOfWork(false).getOrphanRemoveStack();
    const pending = new Set(orphans);
    this.#undos.toReversed().forEach((undo) => undo());
    orphans.forEach((orphan) => pending.has(orphan) || orphans.delete(orphan));
    if (this.#version) {
      this.#entity[this.#version] = this.#stale;
    }
    helper(this.#entity).__originalEntityData = this.#base as never;
  }

  async run(result: Rebased): Promise<void> {
    const [em, entity, meta, version] = [this.#em, this.#entity, this.#meta, this.#version];
    const [uow, wrapped] = [em.getUnitOfWork(false), helper(entity)];
    const { __schema: schema } = wrapped;
    const current = currentOptions(em);
    const orphans = new Set<object>(uow.getOrphanRemoveStack());
    const removed = [...(this.#above ?? []), entity].find((one) => uow.getRemoveStack().has(one) || orphans.has(one));
    if (!wrapped.__initialized) {
      // merges the row into what was assigned, where init() would replace it
      await em.findOne(meta.class, wrapped.getPrimaryKey() as never, { ...current, schema });
    }
    const snapshot = wrapped.__originalEntityData as Dictionary;
    this.#base = snapshot;
    // entities of their own, since what is compared are snapshots, and what users see are values
    const base = this.#baseFrom(snapshot);
    const reader = em.fork({ keepTransactionContext: true });
    const lazy = meta.props.filter(({ name, lazy }) => lazy && (name in snapshot || entity[name] !== undefined));
    const populate = lazy.map(({ name }) => name) as never;
    const key = helper(base).getPrimaryKey() as never;
    const theirs: Dictionary | null = await reader.findOne(meta.class, key, { ...current, schema, populate });
    if (!theirs) {
      this.#gone(removed !== undefined, result);
      return;
    }

    const comparator = em.getComparator();
    const [mineData, theirData] = [comparator.prepareEntity(entity), comparator.prepareEntity(theirs)] as Dictionary[];
    const diff = (from: Dictionary, to: Dictionary): Dictionary => comparator.diffEntities(meta.class, from, to);
    const mineDiff = diff(snapshot, mineData!);
    const theirDiff = diff(snapshot, theirData!);
    const between = diff(mineData!, theirData!);
    const isLoaded = (name: string) => this.#isLoaded(name);
    // An assigned version says that the changes were made to an older state than the loaded one: then whatever differs is
    // for somebody to decide.
    const touched = version !== undefined && isTouched(snapshot, version);
    const isClaim = version !== undefined && loadedVersion(snapshot, version) !== entity[version];
    const { exclude = [] } = (versionOf(meta)?.customType ?? {}) as Partial<VersionField>;

    const before: [unit: Unit, giveBack: () => void, isClash: boolean][] = [];
    const differs = (unit: Unit, found: Dictionary, a: Dictionary, b: Dictionary) =>
      unit.keys ? unit.keys.some((name) => name in found) : !this.#same(unit, a, b);
    for (const unit of this.#units(theirs)) {
      const { prop, path, keys } = unit;
      const hasBase = !keys || keys.some(isLoaded);
      const isKnown = hasBase || keys.some((name) => name in mineData!);
      if (!isKnown || !differs(unit, between, entity, theirs)) {
        continue;
      }
      // a flush computes what has onUpdate, the failed one too
      if (prop.onUpdate || !differs(unit, mineDiff, base, entity)) {
        before.push([unit, this.#giverOf(unit), false]);
        this.#take(unit, theirs);
      } else if (exclude.includes(path[0]!)) {
        // the version does not cover it: mine stays, and nobody has lost anything that matters
      } else if (isClaim || !hasBase || differs(unit, theirDiff, base, theirs)) {
        before.push([unit, this.#giverOf(unit), true]);
        const values = {
          property: path.join('.'),
          base: isClaim || !hasBase ? undefined : this.#own(prop, at(base, path)),
          mine: at(entity, path),
          theirs: this.#own(prop, at(theirs, path)),
        };
        // reachable, but neither printed nor serialised
        const hidden = { entity: { value: entity }, takeTheirs: { value: () => this.#take(unit, theirs) } };
        result.clashes.push(Object.defineProperties(values, hidden) as Clash);
      }
    }
    for (const { name } of meta.props.filter((prop) => prop.generated || prop.formula)) {
      const own: unknown = entity[name];
      if (theirs[name] !== undefined && own !== undefined) {
        entity[name] = theirs[name];
        this.#undos.push(() => (entity[name] = own));
      }
    }
    this.#found = version && theirs[version];
    const merged = Object.entries(theirData!).filter(([name]) => isLoaded(name) || name in mineData!);
    this.#merged = Object.fromEntries(merged);
    if (touched) {
      this.#merged = asTouched(this.#merged, version);
      touchedIn(uow).add(entity);
    }
    wrapped.__originalEntityData = this.#merged as never;
    this.#undos.push(() => {
      const since = diff(this.#merged!, comparator.prepareEntity(entity) as Dictionary);
      // a decision on a clash is taken back, and what was assigned since stays
      const undone = before.filter(([unit, , isClash]) => isClash || !differs(unit, since, theirs, entity));
      undone.forEach(([, giveBack]) => giveBack());
    });
    await this.#mergeCollections(reader, theirs);
    // a relation that others have moved on leaves no orphan of ours
    const pending: Set<object> = uow.getOrphanRemoveStack();
    pending.forEach((orphan) => orphans.has(orphan) || pending.delete(orphan));
    // the version of the root says nothing about which of its parts they have changed
    const isChanged = !this.#above || Object.keys(theirDiff).some((name) => name !== version && isLoaded(name));
    if (removed && isChanged && result.removed.every((one) => one.entity !== removed)) {
      const keep = () => {
        em.persist(removed);
        uow.cancelOrphanRemoval(removed);
        this.#giveBack(removed);
      };
      result.removed.push({ entity: removed, keep });
    }
  }

  /** The entity that a snapshot was taken of; its version may be the mark of touch(). */
  #baseFrom(snapshot: Dictionary): Dictionary {
    const data: Dictionary = { ...snapshot, ...(this.#version && { [this.#version]: undefined }) };
    const platform = this.#em.getPlatform();
    for (const { name, customType } of platform.convertsJsonAutomatically() ? this.#meta.comparableProps : []) {
      // it is text in a snapshot all the same
      if (customType && isOfType(customType, 'json') && data[name] != null) {
        data[name] = customType.convertToJSValue(data[name], platform, { mode: 'hydration', force: true });
      }
    }
    const options = { merge: true, refresh: true, convertCustomTypes: true, schema: helper(this.#entity).__schema };
    const factory = this.#em.fork().getEntityFactory();
    return factory.create(this.#meta.class, data as never, options as never);
  }

  /** Removed from a collection, or from the other side of a 1:1, an orphan does not know any more what it belonged to. */
  #giveBack(orphan: Dictionary): void {
    const { __originalEntityData: snapshot, __schema: schema } = helper(orphan);
    for (const { name, inversedBy, targetMeta, ref } of metaOf(this.#em, orphan).relations) {
      const key: unknown = (snapshot as Dictionary)[name];
      const other = inversedBy && (targetMeta!.properties[inversedBy as never] as EntityProperty);
      if (other && other.orphanRemoval && orphan[name] == null && key != null) {
        const options = { wrapped: Boolean(ref), schema, convertCustomTypes: true };
        orphan[name] = this.#em.getReference(targetMeta!.class, key as never, options as never);
      }
    }
  }

  /** The row is gone. Removed by both is what both wanted, and of a part that only they have touched nobody loses anything. */
  #gone(isRemoved: boolean, result: Rebased): void {
    const [em, entity] = [this.#em, this.#entity];
    if (isRemoved || (this.#above && !this.#hasChanges())) {
      this.isGone = true;
      return;
    }
    const recreate = () => {
      if (!helper(entity).__originalEntityData) {
        return; // it is already
      }
      const missing = this.#missing();
      if (missing !== undefined || !helper(entity).__initialized) {
        throw new Refusal(
          `${this.#meta.className} cannot be created again, because it was loaded only in part` +
            `${missing === undefined ? '' : `, without ${missing}`}. Assign what is missing, or drop it.`,
          entity,
        );
      }
      // without a snapshot, it is new, and so are its links
      delete helper(entity).__originalEntityData;
      if (this.#version) {
        entity[this.#version] += 1;
      }
      for (const [prop, collection] of this.#collections()) {
        const items = prop.owner ? collection.getItems(false) : [];
        items.forEach((item) => collection.removeWithoutPropagation(item));
        collection.takeSnapshot();
        items.forEach((item) => collection.addWithoutPropagation(item));
      }
      em.persist(entity);
    };
    result.deleted.push({ entity, drop: () => forget(em, entity), recreate });
  }

  #hasChanges(): boolean {
    const comparator = this.#em.getComparator();
    const mine = comparator.prepareEntity(this.#entity);
    const diff = comparator.diffEntities(this.#meta.class, this.#base as never, mine);
    // the rows of 1:m items change, and say so themselves
    const links = this.#collections().filter(([{ kind }]) => kind === ReferenceKind.MANY_TO_MANY);
    return Object.keys(diff).length > 0 || links.some(([, collection]) => collection.isDirty());
  }

  #isLoaded(name: string): boolean {
    return name in this.#base! || helper(this.#entity).__loadedProperties.has(name);
  }

  /** What would be inserted as NULL, or not at all, though nobody knows what it was. */
  #missing(): string | undefined {
    const find = (prop: EntityProperty, path: string[]): string[] => {
      const value = at(this.#entity, path);
      if (value && prop.kind === ReferenceKind.EMBEDDED && !prop.object) {
        return Object.values(prop.embeddedProps).flatMap((child) => find(child, [...path, child.embedded![1]]));
      }
      const isMissing = value === undefined && !columns(prop).some((name) => this.#isLoaded(name));
      return isMissing && prop.persist !== false ? [path.join('.')] : [];
    };
    const props = this.#meta.comparableProps.filter((prop) => !prop.embedded);
    return props.flatMap((prop) => find(prop, [prop.name])).at(0);
  }

  /** Embeddables are merged property by property, except where one side has none, and lists as a whole. */
  #units(theirs: Dictionary): Unit[] {
    const split = (prop: EntityProperty, path: string[], inObject: boolean): Unit[] =>
      isSplit(prop) && at(this.#entity, path) && at(theirs, path)
        ? Object.values(prop.embeddedProps)
            .filter(({ embedded }) => isOfItsOwn(prop.targetMeta!.properties[embedded![1] as never]!))
            .flatMap((child) => split(child, [...path, child.embedded![1]], inObject || Boolean(prop.object)))
        : [{ prop, path, keys: inObject ? undefined : columns(prop) }];
    const isSplit = (prop: EntityProperty) =>
      prop.kind === ReferenceKind.EMBEDDED && !prop.array && !prop.targetMeta!.polymorphs;
    return this.#meta.comparableProps
      .filter((prop) => !prop.embedded && prop.name !== this.#version && isOfItsOwn(prop))
      .flatMap((prop) => split(prop, [prop.name], false));
  }

  /** Inside an object, of which MikroORM compares the whole. */
  #same({ prop, path }: Unit, a: Dictionary, b: Dictionary): boolean {
    const [left, right] = [a, b].map((entity) => {
      const value = at(entity, path);
      if (Utils.isEntity<object>(value, true)) {
        return helper(value).getPrimaryKey(true);
      }
      const type = isOfType(prop.customType, 'json') ? undefined : prop.customType;
      return value == null || !type ? value : type.convertToDatabaseValue(value, this.#em.getPlatform());
    });
    return (left == null && right == null) || Utils.equals(left, right);
  }

  #take(unit: Unit, theirs: Dictionary): void {
    this.#set(unit, this.#own(unit.prop, at(theirs, unit.path)));
  }

  #set({ path }: Unit, value: unknown): void {
    const holder = at(this.#entity, path.slice(0, -1)) as Dictionary | undefined;
    const name = path.at(-1)!;
    if (ScalarReference.isScalarReference(holder?.[name])) {
      holder[name].set(value);
    } else if (holder) {
      holder[name] = value;
    }
  }

  /** Gives the entity the value that it has now. */
  #giverOf(unit: Unit): () => void {
    const value = at(this.#entity, unit.path);
    const others = inverseOf(unit.prop, value);
    // one that is to be removed is in no collection any more
    const isThere = others?.getItems(false).includes(this.#entity);
    return () => {
      this.#set(unit, value);
      if (!isThere) {
        others?.removeWithoutPropagation(this.#entity);
      }
    };
  }

  /** Entities of another fork become those of ours. */
  #own(prop: EntityProperty, value: unknown): unknown {
    if (Utils.isEntity<object>(value, true)) {
      const target = Reference.unwrapReference(value) as Dictionary;
      const { __schema: schema } = helper(target);
      const key: unknown = prop.targetKey ? target[prop.targetKey] : helper(target).getPrimaryKey();
      const options = { wrapped: Boolean(prop.ref), schema, key: prop.targetKey };
      return this.#em.getReference(target.constructor as never, key as never, options as never);
    }
    for (const item of prop.kind === ReferenceKind.EMBEDDED && value ? Utils.asArray(value as Dictionary) : []) {
      for (const child of Object.values(prop.embeddedProps)) {
        const name = child.embedded![1];
        if (item[name] != null) {
          item[name] = this.#own(child, item[name]);
        }
      }
    }
    return value;
  }

  /** Those that are loaded. */
  #collections(): [EntityProperty, Collection<object>][] {
    return this.#meta.relations
      .map((prop): [EntityProperty, Collection<object>] => [prop, this.#entity[prop.name]])
      .filter(([, items]) => Utils.isCollection(items) && items.isInitialized() && items.getSnapshot());
  }

  /** What was added and removed stays so, on top of their items. */
  async #mergeCollections(reader: EntityManager, theirs: Dictionary): Promise<void> {
    for (const [prop, collection] of this.#collections()) {
      const { class: Item, primaryKeys } = prop.targetMeta!;
      const current = currentOptions(this.#em);
      const options = { refresh: true, connectionType: 'write', lockMode: current.lockMode } as const;
      await reader.populate(theirs, [`${prop.name}:ref`] as never, options);
      const read = (theirs[prop.name] as Collection<object>).getItems(false);
      const items = read.map((item) => this.#own(prop, item) as object);
      const [base, mine] = [collection.getSnapshot()!, collection.getItems(false)];
      const isDirty = collection.isDirty();
      // a part that is read again has lost its base; a 1:m item adds itself
      const others = items.filter((item) => !this.#parts.has(item));
      const keys = others.map((item) => Utils.getPrimaryKeyCond(item, primaryKeys as never));
      for (let i = 0; i < keys.length; i += MOST_CONDITIONS) {
        await this.#em.find(Item, { $or: keys.slice(i, i + MOST_CONDITIONS) } as never, current as never);
      }
      mine.filter((item) => !items.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
      items.forEach((item) => collection.addWithoutPropagation(item));
      collection.takeSnapshot();
      mine.filter((item) => !base.includes(item)).forEach((item) => collection.addWithoutPropagation(item));
      base.filter((item) => !mine.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
      const merged = collection.getItems(false);
      this.#undos.push(() => {
        const now = collection.getItems(false);
        const added = now.filter((item) => !merged.includes(item));
        const kept = mine.filter((item) => now.includes(item) || !merged.includes(item));
        now.forEach((item) => collection.removeWithoutPropagation(item));
        base.forEach((item) => collection.addWithoutPropagation(item));
        collection.takeSnapshot();
        base.forEach((item) => collection.removeWithoutPropagation(item));
        [...kept, ...added].forEach((item) => collection.addWithoutPropagation(item));
        collection.setDirty(isDirty || added.length > 0 || kept.length < mine.length);
      });
    }
  }
}

/** Is it stored, and no mere function of others? */
function isOfItsOwn({ getter, setter, persist }: EntityProperty): boolean {
  return persist !== false && (!getter || Boolean(setter));
}

/** What a property is called in a snapshot. */
function columns(prop: EntityProperty): string[] {
  return prop.kind === ReferenceKind.EMBEDDED && !prop.object
    ? Object.values(prop.embeddedProps).flatMap(columns)
    : [prop.name];
}

/** The collection of the other side of a relation, if there is one. */
function inverseOf({ inversedBy }: EntityProperty, value: unknown): Collection<object> | undefined {
  const target = inversedBy && Utils.isEntity<Dictionary>(value, true) ? Reference.unwrapReference(value) : undefined;
  const items: unknown = target?.[inversedBy!];
  return Utils.isCollection<object>(items) ? items : undefined;
}

/** The value, or `undefined` where there is no embeddable around it. */
function at(entity: Dictionary, path: readonly string[]): unknown {
  const value: unknown = path.reduce((holder: Dictionary | undefined, name) => holder?.[name], entity);
  return ScalarReference.isScalarReference(value) ? value.unwrap() : value;
}
