/**
 * Random changes to a graph of entities, flushed in one go: where the flush fails at any statement, or loses a race, nothing
 * of it is in the database, and flushing again leaves database and memory as one flush without a failure does. The roots of
 * aggregates are bumped once when a part of theirs was written, and not otherwise.
 */
import type { Options } from '@mikro-orm/core';
import * as fc from 'fast-check';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { expect, test } from 'vitest';
import { declaredAs } from './declared-as.ts';
import { seedOfRun } from './seed.ts';
import { type Fault, FaultyConnection } from '../faults/connection.ts';
import { type TestDriver, open } from '../harness.ts';
import {
  type Loaded,
  OPERATIONS,
  type Step,
  TABLES,
  apply,
  entities,
  load,
  memory,
  seed,
  wrongRoots,
} from './relations-model.ts';

const fault: Fault = {
  name: 'an error of any statement',
  async strike() {
    throw Object.assign(new Error('simulated'), { code: 'SIMULATED' });
  },
};

const step: fc.Arbitrary<Step> = fc.record({
  op: fc.constantFrom(...(Object.keys(OPERATIONS) as Step['op'][])),
  n: fc.nat(99),
  m: fc.nat(99),
});

/** How it is flushed. */
const SHAPES: Record<string, (loaded: Loaded) => Promise<void>> = {
  'em.flush': ({ em }) => em.flush(),
  async 'em.begin'({ em }) {
    await em.begin();
    try {
      await em.commit();
    } catch (error) {
      await em.rollback().catch(() => em.resetTransactionContext());
      throw error;
    }
  },
};

const program = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 8, size: 'max' }),
  shape: fc.constantFrom(...Object.keys(SHAPES)),
  /** Where it fails; each is tried when there are few. */
  at: fc.array(fc.nat(999), { minLength: 1, maxLength: 3 }),
});

/** Links of an m:n that are deleted have no order. */
const inAnyOrder = (sent: readonly string[]) =>
  sent.map((sql) =>
    sql
      .replaceAll(/[()]/g, '')
      .split(/ where | or /)
      .toSorted()
      .join(' or '),
  );

/** The share of programs that must have these at least: those that never write in several tables find nothing. */
const SHARES = { flushed: 0.7, failed: 0.6, 'lost a race': 0.3, 'several tables': 0.4 };

/** Of fewer programs, shares say little. */
const ENOUGH = 50;

/** Opens one database, and checks one program after the other. */
async function checked(driver: TestDriver, more: Partial<Options>, parameters: fc.Parameters<[unknown]>) {
  const connection = new FaultyConnection();
  // a BEGIN fails too, and Kysely would keep its connection
  const onPool = versioned(resilient(driver.plain as DriverClass)) as never;
  const db = await open(driver, entities, { ...connection.options, driver: onPool, ...more });
  const connected = db.fork().getConnection();
  // planned and flushed once; after that the rows are there again by the same statements
  const seeding = (await db.sent(() => seed(db.fork()))).filter((sql) => !/^(begin|commit)/.test(sql));
  const quote = (name: string) => db.orm.em.getPlatform().quoteIdentifier(name);
  const emptying = [
    `update ${quote('person')} set boss_id = null`,
    ...TABLES.map((table) => `delete from ${quote(table)}`),
  ];
  const reset = async (): Promise<Loaded> => {
    connection.disarm();
    for (const sql of [...emptying, ...seeding]) {
      await connected.execute(sql);
    }
    return load(db.fork());
  };
  const state = async () => {
    const tables: Record<string, string[]> = {};
    for (const table of TABLES) {
      const sql = `select * from ${quote(table)}`;
      const rows = await connected.execute<object[]>(sql);
      tables[table] = rows.map((row) => JSON.stringify(row)).toSorted();
    }
    return tables;
  };
  const seen = new Map<string, number>();
  const see = (event: string) => seen.set(event, (seen.get(event) ?? 0) + 1);

  const property = fc.asyncProperty(program, async ({ steps, shape, at }) => {
    const flush = SHAPES[shape]!;
    const once = await reset();
    const before = await state();
    apply(once, steps);
    connection.arm();
    try {
      await flush(once);
    } catch (error) {
      // MikroORM itself cannot write it, a removed one that is referred to, say: then all of it is as it was
      connection.disarm();
      expect(error).not.toBeInstanceOf(ConcurrentUpdate);
      expect(await state()).toEqual(before);
      return;
    }
    connection.disarm();
    const statements = connection.sent.slice();
    see('flushed');
    const tables = new Set(statements.flatMap((sql) => sql.match(/^(?:update|insert into|delete from) \S+/) ?? []));
    if (tables.size > 1) {
      see('several tables');
    }
    const [after, knows] = [await state(), memory(once)];
    const isTouched = steps.some(({ op }) => op === 'touch');
    expect(wrongRoots(before, after, isTouched).join()).toBe('');
    // MikroORM takes a removed row off those that refer to it, which the next flush writes
    const rest = inAnyOrder(await db.sent(() => once.em.flush()));

    for (const k of new Set(at.map((n) => n % Math.max(statements.length, 1)))) {
      // what a COMMIT that is not the flush's own takes along is discarded, not pending
      if (shape === 'em.begin' && statements[k]?.startsWith('commit')) {
        continue;
      }
      const again = await reset();
      apply(again, steps);
      connection.arm({ at: k, when: 'before', fault });
      const [result] = await Promise.allSettled([flush(again)]);
      connection.disarm();
      const label = `${shape} failed at ${k} of ${statements.join('; ')}`;
      if (result.status === 'fulfilled') {
        continue;
      }
      see('failed');
      expect(await state(), label).toEqual(before);
      await again.em.flush();
      expect(await state(), label).toEqual(after);
      expect(memory(again), label).toEqual(knows);
      expect(inAnyOrder(await db.sent(() => again.em.flush())), label).toEqual(rest);
    }

    await raced(await reset(), steps, flush);
  });

  /** A rival bumps every row: whatever is written conflicts, and is written when the versions are known. */
  const raced = async (mine: Loaded, steps: readonly Step[], flush: (loaded: Loaded) => Promise<void>) => {
    apply(mine, steps);
    for (const table of ['seat', 'profile', 'team', 'org', 'person', 'asset']) {
      const column = quote('version');
      await connected.execute(`update ${quote(table)} set ${column} = ${column} + 10`);
    }
    const before = await state();
    const [result] = await Promise.allSettled([flush(mine)]);
    if (result.status === 'fulfilled') {
      return; // nothing but new rows and links
    }
    expect(result.reason).toBeInstanceOf(ConcurrentUpdate);
    see('lost a race');
    expect(await state()).toEqual(before);
    // a conflict names the rows of one statement; each round looks at those
    for (let error: unknown = result.reason, round = 0; error; round++) {
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      expect(round).toBeLessThan(60);
      for (const { entity, actual } of (error as ConcurrentUpdate).conflicts) {
        (entity as { version: number | null }).version = actual;
      }
      const [next] = await Promise.allSettled([mine.em.flush()]);
      error = next.status === 'rejected' ? next.reason : undefined;
    }
  };

  return { run: await fc.check(property, parameters as never), seen };
}

/**
 * Runs `programs` random programs on one database.
 *
 * MODEL_SEED repeats a run, and with MODEL_PATH the one program that failed. In CI the programs are always the same ones, so
 * that what turns red is what has changed; everywhere else they are new ones each time.
 */
export function relations(driver: TestDriver, programs: number, more: Partial<Options> = {}): void {
  const seedNumber = seedOfRun();
  const path = process.env['MODEL_PATH'];
  const parameters = { numRuns: programs, seed: seedNumber };

  test(
    `${driver.name}: ${programs} random programs with relations, seed ${seedNumber}`,
    { timeout: 300_000 },
    async () => {
      console.log(`${driver.name}: MODEL_SEED=${seedNumber} repeats this run`);
      const { run, seen } = await checked(driver, more, { ...parameters, ...(path && { path }) });
      if (run.failed) {
        throw new Error(
          `MODEL_SEED=${seedNumber} MODEL_PATH=${run.counterexamplePath} repeats it (found after ${run.numRuns} programs, ` +
            `shrunk ${run.numShrinks} times): ${JSON.stringify(run.counterexample)}\n\n${(run.errorInstance as Error).message}`,
          { cause: run.errorInstance },
        );
      }
      console.log(`programs: ${[...seen].map(([event, count]) => `${event} ${count}`).join(', ')}`);
      for (const [event, share] of path || programs < ENOUGH ? [] : Object.entries(SHARES)) {
        expect((seen.get(event) ?? 0) / programs, `share of programs with ${event}`).toBeGreaterThan(share);
      }
    },
  );

  test(`${driver.name}: programs find roots that nobody bumps`, async () => {
    const withoutParts = declaredAs(() => ({}));
    const { run } = await checked(driver, { ...more, ...withoutParts }, { ...parameters, endOnFailure: true });
    expect((run.errorInstance as Error).message).toContain('was bumped 0 times');
  });
}
