/**
 * Who uses the connection of a transaction: its flushes one after the other, and no savepoint begins or ends, nor does the
 * transaction, while one of them is on its way. What a flush sends after ROLLBACK would be a transaction by itself; and
 * savepoints are a stack, so those of two flushes must not be mixed.
 */
import type { UnitOfWork } from '@mikro-orm/core';
import { flushesOf, isInFlushOf } from '../mikro-orm/flush-state.ts';

/** Of an outermost transaction. */
export class Turns {
  /** The last flush. */
  #tail: Promise<unknown> = Promise.resolve();
  readonly #units = new Set<UnitOfWork>();

  /** Flushes in the transaction, when those before it have. */
  take<Result>(uow: UnitOfWork, flush: () => Promise<Result>): Promise<Result> {
    if (this.#isInside()) {
      return flush();
    }
    this.#units.add(uow);
    const turn = this.#tail.then(flush);
    this.#tail = turn.catch(() => {});
    return turn;
  }

  /** Waits for all flushes, unless it is one of them that asks. */
  async idle(): Promise<void> {
    if (this.#isInside()) {
      return;
    }
    let tail: unknown;
    while (tail !== this.#tail) {
      tail = this.#tail;
      await tail;
      // MikroORM has some tidying up to do
      await Promise.all([...this.#units].map(flushesOf));
    }
  }

  /** A listener may flush another EntityManager in the same transaction. */
  #isInside(): boolean {
    return [...this.#units].some(isInFlushOf);
  }
}
