/** The servers of a run, which may be stopped, killed and started again. They end with this process, however it ends. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { createConnection } from 'mysql2/promise';
import { type GaleraNode, startGalera } from '../cluster/galera.ts';
import { installPostgres } from '../tools/controlled-postgres.ts';
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
  readonly nodes: readonly Server[];
  readonly disturb: Partial<Record<NodeFault, (node: Server) => Promise<void>>>;
  /** Waits until all nodes are there, and have everything. */
  whole(): Promise<void>;
  dispose(): Promise<void>;
}

export async function createTarget({ database, cluster }: Pick<Plan, 'database' | 'cluster'>): Promise<Target> {
  if (cluster === 'galera') {
    return createGalera();
  }
  const server = await (database === 'postgresql' ? createPostgres() : createMariaDb());
  return { nodes: [server], disturb: {}, whole: async () => {}, dispose: () => server.dispose() };
}

/** So long that the others put it out, and shorter than a worker waits for its connections. */
const OUT = 3000;

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
    nodes: [...of.keys()],
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
        await wait(400);
        await catchUp();
      },
    },
    whole: () => whole().then(settled),
    dispose,
  };
}

async function createPostgres(): Promise<Server> {
  const server = await installPostgres('mikro-ool-chaos-');
  await server.start();
  return { ...server, url: (through) => `postgresql://postgres:postgres@127.0.0.1:${through}` };
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
