/** Which flush a unit of work, or the code that runs now, is in. */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { Dictionary, EntityFactory, EntityManager } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import type { Roots } from '../covers/aggregate/climb.ts';
import type { AnyChangeSet, ChangeSetGroups } from './entity.ts';
import { StateOn } from './layers.ts';
import type { Verified } from './verified.ts';

/** What is known of a unit of work, and of what belongs to it, beyond MikroORM's own state. */
export interface FlushState {
  readonly em: EntityManager;
  readonly factory: EntityFactory;
  /** Called once for every flush. */
  readonly begin: () => Flush;
  /** The last of the flushes that wait for each other. */
  queue: Promise<unknown>;
  /** The flush that is writing, up to its COMMIT or ROLLBACK. */
  flush?: Flush;
  /** The roots that the flush writes, because it writes a part of them. */
  roots?: Roots;
  /** What the flush verifies. */
  verified?: Verified;
  /** A flush is running, up to and including MikroORM's tidying up. */
  flushing: boolean;
  /** The last flush has failed. */
  hasFailed: boolean;
  /** MikroORM empties the unit of work when a flush ends; what is taken back before would go with it. */
  readonly pending: (() => void)[];
  /** What the flush has written of entities that are in several tables. */
  readonly sent: Map<object, Dictionary>;
  /** Removed while they were inserted: MikroORM takes them for new ones, which it only has to forget. */
  readonly removed: Set<object>;
  /** `em.clear()` is running. */
  isClearing: boolean;
  /** Touched entities whose mark went with their snapshot. */
  readonly recomputed: Set<object>;
  /** What is written, … */
  groups?: ChangeSetGroups;
  /** … and the groups that have been deleted. */
  deleted?: Set<AnyChangeSet[]>;
}

const states = new StateOn<FlushState>();

/** The state of an EntityManager that is in no flush yet. */
export function newState(em: EntityManager, factory: EntityFactory, begin: () => Flush): FlushState {
  return {
    em,
    factory,
    begin,
    queue: Promise.resolve(),
    flushing: false,
    hasFailed: false,
    pending: [],
    sent: new Map(),
    removed: new Set(),
    isClearing: false,
    recomputed: new Set(),
  };
}

/** A unit of work, its persister, or the factory of its entities has this state. */
export function giveState(owner: object, state: FlushState): void {
  states.give(owner, state);
}

/** @see giveState */
export function stateOf(owner: object): FlushState {
  return states.of(owner);
}

export function hasState(owner: object): boolean {
  return states.has(owner);
}

/** The factory of an EntityManager's own entities: MikroORM answers with that of whichever one is in context. */
export function factoryOf(em: EntityManager): EntityFactory {
  return stateOf(em.getUnitOfWork(false)).factory;
}

/** The flush that an EntityManager is writing, if any. */
export function flushingIn(em: EntityManager): Flush | undefined {
  const uow = em.getUnitOfWork(false);
  return states.has(uow) ? states.of(uow).flush : undefined;
}

/** Every unit of work of this process that is flushing. */
const onTheirWay = new Set<FlushState>();

/** Marks a flush as running, and calls what waits for its end when it is over. */
export async function flushingMeanwhile(state: FlushState, flush: () => Promise<void>): Promise<void> {
  state.flushing = true;
  onTheirWay.add(state);
  try {
    await flush();
  } finally {
    state.flushing = false;
    onTheirWay.delete(state);
    state.pending.splice(0).forEach((work) => work());
  }
}

/** The other units of work that are flushing. */
export function flushesBeside(state: FlushState): FlushState[] {
  const isAlone = onTheirWay.size === 0 || (onTheirWay.size === 1 && onTheirWay.has(state));
  return isAlone ? [] : [...onTheirWay].filter((other) => other !== state);
}

/** Settles when a unit of work has no flush on its way. */
export function flushesOf(uow: object): Promise<unknown> {
  return stateOf(uow).queue;
}

export function isFlushing(uow: object): boolean {
  return stateOf(uow).flushing;
}

/** At once, or after the flush that the unit of work is in. */
export function whenIdle(uow: object, work: () => void): void {
  const { flushing, pending } = stateOf(uow);
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
