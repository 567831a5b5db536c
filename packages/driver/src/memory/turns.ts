/**
 * Who uses the connection of a transaction: its flushes one after the other, and no savepoint begins or ends, nor does the
 * transaction, while one of them is on its way. What a flush sends after ROLLBACK would be a transaction by itself; and
 * savepoints are a stack, so those of two flushes must not be mixed.
 */
import type { UnitOfWork } from '@mikro-orm/core';
import { flushesOf, isInFlushOf } from '../mikro-orm/flush-state.ts';

interface Line {
  /** The last flush. */
  tail: Promise<unknown>;
  readonly units: Set<UnitOfWork>;
}

export class Turns {
  /** By the outermost transaction. */
  readonly #lines = new WeakMap<object, Line>();

  /** Flushes in a transaction, when those before it have. */
  take<Result>(root: object, uow: UnitOfWork, flush: () => Promise<Result>): Promise<Result> {
    const line = this.#lines.get(root) ?? { tail: Promise.resolve(), units: new Set() };
    this.#lines.set(root, line);
    if (isInside(line)) {
      return flush();
    }
    line.units.add(uow);
    const turn = line.tail.then(flush);
    line.tail = turn.catch(() => {});
    return turn;
  }

  /** Waits for all flushes, unless it is one of them that asks. */
  async idle(root: object): Promise<void> {
    const line = this.#lines.get(root);
    if (!line || isInside(line)) {
      return;
    }
    let tail: unknown;
    while (tail !== line.tail) {
      tail = line.tail;
      await tail;
      // MikroORM has some tidying up to do
      await Promise.all([...line.units].map(flushesOf));
    }
  }
}

/** A listener may flush another EntityManager in the same transaction. */
function isInside({ units }: Line): boolean {
  return [...units].some(isInFlushOf);
}
