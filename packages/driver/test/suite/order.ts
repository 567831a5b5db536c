/** Everybody writes rows and tables in one order, so that flushes wait for each other instead of deadlocking. */
import { type EntityManager, type EntitySchema, type Options, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { type TestDriver, open, withoutLock, describeWhere, testWhere } from '../harness.ts';

const version = p.type(VersionField);

const DAY = 24 * 60 * 60 * 1000;
const days = [0, 1, 2, 3, 5, 8, 13, 40, 400, 4000, 9000].map((n) => new Date(Date.UTC(1999, 11, 29) + n * DAY));
const words = ['a', 'B', 'b0', 'Z', 'é', 'ö', '_', '10', '9', 'ﬀ', '😀', 'b_'];
const uuids = ['f', '0', 'a', '9', '1', 'c'].map((digit, i) => `${digit}000000${i}-0000-4000-8000-00000000000${digit}`);

/** Keys of a type, in an order that is nobody's. */
interface Keys {
  readonly values: unknown[];
  readonly property: unknown;
  /** Databases that know the type by this name. */
  readonly only?: RegExp;
}
const POSTGRESQL = /PostgreSQL|PGlite/;
const keys: Record<string, Keys> = {
  date: { values: days.map((day) => day.toISOString().slice(0, 10)), property: p.date() },
  datetime: { values: days, property: p.datetime() },
  decimal: {
    values: ['0.5', '9.5', '10.25', '100', '9.75', '1000.125', '99.5', '12345678901234567.5'],
    property: p.decimal().columnType('numeric(30,3)').autoincrement(false),
  },
  'bigint as text': {
    values: ['9', '10', '1', '100', '9007199254740993', '20'],
    property: p.bigint('string').autoincrement(false),
  },
  double: { values: [0.5, 10, 9, 3, 1e10, 2.25], property: p.double().autoincrement(false) },
  uuid: { values: uuids, property: p.uuid() },
  text: { values: words, property: p.string().length(20) },
  'char with padding': { values: ['a', 'ab', 'B', 'A!', '~'], property: p.string().columnType('char(4)') },
  'text of another collation': {
    values: words,
    property: p.string().columnType('varchar(20) character set utf8mb4 collate utf8mb4_bin'),
    only: /MariaDB/,
  },
  binary: {
    values: [[255], [1], [0, 1], [128, 2], [127], [2]].map((bytes) => Buffer.from(bytes)),
    property: p.blob().columnType('varbinary(20)'),
    only: /MariaDB/,
  },
  bytea: {
    values: [[255], [1], [0, 1], [128, 2], [127], [2]].map((bytes) => Buffer.from(bytes)),
    property: p.blob(),
    only: POSTGRESQL,
  },
  inet: {
    values: ['10.0.0.1', '9.0.0.1', '100.0.0.1', '::1', '9.0.0.2'],
    property: p.string().columnType('inet'),
    only: POSTGRESQL,
  },
};

const shuffled = <Item>(items: readonly Item[]): Item[] =>
  items
    .map((item) => [Math.random(), item] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, item]) => item);

/** Tables that do not depend on each other, but for the last one; nobody's names say which comes first. */
const counter = (name: string) =>
  defineEntity({ name, properties: { id: p.integer().primary(), n: p.integer().default(0), version } });
const Zebra = counter('Zebra');
const Apple = counter('Apple');
const Mango = defineEntity({
  name: 'Mango',
  properties: {
    id: p.integer().primary(),
    n: p.integer().default(0),
    zebra: () => p.manyToOne(Zebra).nullable(),
    version,
  },
});
type Tables = EntitySchema<{ id: number; n: number }>[];
const independent = [Zebra, Apple] as Tables;
const all = [Zebra, Apple, Mango] as Tables;

const WORKERS = 8;
const ROWS = 5;

export function orders(driver: TestDriver): void {
  // which one is first by its name must not decide
  test.each([
    ['A', 'B', 'C'],
    ['A', 'C', 'B'],
    ['B', 'A', 'C'],
    ['B', 'C', 'A'],
    ['C', 'A', 'B'],
    ['C', 'B', 'A'],
  ])('a circle of tables in which one key may be filled in later: %s needs %s, that may have %s', async (...names) => {
    const [needs, may, last] = names.map((name) => `Circle${name}`) as [string, string, string];
    const id = p.integer().primary().autoincrement(false);
    const Last: EntitySchema = defineEntity({
      name: last,
      properties: { id, next: () => p.manyToOne(Needs), version },
    }) as never;
    const May: EntitySchema = defineEntity({
      name: may,
      properties: { id, next: () => p.manyToOne(Last).nullable(), version },
    }) as never;
    const Needs: EntitySchema = defineEntity({
      name: needs,
      properties: { id, next: () => p.manyToOne(May), version },
    }) as never;
    const { fork } = await open(driver, [Needs, May, Last]);
    const em = fork();
    type Node = { id: number; next?: Node };
    const second = em.create(May, { id: 1 } as never) as Node;
    const first = em.create(Needs, { id: 1, next: second } as never) as Node;
    second.next = em.create(Last, { id: 1, next: first } as never) as Node;
    await em.flush();
    const check = fork();
    const found = (await check.findOneOrFail(May, 1 as never, { populate: ['next.next.next'] as never })) as Node;
    expect(found.next!.next!.next).toBe(found);
    // the circle has to be opened first
    delete found.next;
    (found as { next: unknown }).next = null;
    await check.flush();
    [Needs, May, Last].forEach((entity) => check.remove(check.getReference(entity, 1 as never)));
    await check.flush();
    expect(await fork().count(May)).toBe(0);
  });

  describeWhere(driver.concurrent)('order of keys', () => {
    for (const [name, { values, property, only }] of Object.entries(keys)) {
      for (const batches of [true, false]) {
        testWhere(!only || only.test(driver.name))(
          `${name}: ${batches ? 'batches take' : 'statements for single rows come with'} the rows in the order of the database`,
          async () => {
            const id = (property as ReturnType<typeof p.string>).primary();
            const Row = defineEntity({
              name: 'Row',
              tableName: 'rows_of',
              properties: { id, title: p.string(), version },
            });
            const { fork, sent } = await open(driver, [Row], { batchSize: 2, useBatchUpdates: batches });
            const seed = fork();
            shuffled(values).forEach((key, i) => seed.create(Row, { id: key as string, title: `row ${i}` }));
            await seed.flush();
            // the batches of PostgreSQL take texts in this order, whatever the collation of the column is
            const isText = POSTGRESQL.test(driver.name) && /^(?:text|char)/.test(name);
            const ordered = await fork()
              .getConnection()
              .execute<{ title: string }[]>(`select title from rows_of order by id${isText ? ' collate "C"' : ''}`);
            const em = fork();
            const rows = shuffled(await em.find(Row, {}));
            const places = new Map(ordered.map(({ title }, place) => [title, place]));
            rows.forEach((row) => (row.title = `place ${places.get(row.title)}!`));
            const size = batches ? 2 : 1;
            const updates = (await sent(() => em.flush())).filter((sql) => /^(?:with|update)/.test(sql));
            const found = updates.map((sql) => [...new Set(sql.match(/(?<=place )\d+(?=!)/g))].map(Number));
            expect(found.map((one) => one.toSorted((a, b) => a - b))).toEqual(
              Array.from({ length: Math.ceil(values.length / size) }, (_, i) =>
                Array.from({ length: Math.min(size, values.length - i * size) }, (__, j) => i * size + j),
              ),
            );
          },
        );
      }
    }
  });

  describeWhere(driver.concurrent)('order of tables', () => {
    type Write = (em: EntityManager, row: object) => void;
    const change: Write = (_, row) => void (row as { n: number }).n++;
    // a few, so that there are rows left; new ones would wait for the gaps that MariaDB locks, which is another matter
    const remove: Write = (em, row) => void (Math.random() < 0.05 && em.remove(row));

    /** Every worker loads the tables in an order of its own, and writes the same rows of some of them. */
    async function race(tables: Tables, flushes: number, writes: readonly Write[], more: Partial<Options> = {}) {
      const { fork } = await open(driver, tables, { pool: { min: 0, max: WORKERS }, ...more });
      const seed = fork();
      for (const table of tables) {
        for (let id = 1; id <= ROWS; id++) {
          seed.create(table, { id, n: 0 });
        }
      }
      await seed.flush();
      let started = 0;
      const counts = { saved: 0, conflicts: 0, deadlocks: 0 };
      const work = async (worker: number) => {
        while (started++ < flushes) {
          const em = fork();
          // two of three now and then: what is between them must not decide
          const mine = shuffled(tables).slice(tables.length > 2 ? worker % 2 : 0);
          for (const table of mine) {
            const rows = shuffled(await em.findAll(table));
            rows.forEach((row) => writes[worker % writes.length]!(em, row));
          }
          try {
            await em.flush();
            counts.saved++;
          } catch (error) {
            const { cause, name } = error as Error;
            if (cause || name === 'DeadlockException') {
              counts.deadlocks++;
            } else {
              expect(error).toBeInstanceOf(ConcurrentUpdate);
              counts.conflicts++;
            }
          }
        }
      };
      await Promise.all(Array.from({ length: WORKERS }, (_, worker) => work(worker)));
      expect(counts.saved + counts.conflicts + counts.deadlocks).toBe(flushes);
      return counts;
    }

    test('tables that do not depend on each other are changed in one order by everybody: no deadlock', async () => {
      const counts = await race(all, 150, [change]);
      expect(counts.conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
      expect(counts.deadlocks).toBe(0);
    });

    test('and deleted from in the same order', async () => {
      const counts = await race(independent, 150, [change, change, remove]);
      expect(counts.conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
      expect(counts.deadlocks).toBe(0);
    });

    test('foreign keys change along: only where the row that they refer to is shared, there are deadlocks', async () => {
      const named = { id: p.integer().primary(), n: p.integer(), version };
      const Parent = defineEntity({ name: 'Parent', properties: named });
      const parent = () => p.manyToOne(Parent).nullable();
      const Child = defineEntity({ name: 'Child', properties: { ...named, parent } });
      const refer: Write = (em, row) => {
        if (Math.random() < 0.3) {
          (row as { n: number }).n++;
          if (row instanceof Child.class) {
            Object.assign(row, { parent: em.getReference(Parent, 1 + Math.floor(Math.random() * ROWS)) });
          }
        }
      };
      const counts = await race([Parent, Child] as never, 150, [refer]);
      expect(counts.saved).toBeGreaterThan(0);
      expect(counts.deadlocks > 0).toBe(/MariaDB/.test(driver.name));
    });

    test('the same race in the order of MikroORM ends in deadlocks', async () => {
      const counts = await race(all, 30, [change], withoutLock(driver));
      expect(counts.deadlocks).toBeGreaterThan(0);
    });
  });
}
