/** Does everything to a run that can happen to a service: one fault after the other, each kind once before chance decides. */
import { setTimeout as wait } from 'node:timers/promises';
import { type Session, SQL, openSession } from './control.ts';
import type { Cluster, Plan } from './model.ts';
import { isLossy } from './excuses.ts';
import { DEADLOCK, labelOf } from './outcome.ts';
import type { Proxy } from './proxy.ts';
import type { Chance } from './random.ts';
import { idsOf } from './rows.ts';
import type { NodeFault, Server, Target } from './servers.ts';

/** How often a minute, about. */
const RATES = {
  'session killed': 45,
  'connection cut': 45,
  'answer to COMMIT lost': 25,
  'lock queue filled': 12,
  deadlock: 15,
  'serialisation failure': 20,
  'worker killed': 8,
  'server stopped': 1.5,
  'server killed': 1.5,
  'node paused': 2,
  'node cut off': 2,
  'node held back': 12,
  'standby promoted': 1,
};

/** What the workers are known by, on the server too. */
export const SESSIONS = ['worker1', 'worker2', 'worker3', 'worker4'];

export type Fault = keyof typeof RATES;
export const FAULTS = Object.keys(RATES) as Fault[];

/** The kinds that a run cannot have, … */
const NOT_ALONE: readonly Fault[] = ['node paused', 'node cut off', 'node held back', 'standby promoted'];
const NOT: Readonly<Record<Cluster, readonly Fault[]>> = {
  // … where nodes compare writes at COMMIT, which comes as a deadlock; …
  galera: ['serialisation failure', 'standby promoted'],
  // … where a replica that hears nothing is one that is held back
  standby: ['node cut off'],
  'standby-async': ['node cut off'],
};

/** The kinds that a run can have. */
export function faultsOf({ cluster }: Pick<Plan, 'cluster'>): readonly Fault[] {
  return FAULTS.filter((fault) => !(cluster ? NOT[cluster] : NOT_ALONE).includes(fault));
}

function sumOf(faults: readonly Fault[]): number {
  return faults.reduce((sum, fault) => sum + RATES[fault], 0);
}

export class Saboteur {
  /** What was really done, by kind; deadlocks only those that hit the saboteur itself. */
  readonly faults = Object.fromEntries(FAULTS.map((fault) => [fault, 0])) as Record<Fault, number>;
  readonly #target: Target;
  readonly #plan: Plan;
  readonly #nodes: readonly Server[];
  readonly #proxies: readonly Proxy[];
  readonly #killWorker: (session: string) => boolean;
  readonly #chance: Chance;

  readonly #inject: Record<Fault, () => Promise<void>> = {
    'session killed': () => this.#killSession(),
    'connection cut': async () => this.#cut(),
    'answer to COMMIT lost': async () =>
      this.#chance
        .pick(this.#proxies.slice(0, this.#target.writers.length))
        .loseCommit(() => this.faults['answer to COMMIT lost']++),
    'lock queue filled': () => this.#fillLockQueue(),
    deadlock: () => this.#deadlock(),
    'serialisation failure': () => this.#poke(),
    'worker killed': () => this.#killWorkerThatWrites(),
    'server stopped': () => this.#restart('server stopped', (server) => server.stop()),
    'server killed': () => this.#restart('server killed', (server) => server.kill()),
    'node paused': () => this.#disturb('node paused'),
    'node cut off': () => this.#disturb('node cut off'),
    'node held back': () => this.#disturb('node held back'),
    'standby promoted': () => this.#promote(),
  };

  /** @param proxies in the order of the writers, and then of the replicas */
  constructor(
    target: Target,
    plan: Plan,
    proxies: readonly Proxy[],
    killWorker: (session: string) => boolean,
    chance: Chance,
  ) {
    this.#target = target;
    this.#nodes = [...target.writers, ...target.replicas];
    this.#plan = plan;
    this.#proxies = proxies;
    this.#killWorker = killWorker;
    this.#chance = chance;
  }

  /** @param wanted which kinds are in question now; none: enough is enough */
  async run(wanted: () => readonly Fault[]): Promise<void> {
    const all = faultsOf(this.#plan);
    for (const fault of this.#chance.shuffle(all)) {
      await this.#inject[fault]();
      await wait(this.#chance.between(100, 400));
    }
    const pause = 120_000 / sumOf(all);
    for (let kinds = wanted(); kinds.length > 0; kinds = wanted()) {
      let ticket = (this.#chance.below(10_000) / 10_000) * sumOf(kinds);
      const fault = kinds.find((kind) => (ticket -= RATES[kind]) < 0)!;
      await this.#inject[fault]();
      await wait(this.#chance.between(0, pause));
    }
  }

  /** With a session of its own, past the proxy. */
  async #withSession<Result>(
    use: (session: Session) => Promise<Result>,
    nodes: readonly Server[] = this.#target.writers,
  ): Promise<Result> {
    const { url, port } = this.#chance.pick(nodes);
    const session = await openSession(this.#plan.database, url(port));
    try {
      return await use(session);
    } finally {
      await session.end();
    }
  }

  async #killSession(): Promise<void> {
    const { sessions, kill } = SQL[this.#plan.database];
    await this.#withSession(async (session) => {
      const found = await session.query<{ id: number }>(sessions);
      if (found.length > 0) {
        // it may be gone by now, of which PostgreSQL tells in its answer, and MariaDB by an error
        const answer = session.query<{ done?: boolean }>(kill(this.#chance.pick(found).id));
        const isDone = await answer.then(
          (rows) => rows[0]?.done !== false,
          () => false,
        );
        this.faults['session killed'] += isDone ? 1 : 0;
      }
    }, this.#nodes);
  }

  #cut(): void {
    const direction = this.#chance.pick(['request', 'answer'] as const);
    const bytes = this.#chance.below(this.#chance.percent(50) ? 100 : 4000);
    this.#chance
      .pick(this.#proxies)
      .cut(this.#chance.below(1000), direction, bytes, () => this.faults['connection cut']++);
  }

  /** Holds rows, and puts others into the queue for them, which hold them in turn. */
  async #fillLockQueue(): Promise<void> {
    const rows = this.#chance.shuffle(idsOf('account')).slice(0, 12);
    const hold = this.#chance.between(100, 400);
    const holder = () =>
      this.#withSession(async (session) => {
        await session.query('begin');
        await session.query(`select id from account where id in (${rows.join()}) order by id for update`);
        await wait(hold);
        await session.query('rollback');
      });
    const results = await Promise.allSettled(Array.from({ length: 4 }, holder));
    if (results.some(({ status }) => status === 'fulfilled')) {
      this.faults['lock queue filled']++;
    }
  }

  /** Holds every second row until a worker waits for one, and then wants those that the worker has. */
  async #deadlock(): Promise<void> {
    const { begin, waiting } = SQL[this.#plan.database];
    await this.#withSession((session) =>
      this.#withSession(async (watcher) => {
        try {
          for (const sql of begin) {
            await session.query(sql);
          }
          await session.query('select id from account where id % 2 = 0 order by id for update');
          for (let tries = 0; tries < 50 && (await watcher.query(waiting)).length === 0; tries++) {
            await wait(5);
          }
          await session.query('select id from account where id % 2 = 1 order by id desc for update');
        } catch (error) {
          if (DEADLOCK.test(labelOf(error))) {
            this.faults.deadlock++;
          }
        }
        await session.query('rollback').catch(() => {});
      }),
    );
  }

  /** Writes rows that a snapshot has seen, without their versions. */
  async #poke(): Promise<void> {
    await this.#withSession((session) => session.query('update account set poked = poked + 1').catch(() => {}));
  }

  async #killWorkerThatWrites(): Promise<void> {
    await this.#withSession(async (session) => {
      for (let tries = 0; tries < 200; tries++) {
        const found = await session.query<{ name: string }>(SQL[this.#plan.database].writing);
        if (found.length > 0 && this.#killWorker(this.#chance.pick(found).name)) {
          this.faults['worker killed']++;
          return;
        }
        await wait(5);
      }
    });
  }

  async #restart(fault: Fault, end: (server: Server) => Promise<void>): Promise<void> {
    const server = this.#chance.pick(this.#nodes);
    await end(server);
    this.faults[fault]++;
    await server.start();
  }

  async #disturb(fault: NodeFault): Promise<void> {
    await this.#target.disturb[fault]!(this.#chance.pick(this.#nodes));
    this.faults[fault]++;
  }

  async #promote(): Promise<void> {
    await this.#target.failOver!(() => {
      if (isLossy(this.#plan)) {
        // versions that are lost are given out again, so what was read must be forgotten, as after a restored backup
        SESSIONS.forEach((session) => this.#killWorker(session));
      }
    });
    this.faults['standby promoted']++;
  }
}
