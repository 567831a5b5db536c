/** One run: a server, workers behind a proxy, a saboteur, and in the end the verdict. Whatever happens, nothing is left running. */
import { type ChildProcess, fork } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { type Finding, findAnomalies } from './anomalies.ts';
import { type Verdict, check } from './checker.ts';
import { SQL, type Session, openSession } from './control.ts';
import { excuseOf } from './excuses.ts';
import { type HistoryRecord, type Seen, type Write, readHistory } from './history.ts';
import { type DatabaseKind, type Plan, SETUP, TOTALS, connect, createTables } from './model.ts';
import { DEADLOCK, SERIALISATION, isStrict } from './outcome.ts';
import { type Proxy, startProxy } from './proxy.ts';
import { Chance } from './random.ts';
import { type Fault, SESSIONS, Saboteur, faultsOf } from './saboteur.ts';
import { type Target, createTarget } from './servers.ts';
import { type Tally, sumOf } from './work.ts';
import type { WorkerConfig, WorkerReport } from './worker.ts';

/** What is known while it runs. */
export interface Progress {
  readonly secondsLeft: number;
  readonly tally: Tally;
  readonly faults: Readonly<Record<Fault, number>>;
}

export interface Result {
  readonly plan: Plan;
  readonly seconds: number;
  readonly faults: Readonly<Record<Fault, number>>;
  readonly verdict: Verdict;
  readonly anomalies: readonly Finding[];
  /** Connections that were not given back, where a worker has ended by itself, and workers that ran out of them. */
  readonly leakedConnections: number;
  readonly starvedWorkers: number;
  /** What the server still had when the workers were gone. */
  readonly openTransactions: number;
  readonly openSessions: number;
  /** What should not have happened at all: crashes of workers. */
  readonly accidents: readonly string[];
  readonly isGood: boolean;
}

const STOPPING = 45_000;
/** For kinds of faults that have not happened by then. */
const OVERTIME = 60_000;

type Urls = Pick<WorkerConfig, 'url' | 'replicas'>;

/** The workers, each of which is replaced when it ends before its time. */
class Crew {
  readonly files: string[] = [];
  readonly accidents: string[] = [];
  leaked = 0;
  starved = 0;
  readonly #plan: Plan;
  readonly #urls: (session: string) => Urls;
  readonly #directory: string;
  readonly #children = new Map<string, ChildProcess>();
  readonly #tallies = new Map<string, Tally>();
  #hired = 0;
  #isStopping = false;

  constructor(plan: Plan, urls: (session: string) => Urls, directory: string) {
    this.#plan = plan;
    this.#urls = urls;
    this.#directory = directory;
    SESSIONS.forEach((session) => this.#hire(session));
    process.once('exit', this.killAll);
  }

  tally(): Tally {
    return sumOf(this.#tallies.values());
  }

  #hire(session: string): void {
    const name = `${session}-${++this.#hired}`;
    const { database, cluster, lock, seed } = this.#plan;
    const file = join(this.#directory, `${name}.jsonl`);
    writeFileSync(file, '');
    this.files.push(file);
    const config: WorkerConfig = {
      ...{ name, session, database, lock, file },
      ...this.#urls(session),
      seed: seed + 1000 * this.#hired,
      // a node that was put out answers nothing useful until it is back, nor does a primary until it is replaced
      patience: { galera: 30_000, standby: 15_000, 'standby-async': 15_000, none: 5000 }[cluster ?? 'none'],
    };
    const child = fork(join(import.meta.dirname, 'worker.ts'), [JSON.stringify(config)], {
      execArgv: [],
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#children.set(session, child);
    let errors = '';
    child.stderr!.on('data', (data) => (errors = `${errors}${String(data)}`.slice(0, 2000)));
    let state: WorkerReport['state'] = 'working';
    child.on('message', (report: WorkerReport) => {
      ({ state } = report);
      this.#tallies.set(name, report.tally);
      if (state !== 'working') {
        this.leaked += report.checkedOut;
      }
      this.starved += state === 'starved' ? 1 : 0;
    });
    child.once('exit', (code, signal) => {
      if (this.#children.get(session) === child) {
        this.#children.delete(session);
      }
      if (code !== 0 && signal !== 'SIGKILL') {
        this.accidents.push(`${name} ended with ${code ?? signal}: ${errors}`);
      }
      if (!this.#isStopping) {
        this.#hire(session);
      }
    });
  }

  kill(session: string): boolean {
    return this.#children.get(session)?.kill('SIGKILL') ?? false;
  }

  readonly killAll = (): void => {
    this.#isStopping = true;
    this.#children.forEach((child) => child.kill('SIGKILL'));
  };

  /** Lets them finish what they are doing. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    this.#children.forEach((child) => child.connected && child.send('stop'));
    const deadline = Date.now() + STOPPING;
    while (this.#children.size > 0 && Date.now() < deadline) {
      await wait(50);
    }
    if (this.#children.size > 0) {
      this.starved += this.#children.size;
      this.killAll();
    }
    process.removeListener('exit', this.killAll);
  }
}

/** Each worker has its node. */
function nodeOf(session: string, nodes: number): number {
  return SESSIONS.indexOf(session) % nodes;
}

export async function run(plan: Plan, show: (progress: Progress) => void = () => {}): Promise<Result> {
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-chaos-history-'));
  const forget = () => rmSync(directory, { recursive: true, force: true });
  process.once('exit', forget);
  let target: Target | undefined;
  const proxies: Proxy[] = [];
  let crew: Crew | undefined;
  try {
    target = await createTarget(plan);
    const { writers, replicas } = target;
    await prepare(plan, target);
    for (const node of [...writers, ...replicas]) {
      proxies.push(await startProxy(node));
    }
    const urlsOf = (session: string): Urls => {
      const which = nodeOf(session, writers.length);
      return {
        url: writers[which]!.url(proxies[which]!.port, session),
        replicas: replicas.map((replica, i) => replica.url(proxies[writers.length + i]!.port, session)),
      };
    };
    const started = Date.now();
    crew = new Crew(plan, urlsOf, directory);
    const faults = await sabotage(plan, target, proxies, crew, show);
    await crew.stop();
    const seconds = Math.round((Date.now() - started) / 1000);
    return await judge(plan, target, crew, directory, faults, seconds);
  } finally {
    crew?.killAll();
    proxies.forEach((proxy) => proxy.stop());
    await target?.dispose();
    process.removeListener('exit', forget);
    forget();
  }
}

async function prepare({ database, lock }: Plan, { writers: [server], whole }: Target): Promise<void> {
  const orm = await connect(database, lock, server.url(server.port), 'setup', 2);
  try {
    await orm.schema.ensureDatabase();
    await createTables(orm, database);
    await whole();
  } finally {
    await orm.close();
  }
}

async function sabotage(
  plan: Plan,
  target: Target,
  proxies: readonly Proxy[],
  crew: Crew,
  show: (progress: Progress) => void,
): Promise<Record<Fault, number>> {
  const { seed, minutes } = plan;
  const all = faultsOf(plan);
  const saboteur = new Saboteur(target, plan, proxies, (session) => crew.kill(session), new Chance(seed));
  const end = Date.now() + minutes * 60_000;
  const faults = () => {
    const { deadlocks, serialisationFailures } = crew.tally();
    const { deadlock, ...others } = saboteur.faults;
    return { ...others, deadlock: deadlock + deadlocks, 'serialisation failure': serialisationFailures };
  };
  const clock = setInterval(() => {
    const secondsLeft = Math.max(0, Math.round((end - Date.now()) / 1000));
    show({ secondsLeft, tally: crew.tally(), faults: faults() });
  }, 200);
  try {
    await saboteur.run(() => {
      const seen = faults();
      const left = Date.now() < end ? all : all.filter((fault) => seen[fault] === 0);
      return Date.now() < end + OVERTIME ? left : [];
    });
    return saboteur.faults;
  } finally {
    clearInterval(clock);
  }
}

async function judge(
  plan: Plan,
  { writers, replicas, whole }: Target,
  crew: Crew,
  directory: string,
  injected: Readonly<Record<Fault, number>>,
  seconds: number,
): Promise<Result> {
  const { database } = plan;
  await whole();
  const sessions = await Promise.all(
    [...writers, ...replicas].map(({ url, port }) => openSession(database, url(port))),
  );
  let isGood = false;
  try {
    const sql = SQL[database];
    const openTransactions = await settled(sessions, sql.transactions);
    const openSessions = await settled(sessions, sql.sessions);
    const file = join(directory, 'database.jsonl');
    await dump(sessions, database, file);
    const history = [...readHistory([file, ...crew.files])];
    const verdict = check(history);
    // what an attempt is called begins with the session of its worker
    const anomalies = findAnomalies(history, (attempt) => nodeOf(attempt.split('-')[0]!, writers.length));
    const broken = [...verdict.violations, ...anomalies].filter(({ kind }) => excuseOf(kind, plan) === undefined);
    const seen = (pattern: RegExp) => {
      return [...verdict.errors].filter(([label]) => pattern.test(label)).reduce((sum, [, n]) => sum + n, 0);
    };
    const faults = {
      ...injected,
      deadlock: injected.deadlock + seen(DEADLOCK),
      'serialisation failure': seen(SERIALISATION),
    };
    const { accidents, leaked: leakedConnections, starved: starvedWorkers } = crew;
    const leaks =
      openTransactions + openSessions + (isStrict(database, plan.lock) ? leakedConnections + starvedWorkers : 0);
    isGood = broken.length + accidents.length + leaks === 0;
    return {
      ...{ plan, seconds, faults, verdict, anomalies, leakedConnections, starvedWorkers },
      ...{ openTransactions, openSessions, accidents, isGood },
    };
  } finally {
    await Promise.all(sessions.map((session) => session.end()));
    keep(directory, !isGood && plan.lock === 'mikro-ool');
  }
}

/** How many there are, when the server has noticed that its clients are gone. */
async function settled(sessions: readonly Session[], sql: string): Promise<number> {
  const deadline = Date.now() + 15_000;
  for (;;) {
    const { length } = (await Promise.all(sessions.map((session) => session.query(sql)))).flat();
    if (length === 0 || Date.now() > deadline) {
      return length;
    }
    await wait(50);
  }
}

interface Row {
  readonly id: number;
  readonly incarnation: number;
  readonly version: number;
  readonly balance: number;
}

/** All rows, as the journal has them. */
const ROWS = `select id, incarnation, version, balance from account
  union all select id, 1, version, (select count(*) from line where sale_id = sale.id) from sale
  union all select id, 1, version, on_call from doctor
  union all select id, 1, version, quantity from stock`;

async function dump(nodes: readonly Session[], database: DatabaseKind, file: string): Promise<void> {
  const rowsOf = async (node: Session) =>
    (await node.query<Record<keyof Row, number | string>>(ROWS)).map((row): Row => ({
      id: Number(row.id),
      incarnation: Number(row.incarnation),
      version: Number(row.version),
      balance: Number(row.balance),
    }));
  const elsewhere = async (node: Session, i: number) => {
    const [lines] = await node.query<{ n: number | string }>('select count(*) as n from journal');
    const rows = (await rowsOf(node)).map((row): Seen => [row.id, row.incarnation, row.version, row.balance]);
    return { type: 'elsewhere' as const, node: i + 2, rows, lines: Number(lines!.n) };
  };
  const [first, ...others] = nodes as [Session, ...Session[]];
  const rows = await rowsOf(first);
  const journal = await first.query<Write & { attempt: string }>(SQL[database].journal);
  const writes: Write[] = journal.filter(({ attempt }) => attempt === SETUP);
  const records: HistoryRecord[] = [
    ...TOTALS.map((total) => ({ type: 'total' as const, ...total })),
    ...rows.map(({ id, ...row }) => ({ type: 'row' as const, account: id, ...row })),
    ...journal.map((line) => ({ type: 'journal' as const, ...line })),
    ...(await Promise.all(others.map(elsewhere))),
    { type: 'intent', attempt: SETUP, writes },
    { type: 'end', attempt: SETUP, outcome: 'success' },
  ];
  writeFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(''));
}

/** CHAOS_HISTORY names a directory where the history of a run is kept; one that nobody expected is kept anyway. */
function keep(directory: string, isWanted: boolean): void {
  const target = process.env.CHAOS_HISTORY ?? (isWanted && mkdtempSync(join(tmpdir(), 'mikro-ool-chaos-kept-')));
  if (target) {
    console.warn(`The history is in ${target}.`);
    mkdirSync(target, { recursive: true });
    for (const name of readdirSync(directory)) {
      copyFileSync(join(directory, name), join(target, name));
    }
  }
}
