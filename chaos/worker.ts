/** A process that works until it is told to stop, or killed. Started by run.ts. */
import type { EventEmitter } from 'node:events';
import { setTimeout as wait } from 'node:timers/promises';
import type { MikroORM } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import type { Pool } from 'pg';
import { Recorder } from './history.ts';
import { type DatabaseKind, type Lock, connect } from './model.ts';
import { Chance } from './random.ts';
import { type Tally, Work, sumOf } from './work.ts';

export interface WorkerConfig {
  /** Unique in the run: the attempts are named after it. */
  readonly name: string;
  /** What the server knows its sessions by. */
  readonly session: string;
  readonly url: string;
  /** Read where it is not in a transaction. */
  readonly replicas: readonly string[];
  readonly database: DatabaseKind;
  readonly lock: Lock;
  readonly seed: number;
  readonly file: string;
  /** Milliseconds after which all connections are taken for lost, when they are given out and nothing is done with them. */
  readonly patience: number;
}

export interface WorkerReport {
  readonly state: 'working' | 'starved' | 'done';
  readonly tally: Tally;
  /** Connections that the pool has given out and not got back. */
  readonly checkedOut: number;
}

/** A ROLLBACK that a node refuses is repeated after 5 seconds at most, and gives its connection back when it is carried out. */
const RETURNING = 15_000;

/** At work at the same time, on one pool that is smaller than they are many. */
const LANES = 4;
const CONNECTIONS = 3;

/** Watches all pools, together. */
async function watchPools({ em }: MikroORM<AbstractSqlDriver>, database: DatabaseKind): Promise<() => number> {
  // without replicas they are the same
  const connections = new Set([em.getConnection('write'), em.getConnection('read')]);
  const watched = await Promise.all([...connections].map((connection) => watchPool(connection, database)));
  return () => watched.reduce((sum, checkedOut) => sum + checkedOut(), 0);
}

/** Watches a pool. Returns how many connections it has given out and not got back; those that are being opened do not count. */
async function watchPool(connection: object, database: DatabaseKind): Promise<() => number> {
  const pool = await (connection as { getNativeClient(): Promise<unknown> }).getNativeClient();
  const out = new Set<unknown>();
  if (database === 'postgresql') {
    const events = pool as Pool;
    events.on('acquire', (client) => out.add(client));
    events.on('release', (_error, client) => out.delete(client));
    events.on('remove', (client) => out.delete(client));
    return () => out.size;
  }
  const events = pool as EventEmitter & { readonly _allConnections: { toArray(): unknown[] } };
  events.on('acquire', (client) => out.add(client));
  events.on('release', (client) => out.delete(client));
  // mysql2 says nothing when it drops one that is broken
  return () => events._allConnections.toArray().filter((client) => out.has(client)).length;
}

/** A worker may be hired while the server is away. */
async function patiently<Result>(start: () => Promise<Result>): Promise<Result> {
  for (let left = 100; ; left--) {
    try {
      return await start();
    } catch (error) {
      if (left === 0) {
        throw error;
      }
      await wait(200);
    }
  }
}

async function work({
  name,
  session,
  url,
  replicas,
  database,
  lock,
  seed,
  file,
  patience,
}: WorkerConfig): Promise<void> {
  const stopping = new AbortController();
  process.on('message', () => stopping.abort());
  process.on('disconnect', () => process.exit());
  const recorder = new Recorder(file);
  const orm = await patiently(() => connect(database, lock, url, session, CONNECTIONS, replicas));
  const checkedOut = await patiently(() => watchPools(orm, database));
  const lanes = Array.from({ length: LANES }, (_, lane) => {
    return new Work(`${name}.${lane + 1}`, () => orm.em.fork(), { database, lock }, new Chance(seed + lane), recorder);
  });
  const tally = () => sumOf(lanes.map((lane) => lane.tally));
  const report = async (state: WorkerReport['state']) => {
    const message: WorkerReport = { state, tally: tally(), checkedOut: checkedOut() };
    await new Promise((sent) => process.send!(message, sent));
  };
  let before = 0;
  let since = Date.now();
  const clock = setInterval(async () => {
    const { success, conflicts } = tally();
    if (success + conflicts > before || checkedOut() < CONNECTIONS) {
      [before, since] = [success + conflicts, Date.now()];
    } else if (Date.now() - since > patience) {
      await report('starved');
      process.exit();
    }
    await report('working');
  }, 250);
  await Promise.all(
    lanes.map(async (lane) => {
      while (!stopping.signal.aborted) {
        const error = await lane.next();
        // a server that is not there would be asked thousands of times
        await (error ? wait(10) : undefined);
      }
    }),
  );
  clearInterval(clock);
  for (const deadline = Date.now() + RETURNING; checkedOut() > 0 && Date.now() < deadline;) {
    await wait(50);
  }
  await report('done');
  // a pool waits for connections that it never gets back
  await Promise.race([orm.close(), wait(2000)]);
  process.exit();
}

await work(JSON.parse(process.argv[2]!) as WorkerConfig);
