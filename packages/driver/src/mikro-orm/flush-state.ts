/** Which flush a unit of work, or the code that runs now, is in. */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { EntityManager } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import type { Undo } from '../memory/undo.ts';

/** What is known of a unit of work beyond MikroORM's own state. */
export interface FlushState {
  /** The flush that is writing, up to its COMMIT or ROLLBACK. */
  flush?: Flush;
  /** A flush is running, up to and including MikroORM's tidying up. */
  flushing: boolean;
  /** MikroORM empties the unit of work when a flush ends; what is restored before would go with it. */
  readonly pending: Undo[];
}

const states = new WeakMap<object, FlushState>();

/** A new unit of work, in no flush yet. */
export function stateFor(uow: object): FlushState {
  const state: FlushState = { flushing: false, pending: [] };
  states.set(uow, state);
  return state;
}

/** The flush that an EntityManager is writing, if any. */
export function flushingIn(em: EntityManager): Flush | undefined {
  return states.get(em.getUnitOfWork(false))?.flush;
}

/** Takes back at once, or after the flush that the unit of work is in. */
export function restoreWhenIdle(undo: Undo): void {
  const { flushing, pending } = states.get(undo.uow)!;
  if (flushing) {
    pending.push(undo);
  } else {
    undo.restore();
  }
}

/** The flush that writes the collections of which it knows the new items only: set-based, before its own deletes. */
export const syncingCollections = new AsyncLocalStorage<Flush>();

/** The units of work in whose flushes this code runs, one inside another. */
export const insideFlush = new AsyncLocalStorage<readonly object[]>();
