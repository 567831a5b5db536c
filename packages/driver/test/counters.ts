/** Workers that all add 1 to the same rows: what a race and a storm have in common. */
import { type EntityManager, type Options, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { expect } from 'vitest';
import { type Database, type TestDriver, open } from './harness.ts';

export const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

/** A database with so many counters, from 1 on. */
export async function withCounters(driver: TestDriver, rows: number, more: Partial<Options> = {}): Promise<Database> {
  const db = await open(driver, [Counter], more);
  const em = db.fork();
  for (let id = 1; id <= rows; id++) {
    em.create(Counter, { id });
  }
  await em.flush();
  return db;
}

export interface Counts {
  /** Flushes that succeeded, … */
  saved: number;
  /** … those that conflicted, … */
  conflicts: number;
  /** … and why the database itself refused one of these, if it did. */
  readonly causes: unknown[];
  /** How often each row was changed by a flush that succeeded. */
  readonly bumps: Map<number, number>;
}

/**
 * Workers add 1 to counters, half of them in reverse order, until so many flushes have ended.
 *
 * @param isChanged which of the counters a flush changes
 */
export async function addInParallel(
  { fork }: Database,
  workers: number,
  flushes: number,
  isChanged: () => boolean = () => true,
): Promise<Counts> {
  const counts: Counts = { saved: 0, conflicts: 0, causes: [], bumps: new Map() };
  let started = 0;
  const work = async (worker: number) => {
    while (started++ < flushes) {
      const em: EntityManager = fork();
      const all = await em.find(Counter, {}, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
      const changed = all.filter(isChanged);
      changed.forEach((counter) => counter.n++);
      try {
        await em.flush();
        counts.saved++;
        changed.forEach(({ id }) => counts.bumps.set(id, (counts.bumps.get(id) ?? 0) + 1));
      } catch (error) {
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        counts.conflicts++;
        counts.causes.push(...[(error as ConcurrentUpdate).cause].filter(Boolean));
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)));
  expect(counts.saved + counts.conflicts).toBe(flushes);
  expect(counts.conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
  for (const { id, n, version } of await fork().find(Counter, {})) {
    const bumps = counts.bumps.get(id) ?? 0;
    expect([id, n, version - 1]).toEqual([id, bumps, bumps]);
  }
  return counts;
}
