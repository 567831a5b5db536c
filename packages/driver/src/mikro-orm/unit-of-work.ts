/** The life of a flush, as MikroORM's unit of work goes through it: queued, begun, planned, written, over. */
import type { EntityManager, Transaction, UnitOfWork } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import { hookPersister, withOwnMetadata, type PersisterMethods } from './change-set-persister.ts';
import type { ChangeSetGroups } from './entity.ts';
import { type FlushState, isInFlushOf, runFlush, stateFor, syncCollections, whenIdle } from './flush-state.ts';
import { countClears } from './generation.ts';
import { hookTouches } from './touches.ts';

/** The parts of the unit of work that are overridden; private in MikroORM's types. */
interface UnitOfWorkMethods {
  clear(): void;
  commit(): Promise<void>;
  unsetIdentity(entity: object): void;
  doCommit(): Promise<void>;
  filterCollectionUpdates(): void;
  getChangeSetGroups(): ChangeSetGroups;
  persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void>;
  commitCollectionUpdates(ctx?: Transaction): Promise<void>;
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
  hookUnitOfWork(em, uow, state, begin);
  hookPersister(em, uow.getChangeSetPersister(), state, begin);
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

function hookUnitOfWork(em: EntityManager, uow: UnitOfWorkMethods, state: FlushState, begin: () => Flush): void {
  const keepTouches = hookTouches(em);
  const {
    doCommit,
    filterCollectionUpdates,
    getChangeSetGroups,
    persistToDatabase,
    commitCollectionUpdates,
    unsetIdentity,
  } = uow;
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
    }
    filterCollectionUpdates.call(uow);
  };
  // Runs once per flush, queued ones included, and its promise ends after COMMIT or ROLLBACK.
  uow.doCommit = async () => {
    const flush = begin();
    state.flush = flush;
    try {
      await doCommit.call(uow);
      flush.succeeded();
    } catch (error) {
      const { undo, error: failure } = await flush.failed(error);
      if (undo) {
        whenIdle(uow, () => undo.restore());
      }
      throw failure;
    } finally {
      state.flush = undefined;
    }
  };
  // The last step before the transaction starts.
  uow.getChangeSetGroups = () => {
    withOwnMetadata(em, em.getUnitOfWork(false).getChangeSets());
    const groups = getChangeSetGroups.call(uow);
    state.flush!.plan(groups);
    return groups;
  };
  uow.persistToDatabase = async (groups, ctx) => {
    await state.flush!.persist((tx) => persistToDatabase.call(uow, groups, tx), ctx);
  };
  uow.commitCollectionUpdates = (ctx) => syncCollections(state.flush!, () => commitCollectionUpdates.call(uow, ctx));
}
