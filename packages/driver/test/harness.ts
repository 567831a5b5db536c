/** What the shared suite needs from a database: open a fresh one with some entities, and see what is sent to it. */
import {
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  MikroORM,
  type Options,
  ReferenceKind,
} from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { describe, onTestFinished, test } from 'vitest';
import { type Kept, giveBack, isOfRows, nameOf, take } from './kept.ts';

type Entities = NonNullable<Options['entities']>;

export type Gap =
  | 'upsert of single-table inheritance'
  | 'nullable generated columns'
  | 'comparison of single-table schemas'
  | 'streams';

export interface TestDriver {
  readonly name: string;
  /** Connections may write at the same time; without it, a race is one of interleaved forks. */
  readonly concurrent: boolean;
  /** What is locked after a savepoint stays so when that is rolled back, and so do gaps in an index. */
  readonly keepsLocks?: boolean;
  /** Batches go into one statement. */
  readonly batches: boolean;
  /** What a flush needs no transaction for: a statement of updates or deletes, of inserts too, or nothing. */
  readonly alone: 'every statement' | 'updates and deletes' | 'nothing';
  /** There may be another database that reads go to. */
  readonly replicas: boolean;
  /** An upsert may have a condition on the row that exists (`onConflictWhere`). */
  readonly conditionalUpserts: boolean;
  /** How many levels a cascade of the database goes down. */
  readonly cascadeDepth: number;
  /** What MikroORM itself cannot do on this database: tests of it are expected to fail. */
  readonly gaps?: readonly Gap[];
  /** The driver as MikroORM has it. */
  readonly plain: NonNullable<Options['driver']>;
  /** Options for a database that has these schemas besides its own. */
  schemas(names: string[]): Partial<Options> | Promise<Partial<Options>>;
  /** SQL by which something in the database keeps back a row when it is updated or deleted, without an error. */
  readonly keepsBack?: Record<string, (table: string, operation: 'update' | 'delete', id: number) => string[]>;
  /** SQL that makes an integer column wider than its entity says. */
  widens?(table: string, column: string): string[];
  /** SQL that removes a unique index. */
  dropUnique(table: string, index: string, column: string): string;
  /** SQL that a new database needs before its tables. */
  readonly setUp?: string;
  /** SQL that shows exactly what a column holds. */
  literal(column: string): string;
  /** SQL that makes all tables as new, where that is worth it: rows are gone, and keys are generated from 1. */
  readonly empty?: string;
  /** The options for a new, empty database, which is given back when `atEnd` says, also when nobody has opened it. */
  create(atEnd?: (giveBack: () => Promise<void>) => void): Promise<Partial<Options>>;
}

export interface Database {
  readonly orm: MikroORM;
  /** A new unit of work, as a request handler has it. */
  fork(): SqlEntityManager;
  /** The statements that were sent while `work` ran, as text with their values, but for what is asked once. */
  sent(work: () => Promise<unknown>): Promise<string[]>;
}

/** The question which relations are no plain tables: the first flush asks it. */
const ONCE = /writes_instead/;

/** A database with the tables of these entities, which are empty; the test gives it back when it ends. */
export async function open(driver: TestDriver, entities: Entities, more: Partial<Options> = {}): Promise<Database> {
  if (!driver.empty || Object.keys(more).length > 0) {
    const opened = await openNew(driver, entities, more);
    onTestFinished(opened.close);
    return opened.db;
  }
  const name = `${driver.name} ${nameOf(entities as object[])}`;
  const kept = (await take(name)) ?? (await openNew(driver, entities, more));
  onTestFinished(() => giveBack(name, kept));
  return kept.db;
}

/** The same in an ORM of its own, for a test that changes it, or that is about its first flush. */
export async function openOwn(driver: TestDriver, entities: Entities, more: Partial<Options> = {}): Promise<Database> {
  return open({ ...driver, empty: undefined }, entities, more);
}

/** What `open()` gives, from the start, with what there is to hand it on. */
export async function openNew(driver: TestDriver, entities: Entities, more: Partial<Options> = {}): Promise<Kept> {
  const atEnd: (() => Promise<unknown>)[] = [];
  const options = await driver.create((giveBack) => atEnd.unshift(giveBack));
  const state = { log: [] as string[], isAsNew: true };
  const orm = await MikroORM.init({
    ...options,
    ...more,
    entities,
    debug: ['query', 'query-params'],
    colors: false,
    // [query] update … [took 1 ms, 2 rows affected]
    logger: (line) => {
      const sql = line.replace(/^\[query\] /, '').replace(/ \[took .*$/s, '');
      state.isAsNew &&= isOfRows(sql);
      if (!ONCE.test(sql)) {
        state.log.push(sql);
      }
    },
  } as Options);
  const kept: Kept = {
    db: {
      orm,
      fork: () => orm.em.fork() as EntityManager as SqlEntityManager,
      async sent(work) {
        state.log = [];
        await work();
        return state.log;
      },
    },
    state,
    empty: driver.empty,
    async close() {
      await orm.close(true);
      for (const giveBack of atEnd) {
        await giveBack();
      }
    },
  };
  if (driver.setUp) {
    await (orm.em as EntityManager as SqlEntityManager).getConnection().execute(driver.setUp);
  }
  await orm.schema.create();
  state.isAsNew = true;
  return kept;
}

/** What is said to these entities when the ORM starts: before anything is connected, so no database is needed. */
export async function refusal(driver: TestDriver, entities: Entities): Promise<string> {
  const wrapped = versioned(driver.plain as Parameters<typeof versioned>[0]) as unknown as Options['driver'];
  return (await thrown(() => MikroORM.init({ driver: wrapped, dbName: 'none', entities } as Options))).message;
}

/** Options for the same entities on the driver as MikroORM has it, where the version is a number like any other. */
export function withoutLock(driver: TestDriver): Partial<Options> {
  const onMetadata = (meta: EntityMetadata) => {
    for (const prop of Object.values<EntityProperty>(meta.properties)) {
      if ((prop.type as unknown) === VersionField) {
        Object.assign(prop, { type: 'integer', default: 1 });
      }
    }
  };
  return { driver: driver.plain, discovery: { onMetadata } };
}

function isStored({ persist, kind, object, owner }: EntityProperty): boolean {
  return (
    persist !== false &&
    (kind !== ReferenceKind.EMBEDDED || Boolean(object)) &&
    (kind !== ReferenceKind.ONE_TO_ONE || Boolean(owner)) &&
    kind !== ReferenceKind.MANY_TO_MANY
  );
}

/** Everything that the tables of a database hold, exactly; versions only when asked for. */
export async function stored(driver: TestDriver, { orm, fork }: Database, versions?: 'with versions') {
  const platform = orm.em.getPlatform();
  const tables: Record<string, Record<string, string | null>[]> = {};
  for (const meta of orm.getMetadata().getAll().values()) {
    const columns = (meta.props as EntityProperty[])
      .filter((prop) => isStored(prop) && (versions || prop.name !== 'version'))
      .flatMap((prop) => prop.fieldNames ?? [])
      .map((name) => platform.quoteIdentifier(name));
    if (!meta.embeddable) {
      const selected = [...new Set(columns)].map((column) => `${driver.literal(column)} as ${column}`);
      const table = platform.quoteIdentifier(meta.schema ? `${meta.schema}.${meta.tableName}` : meta.tableName);
      const order = selected.map((_, i) => i + 1);
      const sql = `select ${selected.join(', ')} from ${table} order by ${order.join(', ')}`;
      tables[meta.className] = await fork().getConnection().execute(sql);
    }
  }
  return tables;
}

/** The kinds of statements of a flush, with its transaction where it has one: a single update or delete needs none. */
export function inTransaction(driver: TestDriver, kinds: string[]): string[] {
  return kinds.length === 1 && driver.alone !== 'nothing' ? kinds : ['begin', ...kinds, 'commit'];
}

/** Tests that make sense on some databases only; where they do not they are none, because a skipped test is a failure. */
export function testWhere(applies: boolean): typeof test {
  return applies ? test : ((() => {}) as unknown as typeof test);
}

/** @see testWhere */
export function describeWhere(applies: boolean): typeof describe {
  return applies ? describe : ((() => {}) as unknown as typeof describe);
}

/** A test of something that MikroORM itself cannot do on some databases, where it must fail. */
export function testUnless(driver: TestDriver, gap: Gap): typeof test.fails {
  return driver.gaps?.includes(gap) ? test.fails : test;
}

/** The error that `work` throws; a failure when it throws none. */
export async function thrown(work: () => Promise<unknown>): Promise<Error & Record<string, unknown>> {
  try {
    await work();
  } catch (error) {
    return error as Error & Record<string, unknown>;
  }
  throw new Error('nothing was thrown');
}

/** How often a control races at most. */
const RACES = 10;

/**
 * What the first race counts that shows what is broken: on a busy machine those who race may hardly meet.
 *
 * @param race returns how often it showed
 */
export async function untilNoticed(race: () => Promise<number>): Promise<number> {
  for (let i = 0; i < RACES; i++) {
    const count = await race();
    if (count > 0) {
      return count;
    }
  }
  return 0;
}
