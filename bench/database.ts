/** The tables of the benchmark, made and filled by plain SQL, the same for every contender. */
import { Client } from 'pg';
import { type Server, type Session, type Table, TABLES, columnNames, typeOf, valueOf } from './contender.ts';

/** Rows of each table. */
export const ROWS = 20_000;

const TYPES = { text: 'text', integer: 'integer', double: 'double precision' };

function createTable(table: Table): string {
  const columns = columnNames(table).map((name, i) => `${name} ${TYPES[typeOf(i)]} not null`);
  return `create table ${table.name} (id integer primary key, version integer not null default 1, ${columns.join(', ')})`;
}

/** An INSERT of these rows, which leaves those that are there. */
function insertRows(table: Table, ids: readonly number[]): string {
  const rows = ids.map((id) => {
    const values = columnNames(table).map((_, i) => valueOf(i, id));
    return `(${[id, ...values.map((value) => (typeof value === 'string' ? `'${value}'` : value))].join(', ')})`;
  });
  const names = ['id', ...columnNames(table)].join(', ');
  return `insert into ${table.name} (${names}) values ${rows.join(', ')} on conflict do nothing`;
}

/** Makes sure that these rows are there. */
export async function fill(session: Session, table: Table, ids: readonly number[]): Promise<void> {
  for (let i = 0; i < ids.length; i += 1000) {
    await session.execute(insertRows(table, ids.slice(i, i + 1000)));
  }
}

const allIds = Array.from({ length: ROWS }, (_, i) => i + 1);

/** Makes the tables where a session finds none: on SQLite, where each has a database of its own in memory. */
export async function createTables(session: Session): Promise<void> {
  for (const table of TABLES) {
    await session.execute(createTable(table));
    await fill(session, table, allIds);
  }
}

/** A database on a PostgreSQL server with the tables in it; returns its URL. */
export async function createDatabase(url: string): Promise<{ url: string; drop(): Promise<void> }> {
  const name = `mikro_ool_bench_${process.pid}`;
  await withClient(url, (client) => client.query(`create database ${name}`));
  const own = new URL(url);
  own.pathname = name;
  await withClient(own.href, async (client) => {
    const execute = async (sql: string) => void (await client.query(sql));
    await createTables({ execute } as Session);
    await client.query('vacuum analyze');
  });
  return {
    url: own.href,
    drop: () => withClient(url, async (client) => void (await client.query(`drop database ${name} with (force)`))),
  };
}

/** Dead rows of one job must not slow the next one down. */
export async function tidyUp(server: Server): Promise<void> {
  if (server.kind === 'postgresql') {
    await withClient(server.url, (client) => client.query('vacuum analyze'));
  }
}

async function withClient(url: string, work: (client: Client) => Promise<unknown>): Promise<void> {
  const connectionString = new URL(url).pathname.length > 1 ? url : `${url}/postgres`;
  const client = new Client({ connectionString });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

/** Ids of `n` rows all over the table, others in every round; the same for every contender. */
export function pick(n: number, round: number): number[] {
  const step = Math.floor(ROWS / n);
  return Array.from({ length: n }, (_, i) => ((i * step + round * 7919) % ROWS) + 1);
}
