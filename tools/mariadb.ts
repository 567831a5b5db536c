/**
 * A MariaDB server for the tests: the one that MARIADB_URL names, else one of our own on a free port with a data directory
 * that goes away with it, where Debian's mariadb-server (or another mariadbd) is installed. `node tools/mariadb.ts` prints
 * its URL and runs until it is told to stop.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { dataDirectory } from './data-directory.ts';
import { freePort } from './postgres.ts';
import { find, otherUser } from './processes.ts';

export interface MariaDbServer {
  /** Connection URL without a database name. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Data of a server that does not run yet, in a directory of its own. */
export interface MariaDbInstallation {
  readonly program: string;
  readonly directory: string;
  readonly port: number;
  /** What the program is told wherever it is started. */
  readonly options: readonly string[];
  readonly env: NodeJS.ProcessEnv;
}

/** @returns undefined where there is no server program */
export async function installMariaDb(prefix: string): Promise<MariaDbInstallation | undefined> {
  const program = find('mariadbd');
  const installer = find('mariadb-install-db');
  if (!program || !installer) {
    return undefined;
  }
  const directory = dataDirectory(prefix);
  const data = ['--no-defaults', `--datadir=${join(directory, 'data')}`];
  const { uid, gid } = otherUser('mysql');
  if (uid !== undefined && gid !== undefined) {
    // run as root, the server becomes the user of its package
    chownSync(directory, uid, gid);
    chmodSync(directory, 0o755);
    data.push('--user=mysql');
  }
  // installations that share a directory for temporary files can meet there
  const env = { ...process.env, TMPDIR: directory };
  execFileSync(installer, [...data, '--auth-root-authentication-method=normal', '--skip-test-db'], {
    // what it complains about is in the error
    stdio: ['ignore', 'ignore', 'pipe'],
    env,
  });
  const port = await freePort();
  const files = [`--socket=${join(directory, 'socket')}`, `--pid-file=${join(directory, 'pid')}`];
  return { program, directory, port, options: [...data, ...files, `--port=${port}`, '--bind-address=127.0.0.1'], env };
}

/** Returns undefined where there is no server program. */
export async function startMariaDb(): Promise<MariaDbServer | undefined> {
  if (process.env.MARIADB_URL) {
    return { url: process.env.MARIADB_URL, stop: async () => {} };
  }
  const installation = await installMariaDb('mikro-ool-mariadb-');
  if (!installation) {
    return undefined;
  }
  const { program, directory, port, options, env } = installation;
  // durability is not under test; everything that orders transactions stays on
  const fast = ['--innodb-flush-log-at-trx-commit=0', '--innodb-doublewrite=0', '--skip-log-bin'];
  const server = spawn(program, [...options, '--max-connections=300', ...fast], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env,
  });
  const atExit = () => {
    server.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', atExit);
  const log: string[] = [];
  server.stderr.on('data', (text) => log.push(String(text)));
  const stop = async () => {
    if (server.exitCode === null) {
      server.kill('SIGTERM');
      await once(server, 'exit');
    }
    process.removeListener('exit', atExit);
    rmSync(directory, { recursive: true, force: true });
  };
  if (!(await listens(port, server))) {
    await stop();
    throw new Error(`MariaDB did not start:\n${log.join('')}`);
  }
  return { url: `mysql://root@127.0.0.1:${port}`, stop };
}

async function listens(port: number, server: ChildProcess): Promise<boolean> {
  for (let attempt = 0; attempt < 300 && server.exitCode === null; attempt++) {
    const socket = connect(port, '127.0.0.1');
    const isOpen = await Promise.race([
      once(socket, 'connect').then(() => true),
      once(socket, 'error').then(() => false),
    ]).catch(() => false);
    socket.destroy();
    if (isOpen) {
      return true;
    }
    await sleep(100);
  }
  return false;
}

if (import.meta.main) {
  const server = await startMariaDb();
  if (!server) {
    throw new Error('There is no mariadbd on this machine. Install mariadb-server.');
  }
  console.log(server.url);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) {
    process.once(signal, () => void server.stop());
  }
}
