/**
 * Side by side: every contender does the job once per round, in turn, so that whatever the machine does meanwhile hits all
 * of them alike. Each sample is taken by Tinybench; what is compared are medians.
 */
import { Bench } from 'tinybench';

export interface Task {
  readonly name: string;
  /** Everything that is not timed; returns what is. */
  prepare(round: number): Promise<() => Promise<unknown>>;
}

export interface Timing {
  /** Milliseconds. */
  readonly median: number;
  readonly samples: number;
}

export type Timings = ReadonlyMap<string, Timing>;

export interface Plan {
  /** Rounds at most, and at least. */
  readonly rounds: readonly [most: number, least: number];
  /** Milliseconds after which a contender sits out the rest of the rounds. */
  readonly budget: number;
}

/** Rounds that only warm up. */
const WARM_UP = 0.2;

export async function measure(tasks: readonly Task[], plan: Plan): Promise<Timings> {
  const samples = new Map(tasks.map((task) => [task.name, [] as number[]]));
  const spent = new Map<string, number>();
  const [most, least] = plan.rounds;
  for (let round = 0; round < most; round++) {
    // whoever comes first has the caches of the one before
    const order = tasks.map((_, i) => tasks[(i + round) % tasks.length]!);
    for (const { name, prepare } of order) {
      if (round >= least && spent.get(name)! > plan.budget) {
        continue;
      }
      const start = performance.now();
      samples.get(name)!.push(await sample(name, await prepare(round)));
      spent.set(name, (spent.get(name) ?? 0) + performance.now() - start);
    }
  }
  return new Map(
    [...samples].map(([name, all]) => {
      const kept = all.slice(Math.ceil(all.length * WARM_UP));
      return [name, { median: median(kept), samples: kept.length }];
    }),
  );
}

async function sample(name: string, work: () => Promise<unknown>): Promise<number> {
  const bench = new Bench({ iterations: 1, time: 0, warmup: false, throws: true });
  bench.add(name, work, { async: true });
  const [task] = await bench.run();
  const { result } = task!;
  if (result.state !== 'completed') {
    throw new Error(`${name} ended as ${result.state}`);
  }
  return result.latency.mean;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
