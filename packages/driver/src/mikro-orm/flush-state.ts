/** Which flush a unit of work, or the code that runs now, is in. */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Dictionary, EntityManager } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import type { Roots } from '../flush/roots.ts';

/** What is known of a unit of work beyond MikroORM's own state. */
export interface FlushState {
  /** The flush that is writing, up to its COMMIT or ROLLBACK. */
  flush?: Flush;
  /** The roots that the flush writes, because it writes a part of them. */
  roots?: Roots;
  /** What the flush verifies. */
  verified?: ReadonlySet<object>;
  /** A flush is running, up to and including MikroORM's tidying up. */
  flushing: boolean;
  /** The last flush has failed. */
  hasFailed: boolean;
  /** MikroORM empties the unit of work when a flush ends; what is taken back before would go with it. */
  readonly pending: (() => void)[];
  /** What the flush has written of entities that are in several tables. */
  readonly sent: Map<object, Dictionary>;
}

const states = new WeakMap<object, FlushState>();

/** A new unit of work, in no flush yet. */
export function stateFor(uow: object): FlushState {
  const state: FlushState = { flushing: false, hasFailed: false, pending: [], sent: new Map() };
  states.set(uow, state);
  return state;
}

/** The flush that an EntityManager is writing, if any. */
export function flushingIn(em: EntityManager): Flush | undefined {
  return states.get(em.getUnitOfWork(false))?.flush;
}

export function isFlushing(uow: object): boolean {
  return states.get(uow)!.flushing;
}

/** At once, or after the flush that the unit of work is in. */
export function whenIdle(uow: object, work: () => void): void {
  const { flushing, pending } = states.get(uow)!;
  if (flushing) {
    pending.push(work);
  } else {
    work();
  }
}

/**
 * Async context lives as long as whatever was created in it, and the sockets and timers of a connection stay for as long as
 * the pool does. So it holds a token, which is emptied when the work is over.
 */
interface Token<Value> {
  value?: Value;
  readonly outer?: Token<Value>;
}

async function runWith<Value>(
  context: AsyncLocalStorage<Token<Value>>,
  value: Value,
  work: () => Promise<void>,
): Promise<void> {
  const token: Token<Value> = { value, outer: context.getStore() };
  try {
    await context.run(token, work);
  } finally {
    token.value = undefined;
  }
}

const syncing = new AsyncLocalStorage<Token<Flush>>();

/** Lets a flush write the collections of which it knows the new items only: set-based, before its own deletes. */
export function syncCollections(flush: Flush, work: () => Promise<void>): Promise<void> {
  return runWith(syncing, flush, work);
}

/** The flush that writes such collections right now, if any. */
export function syncingFlush(): Flush | undefined {
  return syncing.getStore()?.value;
}

const inside = new AsyncLocalStorage<Token<object>>();

/** Runs a flush of a unit of work. */
export function runFlush(uow: object, work: () => Promise<void>): Promise<void> {
  return runWith(inside, uow, work);
}

/** Is the code that asks part of a flush of this unit of work, or of one inside it? */
export function isInFlushOf(uow: object): boolean {
  for (let token = inside.getStore(); token; token = token.outer) {
    if (token.value === uow) {
      return true;
    }
  }
  return false;
}
