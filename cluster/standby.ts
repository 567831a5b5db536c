/** A PostgreSQL primary with a hot standby, on the loopback interface. It ends with this process, however it ends. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { Client } from 'pg';
import { type ControlledPostgres, installPostgres } from '../tools/controlled-postgres.ts';

export interface Replicated {
  /** Which is which changes by `replaceOld()`. */
  readonly primary: ControlledPostgres;
  /** @see primary */
  readonly standby: ControlledPostgres;
  /** From now on a COMMIT waits for the standby to have it, or, without, for nobody. */
  synchronous(is: boolean): Promise<void>;
  /** How far behind the standby stays, in milliseconds. */
  lag(milliseconds: number): Promise<void>;
  /** Waits until the standby shows all that the primary has, and goes on to follow it. */
  caughtUp(): Promise<void>;
  /** Makes the standby a primary. The old one is not told. */
  promote(): Promise<void>;
  /** After that: gives the old primary up for good. The new one gets a standby of its own, for which it stops for a while. */
  replaceOld(): Promise<void>;
  dispose(): Promise<void>;
}

const STANDBY = 'standby';

/** What a standby that is away has not read yet is still there when it is back. */
const SETTINGS = ['wal_keep_size=256MB'];

/** Starts both, the standby from what the primary was before it ran for the first time. */
export async function startReplicated(): Promise<Replicated> {
  let primary = await installPostgres('mikro-ool-primary-', SETTINGS);
  let standby = await standbyOf(primary);
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
    dispose,
    get primary() {
      return primary;
    },
    get standby() {
      return standby;
    },
    async synchronous(is) {
      // the standby's own, for when it is a primary: it hands nothing on and acknowledges nothing before it has one
      for (const server of [primary, standby]) {
        await set(server, 'synchronous_standby_names', is ? STANDBY : '');
      }
    },
    async lag(milliseconds) {
      await set(standby, 'recovery_min_apply_delay', String(milliseconds));
    },
    async caughtUp() {
      const [now] = await query<{ lsn: string }>(primary, 'select pg_current_wal_flush_lsn() as lsn');
      const sql = `select pg_last_wal_replay_lsn() >= '${now!.lsn}' as there`;
      const isThere = async () => (await query<{ there: boolean }>(standby, sql))[0]!.there;
      const follows = `select 1 from pg_stat_replication where state = 'streaming'`;
      while (!(await isThere()) || (await query(primary, follows)).length === 0) {
        await wait(20);
      }
    },
    async promote() {
      await query(standby, 'select pg_promote()');
    },
    async replaceOld() {
      await primary.dispose();
      primary = standby;
      await primary.stop();
      standby = await standbyOf(primary);
      await primary.start();
      await standby.start();
    },
  };
}

/** A standby that does not run yet, of a primary that does not run: its directory is a backup that needs no other program. */
async function standbyOf(primary: ControlledPostgres): Promise<ControlledPostgres> {
  const source = `host=127.0.0.1 port=${primary.port} user=postgres password=postgres application_name=${STANDBY}`;
  const settings = [...SETTINGS, `primary_conninfo=${source}`, 'wal_retrieve_retry_interval=300ms'];
  const standby = await installPostgres('mikro-ool-standby-', settings, primary.directory);
  writeFileSync(join(standby.directory, 'standby.signal'), '');
  return standby;
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

/** Sets it, and waits until it is in force. */
async function set(server: ControlledPostgres, setting: string, value: string): Promise<void> {
  await query(server, `alter system set ${setting} = '${value}'`);
  await query(server, 'select pg_reload_conf()');
  // SHOW has units of its own choice, 2s for 2000 and 0 for 0ms
  const current = `select setting from pg_settings where name = '${setting}'`;
  while ((await query<{ setting: string }>(server, current))[0]!.setting !== value) {
    await wait(20);
  }
}
