/**
 * The life of a flush, as MikroORM's unit of work goes through it: queued, begun, planned, written, over.
 *
 * Why not `onFlush` and a catch around `em.flush()`: later `onFlush` listeners may still recompute change sets, and follow-up
 * updates appear only while the flush runs.
 */
import type { EntityMetadata, Transaction, UnitOfWork } from '@mikro-orm/core';
import { takeRoots } from '../covers/aggregate/roots.ts';
import type { Flush } from '../flush/flush.ts';
import { inTableOrder } from '../order/tables.ts';
import type { AnyChangeSet, ChangeSetGroups } from '../mikro-orm/entity.ts';
import {
  flushingMeanwhile,
  isInFlushOf,
  runFlush,
  stateOf,
  syncCollections,
  whenIdle,
} from '../mikro-orm/flush-state.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { takeOrphans } from '../mikro-orm/outside.ts';
import { keepTouches } from '../mikro-orm/touches.ts';
import { keepVerified, takeVerified } from '../mikro-orm/verified.ts';
import { type PersisterMethods, withOwnMetadata } from './change-set-persister.ts';
import { type InFlightMethods, planned } from './in-flight.ts';
import { refuseLeftOut } from './shared.ts';

/** The parts of the unit of work that are overridden; private in MikroORM's types. */
export interface UnitOfWorkMethods extends InFlightMethods {
  commit(): Promise<void>;
  unsetIdentity(entity: object): void;
  doCommit(): Promise<void>;
  filterCollectionUpdates(): void;
  getChangeSetGroups(): ChangeSetGroups;
  getCommitOrder(): EntityMetadata[];
  commitDeleteChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void>;
  persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void>;
  getChangeSetPersister(): PersisterMethods;
  getChangeSets(): AnyChangeSet[];
}

/** The flush that deleted an entity, in a transaction whose EntityManager outside forgets the entity later. */
const removers = new WeakMap<object, Flush>();

/**
 * Flushes of one EntityManager run one after the other. MikroORM's own queue is emptied only when the first one succeeds,
 * so a second one would never settle; and a flush inside a flush is for MikroORM to refuse.
 */
export const queueing: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    override async commit(): Promise<void> {
      const state = stateOf(this);
      if (state.flushing && isInFlushOf(this)) {
        return super.commit();
      }
      const turn = state.queue.then(() => flushingMeanwhile(state, () => runFlush(this, () => super.commit())));
      state.queue = turn.catch(() => {});
      return turn;
    }
  };

/** Begins a flush, and takes back in memory what it did when it fails. */
export const flushing: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    /** Runs once per flush, queued ones included, and its promise ends after COMMIT or ROLLBACK. */
    override async doCommit(): Promise<void> {
      const state = stateOf(this);
      const flush = state.begin();
      state.flush = flush;
      state.hasFailed = false;
      takeOrphans(this as unknown as UnitOfWork);
      try {
        await super.doCommit();
        flush.succeeded();
      } catch (error) {
        state.hasFailed = true;
        keepVerified(state.em, state.verified);
        const { undo, error: failure } = await flush.failed(error);
        if (undo) {
          whenIdle(this, () => undo.restore());
        }
        throw failure;
      } finally {
        state.flush = undefined;
        state.roots = undefined;
        state.verified = undefined;
        state.groups = undefined;
        state.deleted = undefined;
        state.sent.clear();
      }
    }

    /** The first step after all listeners, also when there is nothing to write so far. */
    override filterCollectionUpdates(): void {
      const state = stateOf(this);
      if (!state.flush?.isPlanned) {
        refuseLeftOut(state);
        keepTouches(state);
        state.roots = takeRoots(state.em);
        state.verified = takeVerified(state.em);
      }
      super.filterCollectionUpdates();
    }

    override unsetIdentity(entity: object): void {
      const { flush } = stateOf(this);
      (flush ?? removers.get(entity))?.removing(this as unknown as UnitOfWork, entity);
      if (flush?.isInside) {
        removers.set(entity, flush);
      }
      super.unsetIdentity(entity);
    }
  };

/** Hands to the flush what it is to write, and how. */
export const writing: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    /** The last step before the transaction starts. */
    override getChangeSetGroups(): ChangeSetGroups {
      const { em, flush, verified, roots } = stateOf(this);
      // MikroORM itself does not ask for it, and it is hooked when it is asked for
      this.getChangeSetPersister();
      const sets = this.getChangeSets();
      withOwnMetadata(em, sets);
      planned(sets);
      const groups = super.getChangeSetGroups();
      flush!.plan(groups, verified, roots);
      return groups;
    }

    override async persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void> {
      await stateOf(this).flush!.persist((tx) => super.persistToDatabase(groups, tx), ctx);
    }

    override commitCollectionUpdates(ctx?: Transaction): Promise<void> {
      const write = () => super.commitCollectionUpdates(ctx);
      const isNeeded = this.getCollectionUpdates().length > 0;
      return isNeeded ? syncCollections(stateOf(this).flush!, write) : write();
    }
  };

/**
 * With versions, tables are written in one order by everybody. Without, as MikroORM does: in the order in which their
 * entities were loaded, and deleted from in the opposite one.
 */
export const ordering: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    override getCommitOrder(): EntityMetadata[] {
      const { em, flush } = stateOf(this);
      const metas = super.getCommitOrder();
      return flush?.isVersioned ? inTableOrder(metas, em.getMetadata(), 'written') : metas;
    }

    override persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void> {
      const state = stateOf(this);
      state.groups = groups;
      // it is called again where a statement alone could not write
      state.deleted = undefined;
      return super.persistToDatabase(groups, ctx);
    }

    /** Called for one table after the other: the first time, all of them are deleted from. */
    override async commitDeleteChangeSets(sets: AnyChangeSet[], ctx?: Transaction): Promise<void> {
      const state = stateOf(this);
      if (sets.length === 0 || state.deleted?.has(sets)) {
        return;
      }
      const { em, flush, groups } = state;
      if (!flush?.isVersioned) {
        return super.commitDeleteChangeSets(sets, ctx);
      }
      const deleted = (state.deleted ??= new Set());
      const byTable = groups![sets[0]!.type];
      const tables = [...byTable.values()].filter((some) => some.length > 0);
      const metas = tables.map(([set]) => (set!.meta.inheritanceType === 'tpt' ? set!.meta : set!.rootMeta!));
      for (const { _id } of inTableOrder(metas, em.getMetadata(), 'deleted')) {
        const some = byTable.get(_id)!;
        deleted.add(some);
        await super.commitDeleteChangeSets(some, ctx);
      }
    }
  };
