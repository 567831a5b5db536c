/** Two connections on one SQLite file: a stale snapshot is a lost race, a busy timeout is none. */
import { DefaultLogger, MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { type EntityManager, SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { describe, expect, onTestFinished, test } from 'vitest';
import { sqliteFile } from './drivers/sqlite.ts';
import { open, thrown } from './harness.ts';

class Counter {
  id!: number;
  n!: number;
  code!: string | null;
  next!: Counter | null;
  version!: number;
}
const CounterSchema = defineEntity({
  class: Counter,
  properties: {
    id: p.integer().primary().autoincrement(false),
    n: p.integer().default(0),
    code: p.string().nullable().unique().check(`code <> 'refused'`),
    next: () => p.manyToOne(Counter).nullable().deferMode('deferred'),
    version: p.type(VersionField).default(1),
  },
});
/** Without a lock. */
const Plain = defineEntity({ name: 'Plain', properties: { id: p.integer().primary(), n: p.integer().default(0) } });

/** Counters 1 and 2, and two connections of their own, of which nobody waits for the other's locks. */
async function setUp(journal: 'wal' | 'delete') {
  const entities = [CounterSchema, Plain];
  const more: Partial<Options> = { driverOptions: { timeout: 1 } };
  const { orm } = await open(sqliteFile, entities, more);
  await orm.em.getConnection().execute(`pragma journal_mode = ${journal}`);
  const { dbName } = orm.config.getAll();
  const rival = await MikroORM.init({
    driver: versioned(SqliteDriver),
    dbName,
    entities,
    ...more,
    // of the same name, its EntityManager would be ours inside of our transactions
    contextName: 'theirs',
  });
  onTestFinished(() => rival.close());
  const seed = orm.em.fork();
  for (const id of [1, 2]) {
    seed.create(Counter, { id, n: 0, code: null, next: null, version: 1 });
    seed.create(Plain, { id });
  }
  await seed.flush();
  return { ours: () => orm.em.fork() as EntityManager, theirs: () => rival.em.fork() as EntityManager };
}

type Fork = () => EntityManager;

/** Somebody else commits while our transaction has a snapshot. */
const commit = (theirs: Fork) => theirs().nativeUpdate(Counter, 2, { n: 100 });

describe('a stale snapshot', () => {
  const statements: Record<string, (tx: EntityManager) => Promise<unknown>> = {
    'an INSERT': async (tx) => {
      tx.create(Counter, { id: 9, n: 5, code: null, next: null, version: 1 });
      await tx.flush();
    },
    'an UPDATE of one row': async (tx) => {
      (await tx.findOneOrFail(Counter, 1)).n = 5;
      await tx.flush();
    },
    'an UPDATE of a batch': async (tx) => {
      (await tx.find(Counter, {})).forEach((counter) => (counter.n = 5));
      await tx.flush();
    },
    'a DELETE of one row': async (tx) => tx.remove(await tx.findOneOrFail(Counter, 1)).flush(),
    'a DELETE of a batch': async (tx) => tx.remove(await tx.find(Counter, {})).flush(),
  };
  for (const [name, work] of Object.entries(statements)) {
    test(`is a ConcurrentUpdate at ${name}, and the next transaction has a fresh one`, async () => {
      const { ours, theirs } = await setUp('wal');
      const em = ours();
      const error = (await thrown(() =>
        em.transactional(async (tx) => {
          await tx.find(Counter, {});
          await commit(theirs);
          await work(tx);
        }),
      )) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      expect(error.conflicts).toEqual([]);
      expect(error.cause).toMatchObject({ code: 'SQLITE_BUSY_SNAPSHOT' });
      expect(await ours().find(Counter, {}, { orderBy: { id: 'asc' } })).toMatchObject([
        { n: 0, version: 1 },
        { n: 100, version: 2 },
      ]);
      await ours().transactional(work);
      expect(await ours().count(Counter, { id: [1, 2], n: 0, version: 1 })).toBe(name === 'an INSERT' ? 1 : 0);
    });
  }
});

describe('an error that is no race stays what it is', () => {
  type Case = [code: string, work: (em: EntityManager, theirs: Fork) => Promise<unknown>, journal?: 'delete'];
  const cases: Record<string, Case> = {
    'a write outside a flush': [
      'SQLITE_BUSY_SNAPSHOT',
      (em, theirs) =>
        em.transactional(async (tx) => {
          await tx.find(Plain, {});
          await commit(theirs);
          await tx.nativeUpdate(Counter, 1, { n: 5 });
        }),
    ],
    'a flush of rows without a version': [
      'SQLITE_BUSY_SNAPSHOT',
      (em, theirs) =>
        em.transactional(async (tx) => {
          const [plain] = await tx.find(Plain, {});
          await commit(theirs);
          plain!.n = 5;
        }),
    ],
    'a busy timeout, at a statement': [
      'SQLITE_BUSY',
      (em, theirs) =>
        theirs().transactional(async (writer) => {
          await commit(() => writer as EntityManager);
          (await em.findOneOrFail(Counter, 1)).n = 5;
          await em.flush();
        }),
    ],
    'a busy timeout, at COMMIT': [
      'SQLITE_BUSY',
      (em, theirs) =>
        theirs().transactional(async (reader) => {
          await reader.find(Counter, {});
          (await em.findOneOrFail(Counter, 1)).n = 5;
          await em.flush();
        }),
      'delete',
    ],
    'a busy timeout, at the COMMIT of a transaction': [
      'SQLITE_BUSY',
      (em, theirs) =>
        theirs().transactional(async (reader) => {
          await reader.find(Counter, {});
          await em.transactional(async (tx) => {
            (await tx.find(Counter, {})).forEach((counter) => (counter.n = 5));
            await tx.flush();
          });
        }),
      'delete',
    ],
    'a unique violation': [
      'SQLITE_CONSTRAINT_UNIQUE',
      async (em) => {
        (await em.find(Counter, {})).forEach((counter) => (counter.code = 'same'));
        await em.flush();
      },
    ],
    'a check constraint': [
      'SQLITE_CONSTRAINT_CHECK',
      async (em) => {
        (await em.findOneOrFail(Counter, 1)).code = 'refused';
        await em.flush();
      },
    ],
    'a deferred foreign key, at COMMIT': [
      'SQLITE_CONSTRAINT_FOREIGNKEY',
      async (em) => {
        (await em.findOneOrFail(Counter, 1)).next = em.getReference(Counter, 99);
        await em.flush();
      },
    ],
  };
  for (const [name, [code, work, journal]] of Object.entries(cases)) {
    test(name, async () => {
      const { ours, theirs } = await setUp(journal ?? 'wal');
      const em = ours();
      const counter = await em.findOneOrFail(Counter, 1);
      const error = await thrown(() => work(em, theirs));
      expect(error).not.toBeInstanceOf(ConcurrentUpdate);
      expect(error).toMatchObject({ code });
      expect(counter.version).toBe(1);
      expect(await ours().count(Counter, { n: 5 })).toBe(0);
      // the change is still to be made
      em.assign(counter, { code: 'fine', next: null });
      const other = await em.findOneOrFail(Counter, 2);
      await em.refresh(other);
      await em.flush();
      expect(await ours().findOneOrFail(Counter, 1)).toMatchObject({ code: 'fine', version: 2 });
    });
  }
});

test('which tables have triggers is asked before a transaction begins: one that has read does not wait for a writer', async () => {
  const queries: string[] = [];
  const { orm } = await open(sqliteFile, [CounterSchema, Plain], {
    loggerFactory: (options) => new DefaultLogger({ ...options, writer: (line) => void queries.push(line) }),
  });
  const em = orm.em.fork() as EntityManager;
  const counter = em.create(Counter, { id: 1, n: 0, code: null, next: null, version: 1 });
  const plain = em.create(Plain, { id: 1 });
  await em.flush();
  counter.n = 1;
  plain.n = 1;
  queries.length = 0;
  await em.flush();
  const words = queries.map((query) => /sqlite_master|begin|update|commit/.exec(query)?.[0]);
  expect(words).toEqual(['sqlite_master', 'begin', 'update', 'update', 'commit']);
});
