/** A process that works until it is told to stop, or killed. Started by run.ts. */
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
  readonly database: DatabaseKind;
  readonly lock: Lock;
  readonly seed: number;
  readonly file: string;
}

export interface WorkerReport {
  readonly state: 'working' | 'starved' | 'done';
  readonly tally: Tally;
  /** Connections that the pool has given out and not got back. */
  readonly checkedOut: number;
}

/** At work at the same time, on one pool that is smaller than they are many. */
const LANES = 4;
const CONNECTIONS = 3;

/** All connections are given out for so long, and nothing is done with them. */
const STARVED = 5000;

async function checkedOut(orm: MikroORM<AbstractSqlDriver>, database: DatabaseKind): Promise<number> {
  const pool: unknown = await (
    orm.em.getConnection() as unknown as { getNativeClient(): Promise<unknown> }
  ).getNativeClient();
  if (database === 'postgresql') {
    const { totalCount, idleCount } = pool as Pool;
    return totalCount - idleCount;
  }
  // mysql2 has no public counters
  type Connections = { readonly length: number };
  const { _allConnections, _freeConnections } = pool as { _allConnections: Connections; _freeConnections: Connections };
  return _allConnections.length - _freeConnections.length;
}

async function work({ name, session, url, database, lock, seed, file }: WorkerConfig): Promise<void> {
  const stopping = new AbortController();
  process.on('message', () => stopping.abort());
  process.on('disconnect', () => process.exit());
  const recorder = new Recorder(file);
  const orm = await connect(database, lock, url, session, CONNECTIONS);
  const lanes = Array.from({ length: LANES }, (_, lane) => {
    return new Work(`${name}.${lane + 1}`, () => orm.em.fork(), { database, lock }, new Chance(seed + lane), recorder);
  });
  const tally = () => sumOf(lanes.map((lane) => lane.tally));
  const report = async (state: WorkerReport['state']) => {
    const message: WorkerReport = { state, tally: tally(), checkedOut: await checkedOut(orm, database) };
    await new Promise((sent) => process.send!(message, sent));
  };
  let before = 0;
  let since = Date.now();
  const clock = setInterval(async () => {
    const { success, conflicts } = tally();
    if (success + conflicts > before || (await checkedOut(orm, database)) < CONNECTIONS) {
      [before, since] = [success + conflicts, Date.now()];
    } else if (Date.now() - since > STARVED) {
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
  await report('done');
  // a pool waits for connections that it never gets back
  await Promise.race([orm.close(), wait(2000)]);
  process.exit();
}

await work(JSON.parse(process.argv[2]!) as WorkerConfig);
