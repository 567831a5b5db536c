/**
 * `npx pnpm chaos`: workers that transfer money between accounts while everything that can fail does, and a checker that
 * says whether something was lost.
 */
import { randomInt } from 'node:crypto';
import ora from 'ora';
import { endWithReader, readOptions, refuse } from '../tools/command-line.ts';
import { CLUSTERS, type Cluster, type DatabaseKind, type Lock, type Plan } from './model.ts';
import { DATABASES, errorTable, summarise, table, titleOf, writeResult } from './report.ts';
import { type Progress, run } from './run.ts';

const KEPT_FROM_MINUTES = 10;
const USAGE = `Usage: npx pnpm chaos [options]

Writers of the same rows while everything fails, on a server that is started for it; then a checker says what was lost.

  --minutes <n>       how long (1); from ${KEPT_FROM_MINUTES} on, the result is kept in chaos/results
  --seed <n>          what is done and broken (chance)
  --database <name>   postgresql (without), or mariadb
  --cluster <name>    galera: writers on all of its nodes, each of which fails in turn
                      standby: a PostgreSQL, and a hot standby that is read, and takes over; synchronous
                      standby-async: the same without waiting for the standby, which the engine pays for with commits
  --lock <name>       mikro-ool (without), or version-true, which is MikroORM's own
                      undeclared: mikro-ool without aggregate, guard and verify()
  --help              this text

CHAOS_HISTORY names a directory where the files that the checker reads are kept; those of a run that went wrong are kept
anyway.`;

const values = readOptions(USAGE, {
  minutes: { type: 'string', default: '1' },
  seed: { type: 'string', default: String(randomInt(2 ** 31)) },
  database: { type: 'string', default: 'postgresql' },
  cluster: { type: 'string' },
  lock: { type: 'string', default: 'mikro-ool' },
});
endWithReader();

function planOf(): Plan {
  const [minutes, seed] = [Number(values.minutes), Number(values.seed)];
  if (!(values.database in DATABASES)) {
    refuse(`There is no database "${values.database}".`, USAGE);
  }
  if (values.cluster !== undefined && !(values.cluster in CLUSTERS)) {
    refuse(`There is no cluster "${values.cluster}".`, USAGE);
  }
  if (!['mikro-ool', 'undeclared', 'version-true'].includes(values.lock)) {
    refuse(`There is no lock "${values.lock}".`, USAGE);
  }
  if (!(minutes > 0) || !Number.isInteger(seed)) {
    refuse('Minutes are more than 0, and a seed is an integer.', USAGE);
  }
  const cluster = values.cluster as Cluster | undefined;
  const target = cluster ? { database: CLUSTERS[cluster], cluster } : { database: values.database as DatabaseKind };
  return { minutes, seed, ...target, lock: values.lock as Lock };
}

function describe({ secondsLeft, tally, faults }: Progress): string {
  const time = `${Math.floor(secondsLeft / 60)}:${String(secondsLeft % 60).padStart(2, '0')} left`;
  const injected = Object.values(faults).reduce((sum, n) => sum + n, 0);
  const { success, conflicts, failure, unknown } = tally;
  return `${time} | ${success} saved, ${conflicts} conflicts, ${failure} failed, ${unknown} unknown | ${injected} faults`;
}

// what runs is ended by handlers of "exit"
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(130));
}

const plan = planOf();
console.log(`${titleOf(plan)}, ${plan.lock}, ${plan.minutes} min, --seed ${plan.seed}`);
const spinner = ora();
let printed = Number.POSITIVE_INFINITY;
const result = await run(plan, (progress) => {
  if (process.stderr.isTTY) {
    spinner.start(describe(progress));
  } else if (printed - progress.secondsLeft >= 30) {
    console.error(describe(progress));
    printed = progress.secondsLeft;
  }
}).finally(() => spinner.stop());
const summary = summarise(result);
console.log(`${table([summary])}\n\n${errorTable([summary])}\n`);
for (const line of [...summary.examples, ...result.accidents]) {
  console.log(`- ${line}`);
}
if (plan.minutes >= KEPT_FROM_MINUTES) {
  writeResult(plan, summary);
}
const isWhole = result.verdict.violations.length === 0;
const verdict = isWhole ? 'Nothing was lost.' : 'Nothing was lost but what the engine allows: see above.';
console.log(result.isGood ? verdict : 'Something went wrong: see above.');
process.exit(result.isGood ? 0 : 1);
