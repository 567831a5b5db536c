/**
 * What is changed while a flush is on its way, and so was not sent. MikroORM takes what it finds when a statement has
 * been carried out for the state of the row, and empties its stacks when the flush is over: such changes would count as
 * saved. Here they stay changes, which the next flush writes.
 */
import {
  type Collection,
  type Dictionary,
  type EntityManager,
  ReferenceKind,
  type Transaction,
  type UnitOfWork,
  Utils,
  helper,
  isRaw,
} from '@mikro-orm/core';
import { isTouched, touch, touchedIn, versionOf } from '@mikro-ool/core';
import { forgetSnapshot } from './collection.ts';
import { type AnyChangeSet, metaOf, restoreSnapshot, snapshotOf } from './entity.ts';
import type { FlushState } from './flush-state.ts';

/** The parts of the unit of work that are overridden; private in MikroORM's types. */
export interface InFlightMethods {
  clear(): void;
  remove(entity: object, visited?: Set<object>, options?: { cascade?: boolean }): void;
  persist(entity: object, visited?: Set<object>, options?: { cascade?: boolean }): void;
  postCommitCleanup(): void;
  commitCreateChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void>;
  commitUpdateChangeSets(sets: AnyChangeSet[], ctx?: Transaction, batched?: boolean): Promise<void>;
  commitCollectionUpdates(ctx?: Transaction): Promise<void>;
  takeCollectionSnapshots(entity: object, visited: Set<object>): void;
}

/** Hooks what takes a row for sent. */
export function keepSent(em: EntityManager, uow: InFlightMethods, state: FlushState): void {
  keepValues(em, uow, state);
  keepItems(em.getUnitOfWork(false), uow);
}

/** Hooks the stacks: new and removed entities that the flush has not seen. It takes those that it has deleted off itself. */
export function keepStacks(stacks: UnitOfWork, uow: InFlightMethods, state: FlushState): void {
  const { clear, remove, postCommitCleanup } = uow;
  /** Removed while they were inserted: MikroORM takes them for new ones, which it only has to forget. */
  const removed = new Set<object>();
  let isClearing = false;
  uow.clear = () => {
    isClearing = true;
    try {
      clear.call(uow);
    } finally {
      isClearing = false;
    }
  };
  uow.remove = (entity, ...rest) => {
    remove.call(uow, entity, ...rest);
    if (state.flush && helper(entity).__processing && !stacks.getRemoveStack().has(entity as never)) {
      removed.add(entity);
    }
  };
  uow.postCommitCleanup = () => {
    const removes = isClearing ? [] : [...stacks.getRemoveStack(), ...removed];
    const orphans = isClearing ? [] : [...(stacks.getOrphanRemoveStack() as Set<object>)];
    const created = isClearing ? [] : [...(stacks.getPersistStack() as Set<object>)].filter(isNew);
    removed.clear();
    postCommitCleanup.call(uow);
    if (state.hasFailed) {
      // a query does not try again by itself
      created.forEach((entity) => stacks.getPersistStack().add(entity as never));
      removes.forEach((entity) => stacks.getRemoveStack().add(entity as never));
    } else {
      // a query of their class flushes first
      created.forEach((entity) => uow.persist(entity, undefined, { cascade: false }));
      removes.forEach((entity) => uow.remove(entity, undefined, { cascade: false }));
    }
    orphans.forEach((entity) => stacks.getOrphanRemoveStack().add(entity as never));
  };
}

/** A reference by a key that is not the primary one has no snapshot either. */
function isNew(entity: object): boolean {
  const { __initialized, __meta: meta } = helper(entity);
  return __initialized && snapshotOf(entity) === undefined && !meta.readonly;
}

/** Values that were assigned, and entities that were touched. */
function keepValues(em: EntityManager, uow: InFlightMethods, state: FlushState): void {
  const { commitCreateChangeSets, commitUpdateChangeSets } = uow;
  uow.commitCreateChangeSets = async (sets, ctx) => {
    await commitCreateChangeSets.call(uow, sets, ctx);
    // MikroORM's snapshot of a new row is what was sent, but for one that is in several tables
    sets.filter(({ meta }) => meta.inheritanceType === 'tpt').forEach((set) => keepUnsent(em, set, state));
  };
  uow.commitUpdateChangeSets = async (sets, ctx, batched) => {
    // the version may stand in another of its tables
    const versioned = sets.filter(({ entity }) => versionOf(metaOf(em, entity)));
    const raw = new Map(versioned.map((set) => [set, rawColumns(set)]));
    await commitUpdateChangeSets.call(uow, sets, ctx, batched);
    versioned.forEach((set) => keepUnsent(em, set, state, raw.get(set)));
  };
}

/** The database computes these. */
function rawColumns({ payload }: AnyChangeSet): string[] | undefined {
  const names = Object.keys(payload).filter((name) => isRaw((payload as Dictionary)[name]));
  return names.length > 0 ? names : undefined;
}

/** Makes what was sent the state that an entity is compared with. */
function keepUnsent(em: EntityManager, set: AnyChangeSet, state: FlushState, raw: readonly string[] = []): void {
  const { entity, originalEntity, payload } = set;
  const meta = metaOf(em, entity);
  const version = versionOf(meta)?.name;
  const snapshot = snapshotOf(entity) as Dictionary;
  const sent: Dictionary = { ...(state.sent.get(entity) ?? originalEntity), ...payload };
  if (meta.inheritanceType === 'tpt') {
    state.sent.set(entity, sent);
  }
  const followUps = [...em.getUnitOfWork(false).getExtraUpdates()].filter(([one]) => one === entity);
  const others = new Set<string>([...raw, ...followUps.flatMap(([, names]) => Utils.asArray(names))]);
  const diff = em.getComparator().diffEntities(meta.class, sent as never, snapshot as never);
  const unsent = Object.keys(diff).filter((name) => {
    const prop = meta.properties[name as never] as { generated?: unknown } | undefined;
    return prop && !prop.generated && name !== version && name !== meta.root.discriminatorColumn && !others.has(name);
  });
  const written = state.flush?.updates.movedTo(entity);
  if (version && written !== undefined && snapshot[version] !== written && !isTouched(snapshot, version)) {
    sent[version] = written;
    unsent.push(version);
  }
  if (unsent.length > 0) {
    const values = unsent.map((name) => [name, sent[name]] as const);
    restoreSnapshot(entity, { ...snapshot, ...Object.fromEntries(values) });
  }
  if (touchesOf(entity)?.has(entity)) {
    touch(entity); // its mark went with the snapshot
  }
}

/** The change sets are final: what is touched from now on is for the next flush. */
export function planned(sets: readonly AnyChangeSet[]): void {
  for (const { entity } of sets) {
    touchesOf(entity)?.delete(entity);
  }
}

function touchesOf(entity: object): Set<object> | undefined {
  const uow = helper(entity).__em?.getUnitOfWork(false);
  return uow && touchedIn(uow);
}

/** Items that were added to an M:N collection, or taken out. (Those of a 1:M collection are changed themselves.) */
function keepItems(stacks: UnitOfWork, uow: InFlightMethods): void {
  const { commitCollectionUpdates, takeCollectionSnapshots } = uow;
  uow.commitCollectionUpdates = async (ctx) => {
    const collections = (stacks.getCollectionUpdates() as Collection<object>[]).filter(isManyToMany);
    const sent = collections.map((collection) => [collection, collection.getItems(false)] as const);
    await commitCollectionUpdates.call(uow, ctx);
    for (const [collection, items] of sent) {
      const now = collection.getItems(false);
      if (now.length !== items.length || now.some((item, i) => item !== items[i])) {
        isUnsent(collection, items);
      }
    }
  };
  uow.takeCollectionSnapshots = (entity, visited) => {
    // it comes along relations, of which some have the key alone (`mapToPk`), and is no entity then
    const isNext = Utils.isEntity(entity) && !visited.has(entity);
    const values = isNext ? helper(entity).__meta.relations.map((prop) => (entity as Dictionary)[prop.name]) : [];
    // those that were written are not dirty any more
    const dirty = values.filter(
      (value) => Utils.isCollection(value) && isManyToMany(value as never) && value.isDirty(),
    );
    const known = dirty.map((collection) => [collection, collection.getSnapshot()] as const);
    takeCollectionSnapshots.call(uow, entity, visited);
    known.forEach(([collection, items]) => isUnsent(collection, items));
  };
}

function isManyToMany(collection: Collection<object>): boolean {
  return collection.property.kind === ReferenceKind.MANY_TO_MANY;
}

function isUnsent(collection: Collection<object>, sent: object[] | undefined): void {
  forgetSnapshot(collection, sent);
  collection.setDirty();
}
