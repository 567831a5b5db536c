/** A PostgreSQL primary with a hot standby, on the loopback interface. It ends with this process, however it ends. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import { type ControlledPostgres, installPostgres } from '../tools/controlled-postgres.ts';

export interface Replicated {
  readonly primary: ControlledPostgres;
  readonly standby: ControlledPostgres;
  /** From now on a COMMIT waits for the standby to have it, or, without, for nobody. */
  synchronous(is: boolean): Promise<void>;
  /** How far behind the standby stays, in milliseconds. */
  lag(milliseconds: number): Promise<void>;
  /** Waits until the standby shows all that the primary has. */
  caughtUp(): Promise<void>;
  /** Makes the standby a primary. The old one is not told. */
  promote(): Promise<void>;
  dispose(): Promise<void>;
}

const STANDBY = 'standby';

/** Starts both, the standby from what the primary was before it ran for the first time. */
export async function startReplicated(): Promise<Replicated> {
  const primary = await installPostgres('mikro-ool-primary-');
  // a directory of a server that does not run is a backup as good as any, and needs no other program
  const standby = await installPostgres('mikro-ool-standby-', standbySettings(primary.port), primary.directory);
  writeFileSync(join(standby.directory, 'standby.signal'), '');
  const dispose = async () => {
    await standby.dispose();
    await primary.dispose();
  };
  try {
    await primary.start();
    await standby.start();
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    ...{ primary, standby, dispose },
    async synchronous(is) {
      await set(primary, 'synchronous_standby_names', is ? STANDBY : '');
    },
    async lag(milliseconds) {
      await set(standby, 'recovery_min_apply_delay', `${milliseconds}ms`);
    },
    async caughtUp() {
      const [now] = await query<{ lsn: string }>(primary, 'select pg_current_wal_flush_lsn() as lsn');
      const sql = `select pg_last_wal_replay_lsn() >= '${now!.lsn}' as there`;
      while (!(await query<{ there: boolean }>(standby, sql))[0]!.there) {
        await wait(20);
      }
    },
    async promote() {
      await query(standby, 'select pg_promote()');
    },
  };
}

function standbySettings(port: number): string[] {
  const source = `host=127.0.0.1 port=${port} user=postgres password=postgres application_name=${STANDBY}`;
  return [`primary_conninfo=${source}`, 'wal_retrieve_retry_interval=300ms'];
}

/** On a connection of its own. */
export async function query<Row = Record<string, unknown>>({ url }: { url: string }, sql: string): Promise<Row[]> {
  const client = new Client({ connectionString: `${url}/postgres` });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows as Row[];
  } finally {
    await client.end();
  }
}

async function set(server: ControlledPostgres, setting: string, value: string): Promise<void> {
  await query(server, `alter system set ${setting} = '${value}'`);
  await query(server, 'select pg_reload_conf()');
  while ((await query(server, `show ${setting}`))[0]![setting] !== shown(value)) {
    await wait(20);
  }
}

/** 1500ms stays as it is, and 2000ms is shown as 2s. */
function shown(value: string): string {
  const [, seconds] = /^(\d+)000ms$/.exec(value) ?? [];
  return seconds ? `${seconds}s` : value;
}
