/** What a run was like: a table for the terminal and for results/*.md, where both locks stand beside each other. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { markdownTable } from 'markdown-table';
import { ANOMALIES, type Anomaly } from './anomalies.ts';
import { VIOLATIONS, type Violation } from './checker.ts';
import { excuseOf } from './excuses.ts';
import type { Cluster, DatabaseKind, Lock, Plan } from './model.ts';
import type { Result } from './run.ts';
import { type Fault, faultsOf } from './saboteur.ts';

const DIRECTORY = new URL('./results/', import.meta.url);
const TITLES = {
  'mikro-ool': 'mikro-ool',
  undeclared: 'mikro-ool, nothing declared',
  'version-true': 'MikroORM, `version: true`',
};
export const DATABASES = { postgresql: 'PostgreSQL', mariadb: 'MariaDB' };
const CLUSTER_TITLES: Readonly<Record<Cluster, string>> = {
  galera: 'Galera, three nodes of MariaDB',
  standby: 'PostgreSQL and its hot standby, synchronous replication',
  'standby-async': 'PostgreSQL and its hot standby, asynchronous replication',
};

/** What a run is against, for people. */
export function titleOf({ database, cluster }: Pick<Plan, 'database' | 'cluster'>): string {
  return cluster ? CLUSTER_TITLES[cluster] : DATABASES[database];
}

const EXAMPLES = 5;

/** What the work brings about as well, and often: it must not hide how few of the others there are. */
const BY_RACES: readonly Fault[] = ['deadlock', 'serialisation failure'];

const NAMES = Object.keys(ANOMALIES) as Anomaly[];

/** With why it is no violation, where it is none: rows that the work only reads, for example, it does not verify. */
function nameOf(kind: Violation | Anomaly, plan: Plan): string {
  const name = kind in VIOLATIONS ? VIOLATIONS[kind as Violation] : `anomaly ${kind}`;
  const excuse = excuseOf(kind, plan);
  return excuse ? `${name} (${excuse})` : name;
}

/** The numbers of a run, as they are kept. */
interface Summary {
  readonly lock: Lock;
  readonly rows: Readonly<Record<string, number | string>>;
  readonly errors: Readonly<Record<string, number>>;
  readonly examples: readonly string[];
}

export function summarise({ plan, seconds, verdict, anomalies, faults, ...rest }: Result): Summary {
  const { outcomes, unknownCommitted, violations, errors, writes, writesOf, reads } = verdict;
  const ofKind = (kind: Violation) => violations.filter((violation) => violation.kind === kind);
  const kinds = Object.keys(VIOLATIONS) as Violation[];
  const all = faultsOf(plan);
  const count = (kinds: readonly Fault[]) => kinds.reduce((sum, fault) => sum + faults[fault], 0);
  return {
    lock: plan.lock,
    rows: {
      MikroORM: versionOf(plan.database),
      seconds: seconds,
      seed: plan.seed,
      'reported as saved': outcomes.success,
      'reported as not saved': outcomes.failure,
      'reported as unknown, or killed before a report': outcomes.unknown + outcomes.killed,
      '… of these, in the database': unknownCommitted,
      'versions written': writes,
      '… of orders, whose lines change': writesOf.sale,
      '… of doctors, going off call and back': writesOf.doctor,
      '… of stock, by the ORM': writesOf.stock,
      '… of stock, past it': writesOf.raw,
      'rows read': reads,
      '**faults**': count(all),
      '… of these, without deadlocks and serialisation failures': count(
        all.filter((fault) => !BY_RACES.includes(fault)),
      ),
      ...Object.fromEntries(all.map((fault) => [fault, faults[fault]])),
      '**violations**': violations.filter(({ kind }) => !excuseOf(kind, plan)).length,
      ...Object.fromEntries(kinds.map((kind) => [nameOf(kind, plan), ofKind(kind).length])),
      ...Object.fromEntries(
        NAMES.map((name) => [nameOf(name, plan), anomalies.filter(({ kind }) => kind === name).length]),
      ),
      'transactions left open on the server': rest.openTransactions,
      'sessions left open on the server': rest.openSessions,
      'connections that did not come back to their pool': rest.leakedConnections,
      'workers that had no connection left, and were replaced': rest.starvedWorkers,
      'crashes of workers': rest.accidents.length,
    },
    errors: Object.fromEntries([...errors].toSorted(([, a], [, b]) => b - a)),
    examples: [
      ...kinds.flatMap((kind) => ofKind(kind).slice(0, EXAMPLES)),
      ...NAMES.flatMap((name) => anomalies.filter(({ kind }) => kind === name).slice(0, EXAMPLES)),
    ].map(({ text }) => text),
  };
}

/** Of the driver: its core is the newest that there was. */
function versionOf(database: DatabaseKind): string {
  const manifest = readFileSync(new URL(import.meta.resolve(`@mikro-orm/${database}/package.json`)), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

/** One column for each lock. */
export function table(summaries: readonly Summary[]): string {
  const [first] = summaries as [Summary];
  const lines = Object.keys(first.rows).map((row) => [row, ...summaries.map(({ rows }) => String(rows[row] ?? ''))]);
  return render(['', ...summaries.map(({ lock }) => TITLES[lock])], lines);
}

export function errorTable(summaries: readonly Summary[]): string {
  const labels = new Set(summaries.flatMap(({ errors }) => Object.keys(errors)));
  const lines = [...labels].map((label) => [label, ...summaries.map(({ errors }) => String(errors[label] ?? 0))]);
  return render(['what workers were told', ...summaries.map(({ lock }) => TITLES[lock])], lines);
}

function render(head: string[], lines: string[][]): string {
  return markdownTable([head, ...lines], { align: ['l', ...head.slice(1).map(() => 'r')] });
}

/** Keeps the numbers, and puts them beside those of the last run with the other lock. */
export function writeResult(plan: Plan, summary: Summary): void {
  const name = plan.cluster ?? plan.database;
  mkdirSync(DIRECTORY, { recursive: true });
  const file = (lock: Lock) => new URL(`${name}-${lock}.json`, DIRECTORY);
  writeFileSync(file(summary.lock), `${JSON.stringify(summary, null, 2)}\n`);
  const summaries = (Object.keys(TITLES) as Lock[])
    .filter((lock) => existsSync(file(lock)))
    .map((lock) => JSON.parse(readFileSync(file(lock), 'utf8')) as Summary);
  const examples = summaries.flatMap(({ lock, examples }) => [
    `\n### ${TITLES[lock]}: what the checker says\n`,
    ...(examples.length > 0 ? examples.map((text) => `- ${text}`) : ['Nothing.']),
  ]);
  writeFileSync(
    new URL(`${name}.md`, DIRECTORY),
    `## ${titleOf(plan)}\n\n${table(summaries)}\n\n${errorTable(summaries)}\n${examples.join('\n')}\n`,
  );
}
