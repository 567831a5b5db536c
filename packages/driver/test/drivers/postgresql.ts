import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { versioned } from '@mikro-ool/driver';
import { inject, onTestFinished } from 'vitest';
import type { TestDriver } from '../harness.ts';
import { type Session, session } from './server.ts';

interface Home {
  readonly dbName: string;
  readonly admin: Session;
}

/** Databases that no test has now. To make one and drop it costs the server several times as much as to empty one. */
const idle: Home[] = [];
const server = { driver: PostgreSqlDriver, clientUrl: inject('postgresUrl') };
const onServer = session({ ...server, dbName: 'postgres' });
let made = 0;

async function make(): Promise<Home> {
  // several processes make them at the same time
  const dbName = `${inject('postgresPrefix')}${process.pid}_${++made}`;
  await onServer(`create database "${dbName}"`);
  return { dbName, admin: session({ ...server, dbName }) };
}

/** As new: no sessions, no tables, types, functions, extensions. (With a timeout, pg_terminate_backend() looks every 100 ms.) */
export const EMPTY = `do $$
declare
  name text;
  others constant text := 'from pg_stat_activity
    where datname = current_database() and backend_type = ''client backend'' and pid <> pg_backend_pid()';
  n integer;
begin
  execute 'select count(pg_terminate_backend(pid)) ' || others into n;
  for i in 1..5000 loop
    exit when n = 0;
    perform pg_sleep(0.002), pg_stat_clear_snapshot();
    execute 'select count(*) ' || others into n;
  end loop;
  for name in select nspname from pg_namespace where nspname not like 'pg\\_%' and nspname <> 'information_schema' loop
    execute format('drop schema %I cascade', name);
  end loop;
  create schema public;
end $$`;

/** As new, but for the tables. */
const NO_ROWS = `do $$
declare
  relation pg_class;
begin
  if exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
      and state like 'idle in transaction%') then
    raise 'a test has left a transaction open';
  end if;
  set local lock_timeout = '1s';
  -- foreign keys, and triggers, look away
  set local session_replication_role = replica;
  for relation in select * from pg_class where oid >= 16384 and relkind in ('r', 'S')
      and relnamespace not in ('pg_toast'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace) loop
    if relation.relkind = 'S' then
      perform setval(relation.oid, 1, false);
    else
      execute 'delete from ' || relation.oid::regclass;
    end if;
  end loop;
end $$`;

export const postgresql: TestDriver = {
  name: `PostgreSQL ${inject('postgresVersion')}`,
  concurrent: true,
  batches: true,
  alone: 'every statement',
  replicas: true,
  conditionalUpserts: true,
  cascadeDepth: 350,
  plain: PostgreSqlDriver,
  literal: (column) => `row(${column})::text`,
  dropUnique: (table, index) => `alter table ${table} drop constraint ${index}`,
  keepsBack: {
    'a trigger': (table, operation, id) => [
      `create function keep_back() returns trigger language plpgsql as $$ begin
         if old.id = ${id} then return null; end if;
         if tg_op = 'DELETE' then return old; end if;
         return new;
       end $$`,
      `create trigger keep_back before ${operation} on ${table} for each row execute function keep_back()`,
    ],
    'a rule': (table, operation, id) => [
      `create rule keep_back as on ${operation} to ${table} where old.id = ${id} do instead nothing`,
    ],
  },
  widens: (table, column) => [`alter table ${table} alter column ${column} type bigint`],
  schemas: () => ({}),
  empty: NO_ROWS,
  async create(atEnd = onTestFinished) {
    const home = idle.pop() ?? (await make());
    atEnd(async () => {
      await home.admin(EMPTY);
      idle.push(home);
    });
    return { ...server, driver: versioned(PostgreSqlDriver), dbName: home.dbName };
  },
};
