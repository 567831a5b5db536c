/**
 * `npx pnpm soak`: does memory grow with the number of flushes? The heap after a garbage collection, at every tenth of the
 * run; at the end it may be 5 % larger than after the first tenth.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { type EntityManager, MikroORM, defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { markdownTable } from 'markdown-table';
import ora from 'ora';
import { readOptions, refuse } from '../tools/command-line.ts';
import { startPostgres } from '../tools/postgres.ts';

const FLUSHES = { sqlite: 1_000_000, postgresql: 200_000 };
const GROWTH = 0.05;
const ROWS = 20;
const BATCH = 10;
/** Of one EntityManager, before the next one takes over. */
const FLUSHES_PER_FORK = 50;

type Database = keyof typeof FLUSHES;

const USAGE = `Usage: npx pnpm soak [options]

Does memory grow with the number of flushes? Prints the heap at every tenth of the run.

  --database <name>   sqlite (without), or postgresql
  --flushes <n>       how many (${FLUSHES.sqlite} on SQLite, ${FLUSHES.postgresql} on PostgreSQL); the result of that many and more is kept
                      in chaos/results
  --help              this text

PostgreSQL is the one that POSTGRES_URL names, else one that is started and thrown away.`;

const values = readOptions(USAGE, { database: { type: 'string', default: 'sqlite' }, flushes: { type: 'string' } });
const database = values.database as Database;
if (!(database in FLUSHES)) {
  refuse(`There is no database "${database}".`, USAGE);
}
const flushes = Number(values.flushes ?? FLUSHES[database]);
if (!(flushes >= 10)) {
  refuse('A run has at least 10 flushes.', USAGE);
}
if (typeof globalThis.gc !== 'function') {
  refuse('Node was started without --expose-gc.', USAGE);
}

const Counter = defineEntity({
  name: 'Counter',
  properties: {
    id: p.integer().primary().autoincrement(false),
    n: p.integer().default(0),
    note: p.string().nullable(),
    version: p.type(VersionField),
  },
});

/** What a flush may be, and how many flushes it takes. */
class Soak {
  done = 0;
  /** Versions that the rows must have gained. */
  bumps = 0;
  conflicts = 0;
  readonly #orm: MikroORM;
  #created = ROWS;

  constructor(orm: MikroORM) {
    this.#orm = orm;
  }

  async go(until: number, progress: () => void): Promise<void> {
    while (this.done < until) {
      const em = this.#orm.em.fork();
      const end = Math.min(until, this.done + FLUSHES_PER_FORK);
      while (this.done < end) {
        await this.#kinds[this.done % this.#kinds.length]!(em);
      }
      progress();
      // SQLite answers at once: without this, the event loop would never turn, unlike in a service
      await turn();
    }
  }

  readonly #kinds: readonly ((em: EntityManager) => Promise<void>)[] = [
    (em) => this.#change(em, 1),
    (em) => this.#change(em, 1),
    (em) => this.#change(em, BATCH),
    (em) => this.#lose(em, 1),
    (em) => this.#change(em, 1),
    (em) => this.#rollBack(em),
    (em) => this.#lose(em, BATCH),
    (em) => this.#createAndRemove(em),
    (em) => this.#change(em, BATCH),
  ];

  async #change(em: EntityManager, n: number): Promise<void> {
    for (const counter of await em.find(Counter, { id: { $lte: n } })) {
      counter.n++;
    }
    await em.flush();
    this.done++;
    this.bumps += n;
  }

  /** A rival is faster; then the same EntityManager refreshes, and writes after all. */
  async #lose(em: EntityManager, n: number): Promise<void> {
    const counters = await em.find(Counter, { id: { $lte: n } });
    await em.nativeUpdate(Counter, { id: 1 }, { note: String(this.done) });
    counters.forEach((counter) => counter.n++);
    try {
      await em.flush();
    } catch (error) {
      if (!(error instanceof ConcurrentUpdate)) {
        throw error;
      }
      this.conflicts++;
      const stale = error.conflicts[0]!.entity as (typeof counters)[number];
      await em.refresh(stale);
      stale.n++;
      await em.flush();
    }
    this.done += 2;
    this.bumps += n + 1;
  }

  async #rollBack(em: EntityManager): Promise<void> {
    const changed = await em.find(Counter, { id: { $lte: 2 } });
    await em
      .transactional(async (tx) => {
        changed.forEach((counter) => counter.n++);
        await tx.flush();
        throw new RolledBack();
      })
      .catch((error) => {
        if (!(error instanceof RolledBack)) {
          throw error;
        }
      });
    for (const counter of changed) {
      await em.refresh(counter);
    }
    this.done++;
  }

  async #createAndRemove(em: EntityManager): Promise<void> {
    const fresh = em.create(Counter, { id: ++this.#created });
    await em.flush();
    em.remove(fresh);
    await em.flush();
    this.done += 2;
  }
}

class RolledBack extends Error {}

/** better-sqlite3 frees its statements from the event loop, so that has to turn between the collections. */
async function heap(): Promise<number> {
  for (let i = 0; i < 5; i++) {
    globalThis.gc!();
    await turn();
  }
  return process.memoryUsage().heapUsed;
}

const server = database === 'postgresql' ? await startPostgres() : undefined;
const orm = (await (server
  ? MikroORM.init({
      ...{
        driver: versioned(PostgreSqlDriver),
        clientUrl: server.url,
        dbName: `soak_${process.pid}`,
        entities: [Counter],
      },
    })
  : MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Counter] }))) as MikroORM;
const spinner = ora();
try {
  await orm.schema.ensureDatabase();
  await orm.schema.create();
  const em = orm.em.fork();
  for (let id = 1; id <= ROWS; id++) {
    em.create(Counter, { id });
  }
  await em.flush();
  const soak = new Soak(orm);
  const started = Date.now();
  const heaps: number[] = [];
  for (let tenth = 1; tenth <= 10; tenth++) {
    await soak.go((flushes * tenth) / 10, () => {
      if (process.stderr.isTTY) {
        spinner.start(`${soak.done} of ${flushes} flushes`);
      }
    });
    heaps.push(await heap());
    spinner.stop();
    console.error(`${soak.done} flushes: ${heaps.at(-1)} bytes`);
  }
  const counters = await orm.em.fork().find(Counter, {});
  const bumps = counters.reduce((sum, { version }) => sum + version - 1, 0);
  if (bumps !== soak.bumps) {
    throw new Error(`The rows were written ${bumps} times, and should have been ${soak.bumps} times.`);
  }
  const growth = heaps[9]! / heaps[0]! - 1;
  const text = [
    `${soak.done} flushes on ${database} in ${Math.round((Date.now() - started) / 1000)} s, ${soak.conflicts} of them conflicts.`,
    `Heap after a garbage collection: ${(100 * growth).toFixed(2)} % more at the end than after a tenth.`,
    markdownTable(
      [['flushes', 'bytes'], ...heaps.map((bytes, i) => [String((flushes * (i + 1)) / 10), String(bytes)])],
      { align: ['r', 'r'] },
    ),
  ].join('\n\n');
  console.log(text);
  if (flushes >= FLUSHES[database]) {
    const results = new URL('./results/', import.meta.url);
    mkdirSync(results, { recursive: true });
    writeFileSync(new URL(`soak-${database}.md`, results), `${text}\n`);
  }
  process.exitCode = growth <= GROWTH ? 0 : 1;
} finally {
  if (server) {
    await orm.schema.dropDatabase();
  }
  await orm.close();
  await server?.stop();
}
