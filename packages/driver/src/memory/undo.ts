/**
 * Memory follows the database: what a flush did to entities and to the unit of work is taken back when the flush, its
 * savepoint or its COMMIT fails. So the same EntityManager can refresh what is stale and flush again, and everything is
 * written that was meant to be, once. (A transaction that rolls back later discards what was written: discard.ts.)
 *
 * Values that the user has changed since are the user's, and so is what `em.clear()` has forgotten.
 */
import {
  type ChangeSet,
  ChangeSetType,
  type Collection,
  type Dictionary,
  type EntityManager,
  type IdentityMap,
  type UnitOfWork,
  Utils,
  helper,
} from '@mikro-orm/core';
import { isTouched, versionOf } from '@mikro-ool/core';
import { forgetSnapshot } from '../mikro-orm/collection.ts';
import {
  type AnyChangeSet,
  type ChangeSetGroups,
  isUpdate,
  metaOf,
  restoreSnapshot,
  snapshotOf,
} from '../mikro-orm/entity.ts';
import { Members, hasMovedTargetKey, restoreTargetKeys } from '../mikro-orm/identity-map.ts';
import { generationOf } from '../mikro-orm/generation.ts';
import { isUnsavedPart, withOutside } from '../mikro-orm/outside.ts';
import type { CheckedRow } from '../write/batch.ts';
import {
  type EntityState,
  assign,
  collectionsOf,
  flagsOf,
  isToMany,
  pick,
  restoreFlags,
  shapeOf,
} from './entity-state.ts';

export interface CollectionState {
  readonly snapshot: readonly object[] | undefined;
  readonly dirty: boolean;
  /** The items when the flush was through. */
  after?: readonly object[];
}

/** What one flush changes in memory, and how to take it back. */
export class Undo {
  readonly uow: UnitOfWork;
  readonly #em: EntityManager;
  readonly #generation: number;
  readonly #removed: Set<object>;
  /** What belongs into each of MikroORM's stacks, which it empties after every flush. */
  readonly #stacks: ReadonlyMap<Set<object>, ReadonlySet<object>>;
  readonly #entities = new Map<object, EntityState>();
  /** What most flushes consist of, without an object of its own per row: changed rows, and those whose version moved. */
  readonly #updates: (readonly ChangeSet<object>[])[] = [];
  readonly #moved: (readonly CheckedRow[])[] = [];
  readonly #collections = new Map<Collection<object>, CollectionState>();
  readonly #removals: (() => void)[] = [];
  readonly #unstacked: (() => void)[] = [];
  readonly #followUps = new Set<readonly unknown[]>();
  readonly #generations: readonly (readonly [UnitOfWork, number])[];
  /** The flush has told its caller that it succeeded. */
  succeeded = false;
  /** The flush writes rows with a version. */
  isVersioned = false;
  #restored = false;

  /** Remembers what is pending when the flush begins. */
  constructor(em: EntityManager) {
    this.#em = em;
    this.uow = em.getUnitOfWork(false);
    this.#generation = generationOf(this.uow);
    this.#generations = withOutside(this.uow).map((uow) => [uow, generationOf(uow)]);
    const removes: Set<object> = this.uow.getRemoveStack();
    const orphans: Set<object> = this.uow.getOrphanRemoveStack();
    const persists: Set<object> = this.uow.getPersistStack();
    // loading puts entities into the last one, too; when their row is found gone later, they must not be inserted
    const created = [...persists].filter((entity) => snapshotOf(entity) === undefined);
    this.#removed = new Set(removes);
    this.#stacks = new Map([
      [removes, this.#removed],
      [orphans, new Set(orphans)],
      [persists, new Set(created)],
    ]);
  }

  /** Remembers the state before the first statement; without change sets, what cascades have done already. */
  remember(groups: Partial<ChangeSetGroups> = {}): void {
    const { uow } = this;
    let members: Members | undefined;
    uow.getRemoveStack().forEach((entity) => this.#removed.add(entity));
    (uow.getCollectionUpdates() as Collection<object>[]).forEach((collection) => this.#rememberCollection(collection));
    for (const [type, group] of Object.entries(groups)) {
      for (const sets of group.values()) {
        const areUpdates = isUpdate(type as AnyChangeSet['type']);
        if (areUpdates) {
          this.#updates.push(sets);
        }
        for (const set of sets) {
          if (!areUpdates || !isSimple(set)) {
            this.#rememberEntity(set.entity, set, (members ??= new Members()));
          }
        }
      }
    }
    for (const [entity, , values] of uow.getExtraUpdates()) {
      this.#rememberEntity(entity);
      // a new entity among its own items: MikroORM takes the collection off the entity meanwhile
      if (Utils.isCollection(values)) {
        this.#rememberCollection(values as never);
      }
    }
    this.#rememberCascades();
  }

  /** These entities have the next version now. */
  moved(rows: readonly CheckedRow[]): void {
    this.#moved.push(rows);
  }

  /** Where there is a guard, a row may move twice. */
  #movedLastFirst(): readonly CheckedRow[] {
    return this.#moved.flat().toReversed();
  }

  /**
   * An entity leaves an identity map: that of the flush, or of an EntityManager around it. Called before it does.
   *
   * @param isInside what the flush wrote may be discarded when it has succeeded
   */
  removing(uow: UnitOfWork, entity: object, isInside: boolean): void {
    const map = uow.getIdentityMap();
    const generation = generationOf(uow);
    // with `clear: true`, the EntityManager around has an object of its own for the row
    const known: object | undefined = map.getByEntity(entity as never);
    if (known) {
      this.#removals.push(() => generation === generationOf(uow) && map.store(known as never));
    }
    // an EntityManager around the transaction hands its orphans to the one inside
    const stacks = [uow.getRemoveStack(), uow.getOrphanRemoveStack()].filter((stack) => stack.has(entity as never));
    this.#unstacked.push(
      () => generation === generationOf(uow) && stacks.forEach((stack) => stack.add(entity as never)),
    );
    this.#rememberEntity(entity);
    if (isInside) {
      this.#entities.get(entity)!.left ??= this.#em.getComparator().prepareEntity(entity) as Dictionary;
    }
    for (const { meta, prop } of helper(entity).__meta.referencingProperties) {
      for (const referrer of map.getStore(meta).values() as Iterable<Dictionary>) {
        const value: unknown = referrer[prop.name];
        if (Utils.isCollection(value)) {
          if (value.contains(entity as never, false)) {
            this.#rememberCollection(value as never);
            this.#removals.push(() => value.addWithoutPropagation(entity as never));
          }
        } else if (value != null) {
          const data: Dictionary = helper(referrer).__data;
          const raw: unknown = data[prop.name];
          this.#removals.push(() => (data[prop.name] ??= raw));
        }
      }
    }
  }

  /** No more statements follow; from here on changes are the user's. */
  done(): void {
    // MikroORM takes a value that it writes in a second statement off the entity, and forgets it when it gives up
    this.uow.getExtraUpdates().forEach((followUp) => this.#followUps.add(followUp));
    for (const state of this.#entities.values()) {
      state.after = pick(state.entity, Object.keys(state.before));
    }
    this.#collections.forEach((state, collection) => (state.after = collection.getItems(false)));
  }

  /** Takes everything back, once. */
  restore(): void {
    if (this.#restored) {
      return;
    }
    this.#restored = true;
    const members = new Members();
    this.#restoreUpdates(members);
    this.#entities.forEach((state) => this.#restoreEntity(state, members));
    this.putBack();
    this.#unstacked.forEach((undo) => undo());
    this.#collections.forEach((state, collection) => restoreCollection(collection, state));
    this.#followUps.forEach(([entity, keys, values]) => putBack(entity as Dictionary, keys, values));
    if (this.#generation === generationOf(this.uow)) {
      // straight into the sets: em.remove() and em.persist() would cascade once more
      this.#stacks.forEach((members, stack) => members.forEach((entity) => stack.add(entity)));
      this.#forgetBriefOnes();
    }
  }

  /** Puts what was removed back into identity maps, relations and collections. */
  putBack(): void {
    this.#removals.toReversed().forEach((undo) => undo());
  }

  get em(): EntityManager {
    return this.#em;
  }

  get entities(): ReadonlyMap<object, EntityState> {
    return this.#entities;
  }

  get collections(): ReadonlyMap<Collection<object>, CollectionState> {
    return this.#collections;
  }

  /** The rows that existed before, with what was known of them. */
  *known(): Generator<readonly [entity: Dictionary, snapshot: Dictionary]> {
    const expected = new Map(this.#movedLastFirst().map((row) => [row.changeSet.entity, row.expected]));
    const untouched = (entity: Dictionary, snapshot: Dictionary) => {
      const version = versionOf(metaOf(this.#em, entity))?.name;
      if (!version || !isTouched(snapshot, version)) {
        return snapshot;
      }
      // a removed row has kept its version
      return { ...snapshot, [version]: expected.get(entity) ?? entity[version] };
    };
    for (const { entity, originalEntity } of this.#updates.flat()) {
      yield [entity, untouched(entity, originalEntity as Dictionary)];
    }
    for (const { entity, flags, created } of this.#entities.values()) {
      if (!created && flags.__originalEntityData) {
        yield [entity, untouched(entity, flags.__originalEntityData)];
      }
    }
  }

  /** Has the EntityManager of this entity been cleared since? */
  hasForgotten(entity: object): boolean {
    const uow = (helper(entity).__em ?? this.#em).getUnitOfWork(false);
    const before = this.#generations.find(([one]) => one === uow);
    return before !== undefined && before[1] !== generationOf(uow);
  }

  /** MikroORM is about to copy into these entities what another EntityManager has of their rows. */
  copying(entities: Iterable<object>): void {
    for (const entity of entities) {
      const props = metaOf(this.#em, entity).hydrateProps.filter(({ kind }) => !isToMany(kind));
      const names = props.map(({ name }) => name as string);
      this.#rememberEntity(entity, undefined, undefined, pick(entity, names));
    }
    this.succeeded = true;
  }

  /** What was new and has been removed since was never there. */
  #forgetBriefOnes(): void {
    for (const { entity, created } of this.#entities.values()) {
      if (created && this.uow.getRemoveStack().delete(entity as never)) {
        this.uow.getPersistStack().delete(entity as never);
        this.uow.getIdentityMap().delete(entity as never);
      }
    }
  }

  #rememberEntity(
    entity: Dictionary,
    changeSet?: ChangeSet<object>,
    members = new Members(),
    values?: Dictionary,
  ): void {
    if (this.#entities.has(entity)) {
      return;
    }
    // what MikroORM deletes, but was never saved, is not to be inserted either when the removal is discarded
    const isUnsaved =
      changeSet !== undefined && (changeSet.type === ChangeSetType.CREATE || isUnsavedPart(this.#em, changeSet));
    collectionsOf(entity).forEach((collection) => this.#rememberCollection(collection));
    const filled = shapeOf(metaOf(this.#em, entity))[isUnsaved ? 'insert' : 'update'];
    const flags = flagsOf(entity);
    // listeners may have computed the change set once more, against the changed state
    flags.__originalEntityData = isUnsaved ? undefined : (changeSet?.originalEntity ?? flags.__originalEntityData);
    const created = isUnsaved ? this.#mapsWith(entity, members) : undefined;
    this.#entities.set(entity, { entity, flags, created, before: pick(entity, filled), values });
  }

  #restoreUpdates(members: Members): void {
    for (const { changeSet, expected } of this.#movedLastFirst()) {
      const entity = changeSet.entity as Dictionary;
      const { name } = versionOf(changeSet.meta)!;
      if (entity[name] === expected + 1) {
        entity[name] = expected;
      }
    }
    for (const changeSet of this.#updates.flat()) {
      restoreSnapshot(changeSet.entity, changeSet.originalEntity);
      if (hasMovedTargetKey(changeSet)) {
        this.#mapsWith(changeSet.entity, members).forEach((map) => restoreTargetKeys(map, changeSet));
      }
    }
  }

  #restoreEntity({ entity, flags, created, before, after }: EntityState, members: Members): void {
    if (created) {
      // found by its key, so before the key goes
      const added = this.#mapsWith(entity, members).filter((map) => !created.includes(map));
      added.forEach((map) => map.delete(entity as never));
      delete (helper(entity) as unknown as Dictionary).__identifier;
    }
    for (const [key, value] of Object.entries(before)) {
      if (entity[key] !== value && (!after || after[key] === entity[key])) {
        assign(entity, key, value);
      }
    }
    restoreFlags(entity, flags);
  }

  /** The identity maps with this entity: a transaction hands new ones to the EntityManager around it before its COMMIT. */
  #mapsWith(entity: object, members: Members): IdentityMap[] {
    const owner = helper(entity).__em?.getUnitOfWork(false) ?? this.uow;
    const maps = owner === this.uow ? [this.uow] : [this.uow, owner];
    return maps.map((uow) => uow.getIdentityMap()).filter((map) => members.has(map, entity));
  }

  #rememberCollection(collection: Collection<object>): void {
    if (this.#collections.has(collection)) {
      return;
    }
    const snapshot = collection.getSnapshot() as object[] | undefined;
    this.#collections.set(collection, { snapshot, dirty: collection.isDirty() });
  }

  /** `em.remove()` takes what it cascades to out of the collections that it cascades along: a retry needs it there. */
  #rememberCascades(): void {
    for (const collection of [...this.#removed].flatMap(collectionsOf)) {
      const items = (collection.getSnapshot() ?? []).filter((item) => this.#removed.has(item));
      const lost = items.filter((item) => !collection.contains(item, false));
      this.#removals.push(() => lost.forEach((item) => collection.addWithoutPropagation(item)));
    }
  }
}

/** Changed again, in comparison with what was known before. */
export function restoreCollection(collection: Collection<object>, { snapshot, dirty }: CollectionState): void {
  const now = collection.getSnapshot() as object[] | undefined;
  if (now?.length !== snapshot?.length || now?.some((item, i) => item !== snapshot?.[i])) {
    forgetSnapshot(collection, snapshot as object[] | undefined);
  }
  collection.setDirty(dirty || collection.isDirty());
}

function isSimple({ entity, meta }: ChangeSet<object>): boolean {
  return shapeOf(meta).isSimple && helper(entity).__initialized;
}

function putBack(entity: Dictionary, keys: unknown, values: unknown): void {
  Utils.asArray(keys as string | string[]).forEach((key, i) => {
    const value: unknown = Array.isArray(keys) ? (values as unknown[])[i] : values;
    const now: unknown = entity[key];
    if (now === undefined || (Utils.isCollection(value) && now !== value)) {
      entity[key] = value;
    }
  });
}
