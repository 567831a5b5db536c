/** PgBouncer before a PostgreSQL, on the loopback interface. It ends with this process, however it ends. */
import { chmodSync, chownSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { freePort } from '../tools/postgres.ts';
import { type Controls, ServerProcess, control, find, otherUser } from '../tools/processes.ts';
import { requirePackages } from './packages.ts';

export const MODES = ['session', 'transaction', 'statement'] as const;
export type Mode = (typeof MODES)[number];

export interface PgBouncer extends Controls {
  /** Connection URL without a database name. */
  readonly url: string;
}

/** @param target the URL of the PostgreSQL, without a database name, with a user and, where it wants one, a password */
export async function startPgBouncer(target: string, mode: Mode): Promise<PgBouncer> {
  requirePackages('pgbouncer');
  const { hostname, port: targetPort, username, password } = new URL(target);
  const port = await freePort();
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-pgbouncer-'));
  const [config, users, log] = ['pgbouncer.ini', 'users', 'log'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  writeFileSync(users, `"${username}" "${password}"\n`);
  writeFileSync(
    config,
    `[databases]
* = host=${hostname} port=${targetPort}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = trust
auth_file = ${users}
admin_users = ${username}
pool_mode = ${mode}
max_client_conn = 500
default_pool_size = 20
; a database that was just made is there, whatever happened before
server_login_retry = 0
ignore_startup_parameters = extra_float_digits
logfile = ${log}
`,
  );
  // it does not run as root
  const user = otherUser('postgres');
  if (user.uid !== undefined && user.gid !== undefined) {
    [directory, config, users].forEach((path) => chownSync(path, user.uid!, user.gid!));
    chmodSync(directory, 0o755);
  }
  const pooler = new ServerProcess('PgBouncer', log);
  const url = `postgresql://${username}:${password}@127.0.0.1:${port}`;
  const launch = async () => {
    pooler.spawn(find('pgbouncer')!, ['--quiet', config], user);
    await pooler.until(() => answers(url));
  };
  const controls = control(port, directory, launch, pooler.pids, 'SIGINT');
  try {
    await launch();
  } catch (error) {
    await controls.dispose();
    throw error;
  }
  return { ...controls, url };
}

async function answers(url: string): Promise<boolean> {
  const client = new Client({ connectionString: `${url}/pgbouncer` });
  client.on('error', () => {});
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => {});
  }
}
