/** The life of a flush, as MikroORM's unit of work goes through it: queued, begun, planned, written, over. */
import type { EntityManager, EntityMetadata, Transaction, UnitOfWork } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import { NO_ROOTS, explained } from '../flush/roots.ts';
import { inTableOrder } from '../flush/table-order.ts';
import { hookPersister, withOwnMetadata, type PersisterMethods } from './change-set-persister.ts';
import type { AnyChangeSet, ChangeSetGroups } from './entity.ts';
import { type FlushState, isInFlushOf, runFlush, stateFor, syncCollections, whenIdle } from './flush-state.ts';
import { countClears } from './generation.ts';
import { type InFlightMethods, keepSent, keepStacks, planned } from './in-flight.ts';
import { takeRoots } from './roots.ts';
import { hookTouches } from './touches.ts';
import { keepVerified, takeVerified } from './verified.ts';

/** The parts of the unit of work that are overridden; private in MikroORM's types. */
interface UnitOfWorkMethods extends InFlightMethods {
  commit(): Promise<void>;
  unsetIdentity(entity: object): void;
  doCommit(): Promise<void>;
  filterCollectionUpdates(): void;
  getChangeSetGroups(): ChangeSetGroups;
  getCommitOrder(): EntityMetadata[];
  commitDeleteChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void>;
  persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void>;
  getChangeSetPersister(): PersisterMethods;
}

/** The flush that deleted an entity: EntityManagers around its transaction forget the entity later. */
const removers = new WeakMap<object, Flush>();

/**
 * Hooks the unit of work of an EntityManager. Why not `onFlush` and a catch around `em.flush()`: later `onFlush`
 * listeners may still recompute change sets, and follow-up updates appear only while the flush runs.
 *
 * @param begin called once for every flush
 */
export function hookFlushes(em: EntityManager, begin: () => Flush): void {
  const uow = em.getUnitOfWork(false) as unknown as UnitOfWorkMethods;
  const state = stateFor(uow);
  countClears(uow);
  queueFlushes(uow, state);
  keepStacks(em.getUnitOfWork(false), uow, state);
  const persister = hookWhenAsked(em, uow, state, begin);
  hookUnitOfWork(em, uow, state, begin, () => {
    hookWriting(em, uow, state);
    keepSent(em, uow, state);
    hookOrder(em, uow, state);
    persister();
  });
}

/** The persister is asked for by `em.insert()` too, without a flush. Returns how to ask for it. */
function hookWhenAsked(
  em: EntityManager,
  uow: UnitOfWorkMethods,
  state: FlushState,
  begin: () => Flush,
): () => PersisterMethods {
  const { getChangeSetPersister } = uow;
  let persister: PersisterMethods | undefined;
  uow.getChangeSetPersister = () => {
    if (!persister) {
      persister = getChangeSetPersister.call(uow);
      hookPersister(em, persister, state, begin);
    }
    return persister;
  };
  return uow.getChangeSetPersister;
}

/**
 * Flushes of one EntityManager run one after the other. MikroORM's own queue is emptied only when the first one succeeds,
 * so a second one would never settle; and a flush inside a flush is for MikroORM to refuse.
 */
function queueFlushes(uow: UnitOfWorkMethods, state: FlushState): void {
  const { commit } = uow;
  let queue: Promise<unknown> = Promise.resolve();
  uow.commit = async () => {
    if (state.flushing && isInFlushOf(uow)) {
      return commit.call(uow);
    }
    const turn = queue.then(async () => {
      state.flushing = true;
      try {
        await runFlush(uow, () => commit.call(uow));
      } finally {
        state.flushing = false;
        state.pending.splice(0).forEach((work) => work());
      }
    });
    queue = turn.catch(() => {});
    return turn;
  };
}

/** @param writes called once, when there is something to write: most EntityManagers only read */
function hookUnitOfWork(
  em: EntityManager,
  uow: UnitOfWorkMethods,
  state: FlushState,
  begin: () => Flush,
  writes: () => void,
): void {
  const keepTouches = hookTouches(em);
  const { doCommit, filterCollectionUpdates, unsetIdentity } = uow;
  let hasWritten = false;
  uow.unsetIdentity = (entity) => {
    (state.flush ?? removers.get(entity))?.removing(uow as unknown as UnitOfWork, entity);
    if (state.flush) {
      removers.set(entity, state.flush);
    }
    unsetIdentity.call(uow, entity);
  };
  // The first step after all listeners, also when there is nothing to write so far.
  uow.filterCollectionUpdates = () => {
    if (!state.flush?.isPlanned) {
      keepTouches();
      state.roots = takeRoots(em);
      state.verified = takeVerified(em);
    }
    filterCollectionUpdates.call(uow);
    if (!hasWritten && hasWork(em.getUnitOfWork(false))) {
      hasWritten = true;
      writes();
    }
  };
  // Runs once per flush, queued ones included, and its promise ends after COMMIT or ROLLBACK.
  uow.doCommit = async () => {
    const flush = begin();
    state.flush = flush;
    state.hasFailed = false;
    try {
      await doCommit.call(uow);
      flush.succeeded();
    } catch (error) {
      state.hasFailed = true;
      keepVerified(em, state.verified);
      const { undo, error: failure } = await flush.failed(error);
      if (undo) {
        whenIdle(uow, () => undo.restore());
      }
      throw failure;
    } finally {
      state.flush = undefined;
      explained(state.roots ?? NO_ROOTS);
      state.roots = undefined;
      state.verified = undefined;
      state.sent.clear();
    }
  };
}

/** Will MikroORM write anything? */
function hasWork(uow: UnitOfWork): boolean {
  return uow.getChangeSets().length + uow.getCollectionUpdates().length + uow.getExtraUpdates().size > 0;
}

function hookWriting(em: EntityManager, uow: UnitOfWorkMethods, state: FlushState): void {
  const { getChangeSetGroups, persistToDatabase, commitCollectionUpdates } = uow;
  // The last step before the transaction starts.
  uow.getChangeSetGroups = () => {
    const sets = em.getUnitOfWork(false).getChangeSets();
    withOwnMetadata(em, sets);
    planned(sets);
    const groups = getChangeSetGroups.call(uow);
    state.flush!.plan(groups, state.verified, state.roots);
    return groups;
  };
  uow.persistToDatabase = async (groups, ctx) => {
    await state.flush!.persist((tx) => persistToDatabase.call(uow, groups, tx), ctx);
  };
  uow.commitCollectionUpdates = (ctx) => {
    const write = () => commitCollectionUpdates.call(uow, ctx);
    const isNeeded = em.getUnitOfWork(false).getCollectionUpdates().length > 0;
    return isNeeded ? syncCollections(state.flush!, write) : write();
  };
}

/** Without versions, as MikroORM does: it writes tables in the order in which their entities were loaded, and deletes from them in the opposite one. */
function hookOrder(em: EntityManager, uow: UnitOfWorkMethods, state: FlushState): void {
  const { getCommitOrder, commitDeleteChangeSets, persistToDatabase } = uow;
  let groups: ChangeSetGroups;
  let done = new WeakSet<AnyChangeSet[]>();
  uow.getCommitOrder = () => {
    const metas = getCommitOrder.call(uow);
    return state.flush?.isVersioned ? inTableOrder(metas, em.getMetadata(), 'written') : metas;
  };
  uow.persistToDatabase = (all, ctx) => {
    groups = all;
    // it is called again where a statement alone could not write
    done = new WeakSet();
    return persistToDatabase.call(uow, all, ctx);
  };
  // called for one table after the other: the first time, all of them are deleted from
  uow.commitDeleteChangeSets = async (sets, ctx) => {
    if (sets.length === 0 || done.has(sets)) {
      return;
    }
    if (!state.flush?.isVersioned) {
      return commitDeleteChangeSets.call(uow, sets, ctx);
    }
    const byTable = groups[sets[0]!.type];
    const metas = [...byTable.values()].map(([set]) =>
      set!.meta.inheritanceType === 'tpt' ? set!.meta : set!.rootMeta!,
    );
    for (const { _id } of inTableOrder(metas, em.getMetadata(), 'deleted')) {
      const some = byTable.get(_id)!;
      done.add(some);
      await commitDeleteChangeSets.call(uow, some, ctx);
    }
  };
}
