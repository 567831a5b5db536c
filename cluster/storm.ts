/** Writers of the same rows over all nodes: what was saved is on every node, all of it, or somebody tells. */
import { setTimeout as wait } from 'node:timers/promises';
import { type Constructor, MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import type { AbstractSqlDriver, EntityManager } from '@mikro-orm/sql';
import { CommitOutcomeUnknown, ConcurrentUpdate } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';

export const Counter = defineEntity({
  name: 'Counter',
  properties: {
    id: p.integer().primary().autoincrement(false),
    n: p.integer().default(0),
    /** Of either lock: `versioned()` takes it over. */
    version: p.integer().version(),
  },
});

export type Orm = MikroORM<AbstractSqlDriver>;
export type Lock = 'mikro-ool' | 'version: true';
type DriverClass = Constructor<AbstractSqlDriver>;

/** MikroORM on one node, with one of the locks. */
export async function connect(Driver: DriverClass, lock: Lock, options: Partial<Options>): Promise<Orm> {
  const driver = lock === 'mikro-ool' ? versioned(resilient(Driver as typeof AbstractSqlDriver & DriverClass)) : Driver;
  return (await MikroORM.init({ ...options, driver } as Options)) as unknown as Orm;
}

export interface Outcome {
  saved: number;
  /** Told that they were not saved, by a conflict. */
  conflicts: number;
  /** Not saved, and told by another error: how often which. */
  readonly errors: Record<string, number>;
  /** Nobody was told whether they were saved. */
  unknown: number;
}

export interface Storm {
  readonly workers: number;
  readonly rows: number;
  /** Ends after so many flushes, … */
  readonly flushes: number;
  /** … or when this says so. */
  readonly until?: AbortSignal;
}

/** Workers add 1 to all counters, each always on the same node, half of them in reverse order. */
export async function storm(nodes: readonly Orm[], { workers, rows, flushes, until }: Storm): Promise<Outcome> {
  const outcome: Outcome = { saved: 0, conflicts: 0, errors: {}, unknown: 0 };
  const ids = Array.from({ length: rows }, (_, i) => i + 1);
  let started = 0;
  const isOver = () => until?.aborted || started++ >= flushes;
  const work = async (worker: number) => {
    while (!isOver()) {
      try {
        const em = nodes[worker % nodes.length]!.em.fork();
        const counters = await em.find(Counter, ids, { orderBy: { id: worker % 2 ? 'asc' : 'desc' } });
        counters.forEach((counter) => counter.n++);
        await em.flush();
        outcome.saved++;
      } catch (error) {
        await note(outcome, error as Error);
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)));
  return outcome;
}

async function note(outcome: Outcome, error: Error): Promise<void> {
  if (error instanceof ConcurrentUpdate || error.name === 'OptimisticLockError') {
    outcome.conflicts++;
  } else if (error instanceof CommitOutcomeUnknown) {
    outcome.unknown++;
  } else {
    const label = `${error.name} ${(error as { code?: string }).code ?? ''}`.trim();
    outcome.errors[label] = (outcome.errors[label] ?? 0) + 1;
    // a server that is not there would be asked thousands of times
    await wait(20);
  }
}

/** New counters, at 0 and version 1. */
export async function seed({ em }: Orm, rows: number): Promise<void> {
  const fork = em.fork();
  await fork.nativeDelete(Counter, {});
  await fork.insertMany(
    Counter,
    Array.from({ length: rows }, (_, i) => ({ id: i + 1 })),
  );
}

/** What one node says: each different pair of counter and writes, so there is one where nothing was lost. */
export async function tellsOf(em: EntityManager): Promise<{ n: number; writes: number }[]> {
  const counters = await em.fork().find(Counter, {}, { disableIdentityMap: true });
  const pairs = new Map(counters.map(({ n, version }) => [`${n}/${version}`, { n, writes: version - 1 }]));
  return [...pairs.values()];
}

/** The numbers of a storm, for whoever reads the log. */
export function report(what: string, { saved, conflicts, unknown, errors }: Outcome, lost: number): void {
  const others = Object.entries(errors).map(([label, n]) => `${n} ${label}`);
  console.log(
    `${what}: ${saved} saved, ${conflicts} conflicts, ${unknown} unknown, ${lost} lost${others.length > 0 ? `; ${others.join(', ')}` : ''}`,
  );
}
