/**
 * Where the time of a job goes, by package, and of ours by room. Only samples that were taken during the job count, not
 * those of what prepares it; the profiler slows everything down, so compare shares, and leave the times to the benchmark.
 */
import { type Profiler, Session } from 'node:inspector/promises';
import { markdownTable } from 'markdown-table';
import type { Task } from './measure.ts';

/** Microseconds of a round by place. */
type Places = ReadonlyMap<string, number>;

/** A round, from when its job began until it was done. */
interface Window {
  readonly from: number;
  readonly to: number;
}

/** Microseconds between two samples. */
const INTERVAL = 100;
/** The compilers of V8 are through with most of it by then. */
const WARM_UP = 1000;
const ROUNDS = 1000;

const PLACES: readonly (readonly [place: RegExp, name: (found: RegExpExecArray) => string])[] = [
  [/\/packages\/driver\/src\/(\w+)\//, ([, room]) => `mikro-ool: ${room}/`],
  [/\/packages\/driver\/src\//, () => 'mikro-ool: versioned.ts and the files beside it'],
  [/\/packages\/(\w+)\/src\//, ([, name]) => `mikro-ool: @mikro-ool/${name}`],
  [/\/node_modules\/@mikro-orm\//, () => 'MikroORM'],
  [/\/node_modules\/kysely\//, () => 'Kysely'],
  [/\/node_modules\/better-sqlite3\//, () => 'SQLite'],
  [/\/node_modules\/pg[\w-]*\//, () => 'client of PostgreSQL'],
  [/\/bench\//, () => 'the benchmark'],
];

const NATIVE: Record<string, string> = {
  '(garbage collector)': 'garbage collection',
  '(idle)': 'waiting',
  '(program)': 'V8',
};

/** What is built into the engine, or compiled, counts for the one who calls it. */
function placesOf(nodes: readonly Profiler.ProfileNode[]): ReadonlyMap<number, string> {
  const places = new Map<number, string>();
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const name = (node: Profiler.ProfileNode, caller: string) => {
    const place = placeOf(node.callFrame) ?? caller;
    places.set(node.id, place);
    node.children?.forEach((id) => name(byId.get(id)!, place));
  };
  name(nodes[0]!, 'the benchmark');
  return places;
}

function placeOf({ url, functionName }: { url: string; functionName: string }): string | undefined {
  for (const [place, name] of PLACES) {
    const found = place.exec(url);
    if (found) {
      return name(found);
    }
  }
  return NATIVE[functionName];
}

/** A job of several contenders: a column for each, in microseconds of a round and in percent of it. */
export async function profileTable(title: string, tasks: readonly Task[]): Promise<string> {
  const profiles = new Map<string, Places>();
  for (const task of tasks) {
    profiles.set(task.name, await profile(task));
  }
  const places = [...new Set([...profiles.values()].flatMap((found) => [...found.keys()]))].toSorted();
  const totals = [...profiles.values()].map((found) => [...found.values()].reduce((sum, value) => sum + value, 0));
  const cells = (place: string) =>
    [...profiles.values()].map((found, i) => {
      const value = found.get(place);
      return value === undefined ? '' : `${Math.round(value)} (${Math.round((100 * value) / totals[i]!)} %)`;
    });
  const lines = places.map((place) => [place, ...cells(place)]);
  const rows = [
    ['µs per round', ...profiles.keys()],
    ...lines,
    ['all of it', ...totals.map((total) => String(Math.round(total)))],
  ];
  return `### ${title}\n\n${markdownTable(rows, { align: ['l', ...totals.map(() => 'r')] })}\n`;
}

async function profile({ prepare }: Task): Promise<Places> {
  const session = new Session();
  session.connect();
  for (let round = 0; round < WARM_UP; round++) {
    await (
      await prepare(round)
    )();
  }
  await session.post('Profiler.enable');
  await session.post('Profiler.setSamplingInterval', { interval: INTERVAL });
  await session.post('Profiler.start');
  const windows: Window[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const work = await prepare(round);
    const from = now();
    await work();
    windows.push({ from, to: now() });
  }
  const { profile: found } = await session.post('Profiler.stop');
  session.disconnect();
  return within(windows, found);
}

/** The profiler's clock. */
function now(): number {
  return Number(process.hrtime.bigint() / 1000n);
}

/** What the samples taken within these windows say. */
function within(windows: readonly Window[], { nodes, samples, timeDeltas, startTime }: Profiler.Profile): Places {
  const places = placesOf(nodes);
  const spent = new Map<string, number>();
  let time = startTime;
  let next = 0;
  samples!.forEach((id, i) => {
    time += timeDeltas![i]!;
    while (next < windows.length && windows[next]!.to < time) {
      next++;
    }
    if (next < windows.length && windows[next]!.from <= time) {
      const place = places.get(id)!;
      spent.set(place, (spent.get(place) ?? 0) + timeDeltas![i]! / windows.length);
    }
  });
  return spent;
}
