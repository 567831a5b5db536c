/** The servers of a run, which may be stopped, killed and started again. They end with this process, however it ends. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { createConnection } from 'mysql2/promise';
import { type GaleraNode, startGalera } from '../cluster/galera.ts';
import { query, startReplicated } from '../cluster/standby.ts';
import { type ControlledPostgres, installPostgres } from '../tools/controlled-postgres.ts';
import { installMariaDb } from '../tools/mariadb.ts';
import { type Controls, ServerProcess, control } from '../tools/processes.ts';
import type { Plan } from './model.ts';

export interface Server extends Controls {
  /** `as` is the user, who may be another one for each worker. */
  url(port: number, as?: string): string;
}

/** What happens to a node of a cluster, which the others notice. It is over when all are there again. */
export type NodeFault = 'node paused' | 'node cut off' | 'node held back';

/** What a run is against: one server, or the nodes of a cluster. */
export interface Target {
  /** Those that can be written, one of which each worker has, and … */
  readonly writers: readonly [Server, ...Server[]];
  /** … those that all workers read from where they are not in a transaction. */
  readonly replicas: readonly Server[];
  readonly disturb: Partial<Record<NodeFault, (node: Server) => Promise<void>>>;
  /**
   * The writer dies while its replica is away, which takes over and gets a replica of its own.
   *
   * @param meanwhile called when the one is dead, and the other cannot be written yet
   */
  failOver?(meanwhile: () => void): Promise<void>;
  /** Waits until all nodes are there, and have everything. */
  whole(): Promise<void>;
  dispose(): Promise<void>;
}

export async function createTarget({ database, cluster }: Pick<Plan, 'database' | 'cluster'>): Promise<Target> {
  if (cluster === 'galera') {
    return createGalera();
  }
  if (cluster) {
    return createReplicated(cluster === 'standby');
  }
  const server = await (database === 'postgresql' ? createPostgres() : createMariaDb());
  return { writers: [server], replicas: [], disturb: {}, whole: async () => {}, dispose: () => server.dispose() };
}

/** So long that the others put it out, and shorter than a worker waits for its connections. */
const OUT = 3000;

/** How long a node shows nothing new. */
const HELD = 400;

async function createGalera(): Promise<Target> {
  const galera = await startGalera();
  const { nodes, whole, settled, dispose } = galera;
  for (let i = 1; i <= USERS; i++) {
    await nodes[0].query(`create user worker${i}@'127.0.0.1' identified by 'chaos'`);
    await nodes[0].query(`grant all on *.* to worker${i}@'127.0.0.1'`);
  }
  const of = new Map<Server, GaleraNode>();
  for (const node of nodes) {
    const url = (through: number, as?: string) => `mysql://${as ? `${as}:chaos` : 'root'}@127.0.0.1:${through}`;
    of.set({ ...node, url, start: () => node.start().then(whole) }, node);
  }
  const lasting =
    (begin: (node: GaleraNode) => unknown, end: (node: GaleraNode) => unknown) => async (server: Server) => {
      const node = of.get(server)!;
      await begin(node);
      await wait(OUT);
      await end(node);
      await whole();
    };
  return {
    writers: [...of.keys()] as [Server, ...Server[]],
    replicas: [],
    disturb: {
      'node paused': lasting(
        (node) => node.pause(),
        (node) => node.resume(),
      ),
      'node cut off': lasting(
        (node) => node.isolate(),
        (node) => node.rejoin(),
      ),
      'node held back': async (server) => {
        const catchUp = await of.get(server)!.holdBack();
        await wait(HELD);
        await catchUp();
      },
    },
    whole: () => whole().then(settled),
    dispose,
  };
}

/** How far behind a replica stays, in milliseconds, when nothing holds it back further. */
const LAG = 50;

async function createReplicated(isSynchronous: boolean): Promise<Target> {
  const pair = await startReplicated();
  await pair.synchronous(isSynchronous);
  await pair.lag(LAG);
  // who writes and who follows stays, and which server that is does not
  const primary = following(() => pair.primary, pair.caughtUp);
  const standby = following(() => pair.standby, pair.caughtUp);
  return {
    writers: [primary],
    replicas: [standby],
    disturb: {
      async 'node paused'(server) {
        server.pause();
        await wait(OUT);
        server.resume();
        await pair.caughtUp();
      },
      async 'node held back'() {
        await query(pair.standby, 'select pg_wal_replay_pause()');
        await wait(HELD);
        await query(pair.standby, 'select pg_wal_replay_resume()');
      },
    },
    async failOver(meanwhile) {
      await pair.standby.stop();
      await wait(HELD);
      await pair.primary.kill();
      meanwhile();
      await pair.standby.start();
      await pair.promote();
      await pair.replaceOld();
      await pair.caughtUp();
    },
    whole: pair.caughtUp,
    dispose: pair.dispose,
  };
}

function urlOfPostgres(through: number): string {
  return `postgresql://postgres:postgres@127.0.0.1:${through}`;
}

/** Whichever server it is at the moment. */
function following(current: () => ControlledPostgres, whole: () => Promise<void>): Server {
  return {
    get port() {
      return current().port;
    },
    url: urlOfPostgres,
    stop: () => current().stop(),
    kill: () => current().kill(),
    start: () => current().start().then(whole),
    pause: () => current().pause(),
    resume: () => current().resume(),
    dispose: () => current().dispose(),
  };
}

async function createPostgres(): Promise<Server> {
  const server = await installPostgres('mikro-ool-chaos-');
  await server.start();
  return { ...server, url: urlOfPostgres };
}

/** MariaDB's sessions have no names, so each worker has a user. */
const USERS = 16;

async function createMariaDb(): Promise<Server> {
  const installation = await installMariaDb('mikro-ool-chaos-');
  if (!installation) {
    throw new Error('There is no mariadbd on this machine. Install it: apt-get install mariadb-server.');
  }
  const { program, directory, port, options, env } = installation;
  const init = join(directory, 'init.sql');
  const users = ['root', ...Array.from({ length: USERS }, (_, i) => `worker${i + 1}`)];
  const grants = users.map((user) => `grant all on *.* to '${user}'@'127.0.0.1' identified by 'chaos';\n`);
  writeFileSync(init, `create database if not exists chaos;\n${grants.join('')}`);
  chmodSync(init, 0o644);
  const url = (through: number, as = 'root') => `mysql://${as}:chaos@127.0.0.1:${through}`;
  const log = join(directory, 'log');
  const server = new ServerProcess('MariaDB', log);
  const answers = async () => {
    try {
      await (await createConnection(url(port))).end();
      return true;
    } catch {
      return false;
    }
  };
  const launch = async () => {
    server.spawn(
      program,
      [
        ...options,
        `--init-file=${init}`,
        `--log-error=${log}`,
        '--skip-name-resolve',
        '--max-connections=200',
        '--innodb-buffer-pool-size=256M',
        '--innodb-lock-wait-timeout=1',
        // its REPEATABLE READ refuses to write what has changed since
        '--innodb-snapshot-isolation=ON',
        // a killed server keeps what it has handed to the operating system; only the machine could lose it
        '--innodb-flush-log-at-trx-commit=2',
      ],
      { env },
    );
    await server.until(answers);
  };
  const controls = control(port, directory, launch, server.pids, 'SIGTERM');
  await launch();
  return { ...controls, url };
}
