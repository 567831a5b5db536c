/**
 * The servers that MikroORM's tests are sent to. Their databases have names of their own; what a test connected to, and
 * was not there before, is dropped at the end of a run.
 */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';

interface DatabaseServer {
  kind: 'postgresql' | 'mariadb';
  url: URL;
  /** Ports of MikroORM's docker-compose.yml. */
  theirPorts: readonly number[];
  /** How the names of MikroORM's classes for them begin. */
  classes: readonly string[];
}

const POSTGRESQL = { kind: 'postgresql', theirPorts: [5432, 5433], classes: ['PostgreSql'] } as const;
// MySQL's tests go to MariaDB too: what does not pass there when plain does not count
const MARIADB = { kind: 'mariadb', theirPorts: [3306, 3308, 3309], classes: ['MySql', 'MariaDb'] } as const;

export function databaseServers(): DatabaseServer[] {
  const { POSTGRES_URL, MARIADB_URL } = process.env;
  return [
    ...(POSTGRES_URL ? [{ ...POSTGRESQL, url: new URL(POSTGRES_URL) }] : []),
    ...(MARIADB_URL ? [{ ...MARIADB, url: new URL(MARIADB_URL) }] : []),
  ];
}

/** Vitest's global set-up. It returns the tear-down. */
export default async function setup(): Promise<() => Promise<void>> {
  const before = await Promise.all(databaseServers().map(list));
  return async () => {
    const file = process.env.UPSTREAM_DATABASES!;
    const opened = new Set(existsSync(file) ? readFileSync(file, 'utf8').split('\n') : []);
    for (const [i, server] of databaseServers().entries()) {
      for (const name of await list(server)) {
        if (opened.has(`${server.kind} ${name}`) && !before[i]!.includes(name)) {
          const sql = server.kind === 'mariadb' ? `drop database \`${name}\`` : `drop database "${name}" with (force)`;
          await query(server, sql);
        }
      }
    }
  };
}

async function list(server: DatabaseServer): Promise<string[]> {
  const sql =
    server.kind === 'mariadb'
      ? 'select schema_name as name from information_schema.schemata'
      : 'select datname as name from pg_database';
  return (await query(server, sql)).map(({ name }) => name);
}

async function query({ kind, url }: DatabaseServer, sql: string): Promise<{ name: string }[]> {
  // the clients that the checkout has
  const require = createRequire(join(process.env.UPSTREAM_CHECKOUT!, 'package.json'));
  if (kind === 'mariadb') {
    const connection = await require('mysql2/promise').createConnection(url.href);
    const [rows] = await connection.query(sql);
    await connection.end();
    return rows;
  }
  const client = new (require('pg').Client)({ connectionString: new URL('/postgres', url).href });
  await client.connect();
  const { rows } = await client.query(sql);
  await client.end();
  return rows;
}
