/**
 * Flushes of one EntityManager run one after the other. What must not happen while one of them is on its way waits for its
 * turn as a flush of its own.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import type { EntityManager, EventManager, EventSubscriber, FlushEventArgs } from '@mikro-orm/core';

/** What is done in a flush, after all other listeners. */
export interface Turn {
  readonly em: EntityManager;
  /** Its turn has come. */
  begins(): void | Promise<void>;
  /** What it writes is known, and nothing was sent. */
  isPlanned?(): Promise<void>;
}

/** Async context lives as long as what was created in it, such as a connection. So it holds a token, which is emptied. */
interface Token {
  turn?: Turn | undefined;
}

/** Which flush a listener is called by: it may be another one of the same EntityManager. */
const running = new AsyncLocalStorage<Token>();

/** Flushes; the EntityManager is one that is in no other context. */
export async function flushAs(turn: Turn): Promise<void> {
  listenLast(turn.em.getEventManager());
  const token: Token = { turn };
  try {
    await running.run(token, () => turn.em.flush());
  } finally {
    token.turn = undefined;
  }
}

/** Does something while no flush of the EntityManager is on its way. Inside of one, MikroORM refuses it. */
export async function betweenFlushes(em: EntityManager, work: () => Promise<void>): Promise<void> {
  let settled: Promise<void> | undefined;
  const begins = async () => {
    settled = work();
    await settled;
    throw new Error('This flush was a turn only; nothing is written.');
  };
  await flushAs({ em, begins }).catch((error: unknown) => settled ?? Promise.reject(error as Error));
}

const listeners = new WeakMap<EventManager, LastListener>();

/** Called after all other listeners, in every flush from the first turn on. */
class LastListener implements EventSubscriber {
  async beforeFlush({ em }: FlushEventArgs): Promise<void> {
    await this.#turn(em)?.begins();
  }

  async onFlush({ em }: FlushEventArgs): Promise<void> {
    await this.#turn(em)?.isPlanned?.();
  }

  #turn(em: EntityManager): Turn | undefined {
    const turn = running.getStore()?.turn;
    return turn?.em === em && listeners.get(em.getEventManager()) === this ? turn : undefined;
  }
}

/** MikroORM cannot forget a listener, so there is one; another one only when somebody has registered one since. */
function listenLast(manager: EventManager): void {
  if ([...manager.getSubscribers()].at(-1) !== listeners.get(manager) || !listeners.has(manager)) {
    const last = new LastListener();
    manager.registerSubscriber(last);
    listeners.set(manager, last);
  }
}
