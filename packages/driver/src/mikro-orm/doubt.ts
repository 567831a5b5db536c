/**
 * Entities of which a transaction that was rolled back may have brought rows that never were: what it had written past a
 * flush, and read again. They take the next complete row, also one with a lower version.
 */
import type { EntityManager } from '@mikro-orm/core';

const doubtful = new WeakSet<object>();

/** A transaction of this EntityManager was rolled back. */
export function doubt(em: EntityManager): void {
  for (const entity of em.getUnitOfWork(false).getIdentityMap()) {
    doubtful.add(entity);
  }
}

/** Is it in doubt what the database has? Not any more after a complete row. */
export function isDoubtful(entity: object): boolean {
  return doubtful.has(entity);
}

/** A complete row was read. */
export function trust(entity: object): void {
  doubtful.delete(entity);
}
