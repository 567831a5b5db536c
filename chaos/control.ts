/** The run's own view of its server: past the proxy, and in SQL that differs between the databases. */
import { createConnection } from 'mysql2/promise';
import { Client } from 'pg';
import type { DatabaseKind } from './model.ts';

export interface Session {
  query<Row = Record<string, unknown>>(sql: string): Promise<Row[]>;
  end(): Promise<void>;
}

export async function openSession(kind: DatabaseKind, url: string): Promise<Session> {
  if (kind === 'postgresql') {
    const client = new Client({ connectionString: `${url}/chaos`, application_name: 'saboteur' });
    // its server is going to be killed
    client.on('error', () => {});
    await client.connect();
    return {
      query: async <Row>(sql: string) => (await client.query(sql)).rows as Row[],
      end: () => client.end(),
    };
  }
  const connection = await createConnection(`${url}/chaos`);
  connection.on('error', () => {});
  return {
    query: async <Row>(sql: string) => (await connection.query(sql))[0] as Row[],
    end: async () => connection.destroy(),
  };
}

export const SQL = {
  postgresql: {
    sessions: `select pid as id from pg_stat_activity where application_name like 'worker%'`,
    kill: (id: number) => `select pg_terminate_backend(${id}) as done`,
    /** Workers that have written something and not committed it. */
    writing: `select application_name as name from pg_stat_activity where application_name like 'worker%' and backend_xid is not null`,
    waiting: `select pid as id from pg_stat_activity where application_name like 'worker%' and wait_event_type = 'Lock'`,
    transactions: `select pid as id from pg_stat_activity where application_name like 'worker%' and state like 'idle in transaction%'`,
    begin: ['begin', `set local deadlock_timeout = '10s'`],
    journal: `select attempt, account, incarnation, kind, "read", written, balance from journal`,
  },
  mariadb: {
    sessions: `select id from information_schema.processlist where user like 'worker%'`,
    kill: (id: number) => `kill ${id}`,
    writing: `select p.user as name from information_schema.innodb_trx t join information_schema.processlist p
      on p.id = t.trx_mysql_thread_id where p.user like 'worker%' and t.trx_rows_modified > 0`,
    waiting: `select trx_id as id from information_schema.innodb_trx where trx_state = 'LOCK WAIT'`,
    transactions: `select p.id from information_schema.innodb_trx t join information_schema.processlist p
      on p.id = t.trx_mysql_thread_id where p.user like 'worker%'`,
    begin: ['begin'],
    journal: 'select attempt, account, incarnation, kind, `read`, written, balance from journal',
  },
};
