/** What the shared suite needs from a database: open a fresh one with some entities, and see what is sent to it. */
import { type EntityManager, MikroORM, type Options } from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { onTestFinished } from 'vitest';

type Entities = NonNullable<Options['entities']>;

export interface TestDriver {
  readonly name: string;
  /** Connections may write at the same time; without it, a race is one of interleaved forks. */
  readonly concurrent: boolean;
  /** Batches go into one statement. */
  readonly batches: boolean;
  /** The options for a new, empty database, and how to get rid of it. */
  create(): Promise<{ options: Partial<Options>; drop?: () => Promise<void> }>;
}

export interface Database {
  readonly orm: MikroORM;
  /** A new unit of work, as a request handler has it. */
  fork(): SqlEntityManager;
  /** The statements that were sent while `work` ran, as text with their values. */
  sent(work: () => Promise<unknown>): Promise<string[]>;
}

/** A fresh database with the tables of these entities; it is dropped when the test ends. */
export async function open(driver: TestDriver, entities: Entities, more: Partial<Options> = {}): Promise<Database> {
  const { options, drop } = await driver.create();
  let log: string[] = [];
  const orm = await MikroORM.init({
    ...options,
    ...more,
    entities,
    debug: ['query', 'query-params'],
    colors: false,
    // [query] update … [took 1 ms, 2 rows affected]
    logger: (line) => log.push(line.replace(/^\[query\] /, '').replace(/ \[took .*$/s, '')),
  } as Options);
  onTestFinished(async () => {
    await orm.close(true);
    await drop?.();
  });
  await orm.schema.create();
  return {
    orm,
    fork: () => orm.em.fork() as EntityManager as SqlEntityManager,
    async sent(work) {
      log = [];
      await work();
      return log;
    },
  };
}

/** The error that `work` throws; a failure when it throws none. */
export async function thrown(work: () => Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await work();
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error('nothing was thrown');
}
