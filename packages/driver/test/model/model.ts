/**
 * Random programs against an oracle: whatever two EntityManagers and a rival do in whatever order, a flush succeeds,
 * conflicts and leaves the database and memory exactly as a few lines of plain data say.
 */
import type { Options } from '@mikro-orm/core';
import { verifiedIn } from '@mikro-ool/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { declaredAs } from './declared-as.ts';
import { seedOfRun } from './seed.ts';
import { type TestDriver, open } from '../harness.ts';
import { COMMANDS, type Command, DRAWN, Disagreement, World, Writes, entities } from './program.ts';

/** How often a command is drawn; 0: never. */
const WEIGHTS: Record<keyof typeof COMMANDS, number> = {
  load: 14,
  reload: 4,
  remember: 4,
  recall: 5,
  findOne: 4,
  reference: 2,
  change: 16,
  count: 4,
  changeAll: 6,
  changeBack: 2,
  moveSlug: 3,
  touch: 4,
  verify: 5,
  claim: 3,
  create: 4,
  remove: 4,
  refresh: 4,
  retry: 8,
  flush: 16,
  abort: 3,
  clear: 1,
  lock: 2,
  begin: 3,
  commit: 3,
  rollback: 3,
  transactional: 3,
  leave: 3,
  throw: 2,
  nativeUpdate: 2,
  nativeDelete: 1,
  upsert: 2,
  rivalUpdate: 12,
  rivalDelete: 2,
  rivalCreate: 2,
};

/** A flush verifies, or changes only what no version covers; a rival meets the guard. */
const COVERS = { verified: 0.1, uncovered: 0.05, guarded: 0.03 };

/** The share of programs that must have these at least: programs that never conflict find nothing. */
const SHARES = {
  success: 0.5,
  ConcurrentUpdate: 0.25,
  batch: 0.25,
  rollback: 0.1,
  'success after a conflict': 0.1,
  ...COVERS,
};

/** Of fewer programs, shares say little. */
const ENOUGH = 300;

const op = fc.oneof(
  ...Object.entries(WEIGHTS).map(([name, weight]) => ({ weight, arbitrary: fc.constant(name as Command['op']) })),
);
const command: fc.Arbitrary<Command> = fc.record({ op, em: fc.constantFrom(0, 1), n: fc.nat(99), m: fc.nat(99) });
const LOAD_ALL = ([0, 1] as const).map((em): Command => ({ op: 'load', em, n: 0, m: 0 }));
const LOAD_TALLIES = LOAD_ALL.map((load): Command => ({ ...load, m: DRAWN.indexOf('tally') }));

/** Most programs start with all items in both EntityManagers, some with all tallies, too. */
const program = fc.record({
  start: fc.nat(9),
  steps: fc.array(command, { minLength: 1, maxLength: 50, size: 'max' }),
});

/** A guard is a trigger of a dialect, and is refused where there is none. */
const WITHOUT_GUARDS = declaredAs(({ exclude }) => ({ exclude }));

/** What is said and not done, by kind: programs find each of them. */
const BREAKS: Record<string, Partial<Options>> = {
  'a guard that is not there': WITHOUT_GUARDS,
  'excluded columns that count': declaredAs(({ guard }) => ({ guard })),
  'verified rows that nobody looks at': { subscribers: [{ onFlush: ({ uow }) => void verifiedIn(uow)?.clear() }] },
};

/** Opens one database, and checks one program after the other. */
async function checked(driver: TestDriver, more: Partial<Options>, parameters: fc.Parameters<[unknown]>) {
  const writes = new Writes();
  const db = await open(driver, entities, { ...more, ...writes.options });
  const seen = new Map<string, number>();
  let commands = 0;
  const property = fc.asyncProperty(program, async ({ start, steps }) => {
    const world = new World(db, driver, writes);
    await world.reset();
    try {
      await world.run([...(start > 0 ? LOAD_ALL : []), ...(start > 6 ? LOAD_TALLIES : []), ...steps]);
    } catch (error) {
      throw new Error(`${world.lines.join('\n')}\n${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    } finally {
      await world.close();
    }
    commands += world.lines.length;
    world.events.forEach((event) => seen.set(event, (seen.get(event) ?? 0) + 1));
  });
  return { run: await fc.check(property, parameters as never), seen, commands };
}

/**
 * Runs `programs` random programs on one database.
 *
 * MODEL_SEED repeats a run, and with MODEL_PATH the one program that failed. In CI the programs are always the same ones, so
 * that what turns red is what has changed; everywhere else they are new ones each time.
 */
export function model(driver: TestDriver, programs: number, more: Partial<Options> = {}): void {
  const seed = seedOfRun();
  const path = process.env['MODEL_PATH'];

  test(`${driver.name}: ${programs} random programs, seed ${seed}`, { timeout: 300_000 }, async () => {
    console.log(`${driver.name}: MODEL_SEED=${seed} repeats this run`);
    const options = { ...(!driver.batches && WITHOUT_GUARDS), ...more };
    const { run, seen, commands } = await checked(driver, options, { numRuns: programs, seed, ...(path && { path }) });
    if (run.failed) {
      throw new Error(
        `MODEL_SEED=${seed} MODEL_PATH=${run.counterexamplePath} repeats it (found after ${run.numRuns} programs, ` +
          `shrunk ${run.numShrinks} times):\n\n${(run.errorInstance as Error).message}`,
        { cause: run.errorInstance },
      );
    }
    const counts = [...seen].toSorted((a, b) => b[1] - a[1]).map(([event, count]) => `${event} ${count}`);
    console.log(`${Math.round(commands / programs)} commands per program; programs with: ${counts.join(', ')}`);
    const { guarded, ...others } = SHARES;
    const shares = { ...others, ...(driver.batches && { guarded }) };
    for (const [event, share] of path || programs < ENOUGH ? [] : Object.entries(shares)) {
      expect((seen.get(event) ?? 0) / programs, `share of programs with ${event}`).toBeGreaterThan(share);
    }
  });

  test.each(driver.batches ? Object.entries(BREAKS) : [])(`${driver.name}: programs find %s`, async (_, broken) => {
    const parameters = { numRuns: programs, seed, endOnFailure: true };
    const { run } = await checked(driver, { ...more, ...broken }, parameters);
    expect((run.errorInstance as Error).cause).toBeInstanceOf(Disagreement);
  });
}
