/**
 * What is changed while a flush is on its way, and so was not sent. MikroORM takes what it finds when a statement has
 * been carried out for the state of the row, and empties its stacks when the flush is over: such changes would count as
 * saved. Here they stay changes, which the next flush writes.
 */
import {
  type Collection,
  type Dictionary,
  ReferenceKind,
  type Transaction,
  Utils,
  helper,
  isRaw,
} from '@mikro-orm/core';
import { isTouched, touchedIn, versionOf } from '@mikro-ool/core';
import { collectionsOf, hasCollections } from '../memory/entity-state.ts';
import { forgetSnapshot } from '../mikro-orm/collection.ts';
import { type AnyChangeSet, isNew, metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import { type FlushState, stateOf } from '../mikro-orm/flush-state.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { touchAgain } from '../mikro-orm/touches.ts';

/** The parts of the unit of work that are overridden or called; private in MikroORM's types. */
export interface InFlightMethods {
  clear(): void;
  remove(entity: object, visited?: Set<object>, options?: { cascade?: boolean }): void;
  persist(entity: object, visited?: Set<object>, options?: { cascade?: boolean }): void;
  postCommitCleanup(): void;
  commitCreateChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void>;
  commitUpdateChangeSets(sets: AnyChangeSet[], ctx?: Transaction, batched?: boolean): Promise<void>;
  commitCollectionUpdates(ctx?: Transaction): Promise<void>;
  takeCollectionSnapshots(entity: object, visited: Set<object>): void;
  getCollectionUpdates(): Collection<object>[];
  getPersistStack(): Set<object>;
  getRemoveStack(): Set<object>;
  getOrphanRemoveStack(): Set<object>;
}

/** The stacks: new and removed entities that the flush has not seen. It takes those that it has deleted off itself. */
export const keepingStacks: Layer<InFlightMethods> = (Base) =>
  class extends Base {
    override clear(): void {
      const state = stateOf(this);
      state.isClearing = true;
      try {
        super.clear();
      } finally {
        state.isClearing = false;
      }
    }

    override remove(entity: object, ...rest: [Set<object>?, { cascade?: boolean }?]): void {
      super.remove(entity, ...rest);
      const { flush, removed } = stateOf(this);
      if (flush && helper(entity).__processing && !this.getRemoveStack().has(entity)) {
        removed.add(entity);
      }
    }

    override postCommitCleanup(): void {
      const { isClearing, hasFailed, removed } = stateOf(this);
      const removes = isClearing ? [] : [...this.getRemoveStack(), ...removed];
      const orphans = isClearing ? [] : [...this.getOrphanRemoveStack()];
      const created = isClearing ? [] : [...this.getPersistStack()].filter(isToInsert);
      removed.clear();
      super.postCommitCleanup();
      if (hasFailed) {
        // a query does not try again by itself
        created.forEach((entity) => this.getPersistStack().add(entity));
        removes.forEach((entity) => this.getRemoveStack().add(entity));
      } else {
        // a query of their class flushes first
        created.forEach((entity) => this.persist(entity, undefined, { cascade: false }));
        removes.forEach((entity) => this.remove(entity, undefined, { cascade: false }));
      }
      orphans.forEach((entity) => this.getOrphanRemoveStack().add(entity));
    }
  };

function isToInsert(entity: object): boolean {
  return isNew(entity) && !helper(entity).__meta.readonly;
}

/** Values that were assigned, and entities that were touched. */
export const keepingValues: Layer<InFlightMethods> = (Base) =>
  class extends Base {
    override async commitCreateChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void> {
      await super.commitCreateChangeSets(sets, ctx);
      // MikroORM's snapshot of a new row is what was sent, but for one that is in several tables
      const inSeveral = sets.filter(({ meta }) => meta.inheritanceType === 'tpt');
      inSeveral.forEach((set) => keepUnsent(stateOf(this), set, []));
    }

    override commitUpdateChangeSets(sets: AnyChangeSet[], ctx?: Transaction, batched?: boolean): Promise<void> {
      const state = stateOf(this);
      // the version may stand in another of its tables
      const versioned = sets.filter(({ entity }) => versionOf(metaOf(state.em, entity)));
      const writing = () => super.commitUpdateChangeSets(sets, ctx, batched);
      return versioned.length > 0 ? keepingUnsent(state, versioned, writing) : writing();
    }
  };

async function keepingUnsent(
  state: FlushState,
  sets: readonly AnyChangeSet[],
  write: () => Promise<void>,
): Promise<void> {
  const raw = new Map<AnyChangeSet, string[]>();
  for (const set of sets) {
    const names = rawColumns(set);
    if (names) {
      raw.set(set, names);
    }
  }
  await write();
  sets.forEach((set) => keepUnsent(state, set, raw.get(set) ?? []));
}

/** The database computes these. */
export function rawColumns({ payload }: AnyChangeSet): string[] | undefined {
  let names: string[] | undefined;
  for (const name in payload) {
    const value: unknown = (payload as Dictionary)[name];
    if (typeof value === 'object' && value !== null && isRaw(value)) {
      (names ??= []).push(name);
    }
  }
  return names;
}

/** Makes what was sent the state that an entity is compared with. */
function keepUnsent(state: FlushState, set: AnyChangeSet, raw: readonly string[]): void {
  const { entity } = set;
  const { inheritanceType } = metaOf(state.em, entity);
  if (raw.length > 0 || inheritanceType === 'tpt' || !isAsSent(state, set)) {
    forgetUnsent(state, set, raw);
  }
  if (touchesOf(entity)?.has(entity)) {
    touchAgain(entity);
  }
}

/** Has nothing been changed meanwhile? Nearly always; values that are objects may have been. */
function isAsSent(state: FlushState, { entity, meta, originalEntity, payload }: AnyChangeSet): boolean {
  const now = snapshotOf(entity) as Dictionary;
  const version = versionOf(meta)?.name;
  for (const name in now) {
    const sent: unknown = name in payload ? (payload as Dictionary)[name] : (originalEntity as Dictionary)[name];
    const moved = name === version ? state.flush?.updates.movedTo(entity) : undefined;
    if (now[name] !== (moved ?? sent)) {
      return false;
    }
  }
  return [payload, originalEntity!].every((values) => {
    for (const name in values) {
      if (!(name in now)) {
        return false;
      }
    }
    return true;
  });
}

function forgetUnsent(state: FlushState, set: AnyChangeSet, raw: readonly string[]): void {
  const { entity } = set;
  const meta = metaOf(state.em, entity);
  const version = versionOf(meta)?.name;
  const snapshot = snapshotOf(entity) as Dictionary;
  const sent = sentOf(state, set);
  if (meta.inheritanceType === 'tpt') {
    state.sent.set(entity, sent);
  }
  const unsent = unsentOf(state, set, snapshot, raw);
  const written = state.flush?.updates.movedTo(entity);
  if (version && written !== undefined && snapshot[version] !== written && !isTouched(snapshot, version)) {
    sent[version] = written;
    unsent.push(version);
  }
  if (unsent.length > 0) {
    const values = unsent.map((name) => [name, sent[name]] as const);
    restoreSnapshot(entity, { ...snapshot, ...Object.fromEntries(values) });
  }
}

/** What an entity is in the database when a change set has been written. */
function sentOf(state: FlushState, { entity, originalEntity, payload }: AnyChangeSet): Dictionary {
  return { ...(state.sent.get(entity) ?? originalEntity), ...payload };
}

/**
 * The properties that a change set does not bring to their values.
 *
 * @param now the values of the entity, as MikroORM compares them
 * @param raw columns that the database computes
 */
export function unsentOf(state: FlushState, set: AnyChangeSet, now: Dictionary, raw: readonly string[]): string[] {
  const { em } = state;
  const meta = metaOf(em, set.entity);
  const version = versionOf(meta)?.name;
  const followUps = [...em.getUnitOfWork(false).getExtraUpdates()].filter(([one]) => one === set.entity);
  const others = new Set<string>([...raw, ...followUps.flatMap(([, names]) => Utils.asArray(names))]);
  const diff = em.getComparator().diffEntities(meta.class, sentOf(state, set) as never, now as never);
  return Object.keys(diff).filter((name) => {
    const prop = meta.properties[name as never] as { generated?: unknown } | undefined;
    return prop && !prop.generated && name !== version && name !== meta.root.discriminatorColumn && !others.has(name);
  });
}

/** The change sets are final: what is touched from now on is for the next flush. */
export function planned(sets: readonly AnyChangeSet[]): void {
  for (const { entity, meta } of sets) {
    if (versionOf(meta) ?? meta.inheritanceType === 'tpt') {
      touchesOf(entity)?.delete(entity);
    }
  }
}

/** The entities that were touched since the flush of them was planned, or are for the next one. */
export function touchesOf(entity: object): Set<object> | undefined {
  const uow = helper(entity).__em?.getUnitOfWork(false);
  return uow && touchedIn(uow);
}

/** Items that were added to an M:N collection, or taken out. (Those of a 1:M collection are changed themselves.) */
export const keepingItems: Layer<InFlightMethods> = (Base) =>
  class extends Base {
    override async commitCollectionUpdates(ctx?: Transaction): Promise<void> {
      const collections = this.getCollectionUpdates().filter(isManyToMany);
      const sent = collections.map((collection) => [collection, collection.getItems(false)] as const);
      await super.commitCollectionUpdates(ctx);
      for (const [collection, items] of sent) {
        const now = collection.getItems(false);
        if (now.length !== items.length || now.some((item, i) => item !== items[i])) {
          isUnsent(collection, items);
        }
      }
    }

    override takeCollectionSnapshots(entity: object, visited: Set<object>): void {
      // it comes along relations, of which some have the key alone (`mapToPk`), and is no entity then
      const isNext = Utils.isEntity(entity) && hasCollections(entity) && !visited.has(entity);
      // those that were written are not dirty any more
      const dirty = (isNext ? collectionsOf(entity) : []).filter((one) => isManyToMany(one) && one.isDirty());
      const known = dirty.map((collection) => [collection, collection.getSnapshot()] as const);
      super.takeCollectionSnapshots(entity, visited);
      known.forEach(([collection, items]) => isUnsent(collection, items));
    }
  };

export function isManyToMany(collection: Collection<object>): boolean {
  return collection.property.kind === ReferenceKind.MANY_TO_MANY;
}

function isUnsent(collection: Collection<object>, sent: object[] | undefined): void {
  forgetSnapshot(collection, sent);
  collection.setDirty();
}
