/** What a worker of a storm does, in this process or in another one. */
import type { EntityManager, EntityName } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';

export interface Values {
  id: number;
  n: number;
  version: number;
}

export class Tally {
  saved = 0;
  deleted = 0;
  conflicts = 0;
  /** By row: how often a flush that succeeded has changed it, and deleted it. */
  readonly bumps = new Map<number, number>();
  readonly deletions = new Map<number, number>();
}

export interface Turn<T extends Values> {
  readonly rows: number;
  readonly isDelete: boolean;
  readonly isReversed: boolean;
  /** How 1 is added. */
  readonly change?: (counter: T) => void;
  /** Something between reading and writing. */
  readonly pause?: () => Promise<unknown>;
}

/** Adds 1 to the first rows, or to a part of them, or deletes a part. Returns what it has deleted, as it is inserted again. */
export async function takeTurn<T extends Values>(
  em: EntityManager,
  Counter: EntityName<T>,
  { rows, isDelete, isReversed, change = (counter) => counter.n++, pause }: Turn<T>,
  tally: Tally,
): Promise<Values[]> {
  const orderBy = { id: isReversed ? 'desc' : 'asc' } as never;
  const there = (await em.find(Counter, { id: { $lte: rows } } as never, { orderBy }).catch(refused)) as T[];
  // who deletes leaves some for the others
  const share = rows <= 2 ? 1 : isDelete ? 0.3 : Math.random() < 0.5 ? 0.5 : 1;
  const counters = there.filter(() => Math.random() < share);
  if (counters.length < Math.min(rows, 2)) {
    return []; // rivals have deleted the others
  }
  const next = counters.map(({ id, n, version }) => ({ id, n, version: version + 1 }));
  if (isDelete) {
    em.remove(counters);
  } else {
    counters.forEach(change);
  }
  await pause?.();
  try {
    await em.flush();
  } catch (error) {
    if (!(error instanceof ConcurrentUpdate)) {
      throw error;
    }
    tally.conflicts++;
    return [];
  }
  const counts = isDelete ? tally.deletions : tally.bumps;
  next.forEach(({ id }) => counts.set(id, (counts.get(id) ?? 0) + 1));
  tally[isDelete ? 'deleted' : 'saved']++;
  return isDelete ? next : [];
}

/** In SERIALIZABLE, PostgreSQL may refuse a query. */
function refused(error: { code?: string }): never[] {
  if (error.code !== '40001') {
    throw error;
  }
  return [];
}
