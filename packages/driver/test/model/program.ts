/** What a program may do: every command does it with MikroORM, says in the oracle what it must do, and compares. */
import { ConcurrentUpdate, VersionField, VersionNotLoaded, touch, verify } from '@mikro-ool/core';
import { FlushMode, LockMode, type Options, defineEntity, p } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import type { Database, TestDriver } from '../harness.ts';
import {
  type Copy,
  type Failure,
  type Fields,
  Rows,
  type StaleRow,
  TABLES,
  type Table,
  type Unit,
  applyFlush,
  changedColumns,
  differs,
  failuresOf,
  isChain,
  find,
  isSame,
  isUncovered,
  isVersion,
  isVersioned,
  matches,
  planOf,
  refresh,
  reload,
  reread,
  rowId,
} from './oracle.ts';

class Item {
  id!: number;
  a!: number;
  b!: string | null;
  slug!: string | null;
  version!: number;
}
class Entry {
  id!: number;
  a!: number;
  version!: number;
}
class Note {
  id!: number;
  a!: number;
}
class Tally {
  id!: number;
  a!: number;
  seen!: number;
  version!: number;
}
const CLASSES = { item: Item, entry: Entry, note: Note, tally: Tally };

export const entities = [
  defineEntity({
    class: Item,
    properties: {
      id: p.integer().primary().autoincrement(false),
      a: p.integer(),
      b: p.string().nullable(),
      slug: p.string().nullable().unique(),
      version: p.type(VersionField),
    },
  }),
  defineEntity({
    class: Entry,
    properties: { id: p.integer().primary(), a: p.integer(), version: p.type(VersionField) },
  }),
  defineEntity({
    class: Note,
    properties: { id: p.integer().primary().autoincrement(false), a: p.integer() },
  }),
  defineEntity({
    class: Tally,
    properties: {
      id: p.integer().primary().autoincrement(false),
      a: p.integer(),
      seen: p.integer(),
      version: p.type(new VersionField({ exclude: ['seen'], guard: true })),
    },
  }),
];

/** One step, as drawn: what the numbers mean depends on the state that it finds. */
export interface Command {
  readonly op: keyof typeof COMMANDS;
  readonly em: 0 | 1;
  readonly n: number;
  readonly m: number;
}

interface ModelUnit extends Unit {
  /** The EntityManager in use: a fork of its own inside em.transactional(). */
  em: EntityManager;
  depth: number;
  stale: Copy[];
  /** Keys that more than one object has had: MikroORM's identity map has the last one, or none. */
  readonly reused: Set<string>;
}

/** Counts the statements that may have changed a row. */
export class Writes {
  count = 0;

  readonly options: Partial<Options> = {
    onQuery: (sql) => {
      this.count += /^select /i.test(sql) ? 0 : 1;
      return sql;
    },
  };
}

/** The oracle and MikroORM disagree. */
export class Disagreement extends Error {}

/** One run of a program. */
export class World {
  readonly lines: string[] = [];
  readonly events = new Set<string>();
  readonly rows: Rows;
  readonly units: [ModelUnit, ModelUnit];
  readonly #db: Database;
  readonly #driver: TestDriver;
  readonly #rival: EntityManager;
  readonly #writes: Writes;
  #depth = 0;

  constructor(db: Database, driver: TestDriver, writes: Writes) {
    this.#db = db;
    this.#driver = driver;
    this.#writes = writes;
    this.rows = new Rows(driver.keepsLocks);
    this.#rival = db.fork();
    const unit = (name: string): ModelUnit => {
      const em = db.fork();
      em.setFlushMode(FlushMode.COMMIT);
      return { name, copies: [], em, depth: 0, stale: [], reused: new Set() };
    };
    this.units = [unit('em1'), unit('em2')];
  }

  /** Without a dialect there are none. */
  get hasGuards(): boolean {
    return this.#driver.batches;
  }

  /** The items that a result cache has, whole and each column alone. */
  remembered: ReadonlyMap<string, Fields> = new Map();

  async remember(): Promise<void> {
    this.remembered = new Map([...this.rows.committed].filter(([id]) => id.startsWith('item ')));
    for (const column of [undefined, ...TABLES.item.columns]) {
      const em = this.#db.fork();
      await em.clearCache(recalling(column).cache[0]);
      await em.find(Item, {}, recalling(column));
    }
  }

  /** Empties the database, and puts a few rows into it. */
  async reset(): Promise<void> {
    await this.raw('delete from item', 'delete from entry', 'delete from note', 'delete from tally');
    await this.raw(
      "insert into item (id, a, b, slug, version) values (1, 0, 'x', 's1', 1), (2, 0, null, 's2', 1), (3, 0, 'x', null, 1), (4, 0, null, null, 1)",
      'insert into note (id, a) values (1, 0), (2, 0)',
      'insert into tally (id, a, seen, version) values (1, 0, 0, 1), (2, 0, 0, 1), (3, 0, 0, 1)',
    );
    for (const id of [1, 2, 3, 4]) {
      this.rows.committed.set(rowId('item', id), {
        a: 0,
        b: id % 2 ? 'x' : null,
        slug: id < 3 ? `s${id}` : null,
        version: 1,
      });
    }
    [1, 2].forEach((id) => this.rows.committed.set(rowId('note', id), { a: 0 }));
    [1, 2, 3].forEach((id) => this.rows.committed.set(rowId('tally', id), { a: 0, seen: 0, version: 1 }));
  }

  async run(program: readonly Command[]): Promise<void> {
    const commands = program[Symbol.iterator]();
    await this.#runUntilEnd(commands);
    for (const unit of this.units) {
      if (unit.em.isInTransaction()) {
        await this.#step({ op: 'commit', em: unit === this.units[0] ? 0 : 1, n: 0, m: 0 }, commands);
      }
      if (unit.em.isInTransaction()) {
        await this.#step({ op: 'rollback', em: unit === this.units[0] ? 0 : 1, n: 0, m: 0 }, commands);
      }
    }
    await this.check();
  }

  /** Leaves nothing open, whatever happened. */
  async close(): Promise<void> {
    for (const { em } of this.units) {
      if (em.isInTransaction()) {
        await em.rollback();
      }
    }
  }

  async #runUntilEnd(commands: Iterator<Command>): Promise<'leave' | 'throw'> {
    for (let next = commands.next(); !next.done; next = commands.next()) {
      const { op } = next.value;
      if (op === 'leave' || op === 'throw') {
        if (this.#depth > 0) {
          return op;
        }
      } else {
        await this.#step(next.value, commands);
      }
    }
    return 'leave';
  }

  async #step(command: Command, commands: Iterator<Command>): Promise<void> {
    const unit = this.units[command.em];
    const { count } = this.#writes;
    const line = await COMMANDS[command.op](this, unit, command, commands);
    if (line) {
      this.events.add(command.op);
      if (this.#writes.count > count || !ONLY_READ.has(command.op)) {
        await this.check();
      } else {
        this.#checkMemory();
      }
    }
  }

  /** The line of the program, printed when it fails; written before it runs. */
  say(text: string): true {
    this.lines.push(`${'  '.repeat(this.#depth)}${text}`);
    return true;
  }

  // what may happen now

  /** May this unit talk to the database? One connection is busy with the one transaction. */
  reaches(unit: Unit | undefined): boolean {
    return !this.rows.owner || this.rows.owner === unit || this.#driver.concurrent;
  }

  mayWrite(unit: Unit | undefined, table: Table, key: unknown): boolean {
    const waits = () =>
      this.rows.isLocked(rowId(table, key)) || (this.#driver.keepsLocks && table === 'item' && this.rows.movesUnique);
    return this.reaches(unit) && (this.rows.owner === unit || !waits());
  }

  /** A row that is not written, and locked all the same. */
  locks(unit: Unit, table: Table, key: unknown): void {
    if (this.#driver.keepsLocks) {
      this.rows.hold(unit, rowId(table, key));
    }
  }

  /** A new entity whose key exists meanwhile would be merged with the row by MikroORM. */
  mayRead(unit: Unit): boolean {
    const rows = this.rows.visibleTo(unit);
    return this.reaches(unit) && !unit.copies.some((c) => c.state === 'new' && rows.has(rowId(c.table, c.key)));
  }

  // statements

  /** By the rival, who has a connection of its own where there are several. */
  async raw(...statements: string[]): Promise<void> {
    for (const sql of statements) {
      await this.#rival.getConnection().execute(sql);
    }
  }

  async flush(unit: ModelUnit, work: () => Promise<unknown> = () => unit.em.flush()): Promise<boolean> {
    const plan = planOf(unit);
    const failures = failuresOf(plan, this.rows.visibleTo(unit), this.#driver.batches);
    let error: unknown;
    const sent = await this.#db.sent(async () => {
      try {
        await work();
      } catch (caught) {
        error = caught;
      }
    });
    const empty = Object.values(plan).every((copies: Copy[]) => copies.length === 0);
    if (failures.length > 0) {
      // what is read to check a claim is locked, also when the claim was wrong
      (plan.claims.length > 0 || this.#driver.keepsLocks ? Object.values(plan).flat() : []).forEach((copy: Copy) =>
        this.rows.hold(unit, rowId(copy.table, copy.key)),
      );
      unit.stale = this.expectFailure(error, failures);
      if (failures[0]!.error === 'VersionNotLoaded' || failures[0]!.error === 'InvalidVersion') {
        this.expect(sent, [], 'what was sent');
      }
      return false;
    }
    if (error) {
      this.fail(`flush must succeed, but threw ${show(error)}`);
    }
    if (empty && sent.some((sql) => !/^(commit|release)/.test(sql))) {
      this.fail(`flush has nothing to do, but sent ${sent.join('; ')}`);
    }
    const uncovered = plan.updates.filter(isUncovered);
    const isMixed = plan.updates.some((copy) => copy.table === 'tally' && !isUncovered(copy)) && uncovered.length > 0;
    // a claim beside a unique value that moves is checked by a read of its own, and a table that takes two statements is locked
    const reads = plan.claims.length > 0 || plan.updates.some((copy) => copy.moved) || isMixed;
    uncovered.forEach(() => this.events.add('uncovered'));
    if (unit.copies.some((copy) => copy.verified)) {
      this.events.add('verified');
    }
    if (!empty && !reads && sent.some((sql) => sql.startsWith('select'))) {
      this.fail(`flush must not read, but sent ${sent.join('; ')}`);
    }
    applyFlush(unit, plan, this.rows);
    if (!empty) {
      this.events.add('success');
      if (Object.values(plan).flat().length > 1) {
        this.events.add('batch');
      }
      if (unit.stale.length > 0) {
        this.events.add('success after a conflict');
        unit.stale = [];
      }
    }
    return true;
  }

  /** A flush that a signal aborts is written, or else fails and leaves everything pending. */
  async aborted(unit: ModelUnit, moment: (abort: () => void) => unknown): Promise<boolean> {
    const controller = new AbortController();
    Object.assign(unit.em, { signal: controller.signal });
    let error: Error | undefined;
    const flushing = () => {
      const flush = unit.em.flush();
      moment(() => controller.abort());
      return flush;
    };
    const isWritten = await flushing().then(
      () => true,
      (caught: Error) => {
        error = caught;
        return false;
      },
    );
    Object.assign(unit.em, { signal: undefined });
    if (isWritten) {
      return this.flush(unit, async () => {});
    }
    if (!controller.signal.aborted || error instanceof ConcurrentUpdate) {
      this.fail(`flush was aborted, but threw ${show(error)}`);
    }
    return false;
  }

  expectFailure(error: unknown, failures: Failure[]): Copy[] {
    const actual: Failure = {
      error: ((error as Error | undefined)?.constructor.name ?? 'none') as Failure['error'],
      ...(error instanceof ConcurrentUpdate && {
        conflicts: error.conflicts.map(({ entity, primaryKey, operation, expected, actual: now }) => ({
          entity,
          primaryKey,
          operation,
          expected,
          actual: now,
        })),
      }),
    };
    // claims are read together, in no order
    const byKey = (a: StaleRow, b: StaleRow) =>
      a.operation === 'check' ? Number(a.primaryKey) - Number(b.primaryKey) : 0;
    actual.conflicts?.sort(byKey);
    if (!failures.some((failure) => matches(actual, failure))) {
      this.fail(`expected ${failures.map(show).join(' or ')}, but got ${show(actual)} ${show(error)}`);
    }
    this.events.add(actual.error);
    const entitiesOf = (actual.conflicts ?? []).map((conflict) => conflict.entity);
    return this.units.flatMap((unit) => unit.copies).filter((copy) => entitiesOf.includes(copy.entity));
  }

  async transactional(unit: ModelUnit, commands: Iterator<Command>): Promise<void> {
    const outer = unit.em;
    const known = [...unit.copies];
    let fate: 'leave' | 'throw' | 'failed' = 'leave';
    const rolledBack = new Error('changed my mind');
    let failure: unknown;
    this.rows.begin(unit);
    this.#depth++;
    unit.depth++;
    const finish = async (run: () => Promise<unknown>): Promise<void> => {
      try {
        await run();
      } catch (error) {
        failure = error;
      }
    };
    await finish(() =>
      outer.transactional(async (tx) => {
        unit.em = tx;
        fate = await this.#runUntilEnd(commands);
        const failures = failuresOf(planOf(unit), this.rows.visibleTo(unit), this.#driver.batches);
        if (fate === 'throw' || failures.some((f) => f.error === 'UniqueConstraintViolationException')) {
          fate = 'throw';
          throw rolledBack;
        }
      }),
    );
    unit.em = outer;
    this.#depth--;
    unit.depth--;
    if (failure instanceof Disagreement) {
      throw failure;
    }
    const end = fate as 'leave' | 'throw';
    if (end === 'throw') {
      this.say('throw');
      if (failure !== rolledBack) {
        this.fail(`the callback's error must come through, but got ${show(failure)}`);
      }
    } else {
      this.say('end of transactional');
      const succeeded = await this.flush(unit, async () => {
        if (failure) {
          throw failure;
        }
      });
      if (succeeded) {
        this.rows.commit(known);
        return;
      }
    }
    this.rows.rollback(unit);
    this.events.add('rollback');
    // what was created or first loaded inside never became known outside
    unit.copies = unit.copies.filter((copy) => known.includes(copy));
    unit.copies.forEach((copy) => (copy.state = 'managed'));
  }

  // comparison

  async check(): Promise<void> {
    const { owner } = this.rows;
    if (!owner || this.#driver.concurrent) {
      await this.#compareRows(this.#rival, this.rows.visibleTo(undefined), 'the database');
    }
    if (owner) {
      await this.#compareRows((owner as ModelUnit).em, this.rows.visibleTo(owner), "the transaction's view");
    }
    this.#checkMemory();
  }

  #checkMemory(): void {
    for (const unit of this.units) {
      for (const copy of unit.copies) {
        const { table, entity, now, key } = copy;
        const actual = pick(entity, ['id', ...columnsOf(table)]);
        const expected = pick({ ...now, id: key }, ['id', ...columnsOf(table)]);
        this.expect(actual, expected, `${unit.name}'s ${describe(copy)} in memory`);
      }
      if (unit.depth === 0) {
        const created = [
          ...unit.reused,
          ...unit.copies.filter((c) => c.state === 'new').map((c) => rowId(c.table, c.key)),
        ];
        const known = [...unit.em.getUnitOfWork().getIdentityMap()].map((entity) => nameOf(entity));
        const expected = unit.copies.map((c) => rowId(c.table, c.key));
        const settled = (ids: string[]) => ids.filter((id) => !created.includes(id)).toSorted();
        this.expect(settled(known), settled(expected), `${unit.name}'s identity map`);
      }
    }
  }

  async #compareRows(em: EntityManager, rows: ReadonlyMap<string, Fields>, where: string): Promise<void> {
    const found = await em.getConnection().execute<(Fields & { t: string; id: number })[]>(
      `select 'tally' as t, id, a, seen, null as b, null as slug, version from tally
       union all select 'item', id, a, null, b, slug, version from item
       union all select 'entry', id, a, null, null, null, version from entry
       union all select 'note', id, a, null, null, null, null from note`,
      [],
      'all',
      em.getTransactionContext(),
    );
    const actual = Object.fromEntries(found.map((row) => [`${row.t} ${row.id}`, pick(row, columnsOf(row.t as Table))]));
    const expected = Object.fromEntries(
      [...rows].map(([id, row]) => [id, pick(row, columnsOf(id.split(' ')[0] as Table))]),
    );
    this.expect(actual, expected, where);
  }

  expect(actual: unknown, expected: unknown, what: string): void {
    if (!isSame(actual, expected)) {
      this.fail(`${what} must be ${show(expected)}, but is ${show(actual)}`);
    }
  }

  fail(sentence: string): never {
    throw new Disagreement(sentence);
  }
}

const columnsOf = (table: Table): string[] => [
  ...TABLES[table].columns,
  ...(TABLES[table].versioned ? ['version'] : []),
];
const pick = (fields: Fields, names: readonly string[]): Fields =>
  Object.fromEntries(names.map((name) => [name, fields[name] ?? null]));
const nameOf = (entity: object): string => rowId(entity.constructor.name.toLowerCase() as Table, (entity as Item).id);
const describe = (copy: Copy): string =>
  `${copy.state === 'managed' ? '' : `${copy.state} `}${copy.key === undefined ? copy.table : rowId(copy.table, copy.key)}`;

function show(value: unknown): string {
  if (value instanceof Error) {
    return value.stack ?? value.message;
  }
  return (
    JSON.stringify(value, (_, part: unknown) =>
      typeof part === 'number' && !Number.isFinite(part)
        ? String(part)
        : CLASS_LIST.some((c) => part instanceof c)
          ? nameOf(part as object)
          : part,
    ) ?? String(value)
  );
}
const CLASS_LIST = Object.values(CLASSES);

/** When a signal aborts a flush that has been called. */
const MOMENTS: Record<string, (abort: () => void) => unknown> = {
  'at once': (abort) => abort(),
  'a few microtasks later': async (abort) => {
    for (let i = 0; i < 20; i++) {
      await undefined;
    }
    abort();
  },
  'in the next round of the event loop': (abort) => setImmediate(abort),
  'a millisecond later': (abort) => setTimeout(abort, 1),
};

const GIVEN_KEYS = { item: 6, note: 4, entry: 0, tally: 4 };
const VALUES: Record<string, readonly unknown[]> = { a: [0, 1, 2, 3], b: [null, 'x', "y's", ''], seen: [0, 1, 2, 3] };
const editable = (table: Table): string[] => TABLES[table].columns.filter((column) => column !== 'slug');
const of = <T>(list: readonly T[], n: number): T => list[n % list.length]!;

export const DRAWN = ['item', 'item', 'item', 'item', 'note', 'entry', 'tally', 'tally', 'tally'] as const;

/** A table and one of its keys, whether there is a row or not. */
function someKey(world: World, unit: Unit | undefined, n: number): { table: Table; key: number } | undefined {
  const table = of(DRAWN, n);
  if (table !== 'entry') {
    return { table, key: 1 + (Math.floor(n / DRAWN.length) % GIVEN_KEYS[table]) };
  }
  const keys = [...world.rows.visibleTo(unit).keys()]
    .filter((id) => id.startsWith('entry '))
    .map((id) => Number(id.slice(6)));
  return keys.length > 0 ? { table, key: of(keys, n) } : undefined;
}

function someCopy(unit: Unit, n: number, fits: (copy: Copy) => boolean): Copy | undefined {
  const copies = unit.copies.filter(fits);
  return copies.length > 0 ? of(copies, n) : undefined;
}

function literal(value: unknown): string {
  return value === null ? 'null' : typeof value === 'string' ? `'${value.replaceAll("'", "''")}'` : String(value);
}

/** Takes the result of a read into the oracle. */
function taken(
  world: World,
  unit: Unit,
  table: Table,
  entity: Record<string, unknown>,
  row: Fields,
  reading = reread,
): void {
  const copy = find(unit, table, entity['id']);
  if (copy) {
    if (copy.entity !== entity) {
      world.fail(`${unit.name} must have one ${describe(copy)}`);
    }
    return reading(copy, row);
  }
  const key = entity['id'] as number;
  unit.copies.push({
    table,
    entity,
    key,
    state: 'managed',
    initialized: true,
    touched: false,
    now: { ...row },
    base: { ...row },
    loaded: new Set(Object.keys(row)),
  });
}

/** A read of all items, or of one column of them, that a result cache may answer. */
function recalling(column?: string) {
  return {
    ...(column && { fields: [column] as never }),
    orderBy: { id: 'asc' as const },
    cache: [`items ${column ?? ''}`, 600_000] as [string, number],
  };
}

/** These begin and end no transaction; where one has written nothing either, the rows are those of the last comparison. */
const ONLY_READ: ReadonlySet<string> = new Set<Command['op']>([
  ...(['load', 'reload', 'remember', 'recall', 'findOne', 'reference', 'refresh', 'lock', 'clear'] as const),
  ...(['change', 'count', 'changeAll', 'changeBack', 'moveSlug', 'touch', 'verify', 'claim'] as const),
  ...(['create', 'remove'] as const),
]);

type Run = (world: World, unit: ModelUnit, command: Command, commands: Iterator<Command>) => Promise<true | undefined>;

/** Each answers nothing when it makes no sense now. */
export const COMMANDS = {
  load: async (world, unit, { n, m }) => {
    const target = someKey(world, unit, m);
    if (!target || !world.mayRead(unit)) {
      return undefined;
    }
    const { table, key } = target;
    const column = of(TABLES[table].columns, n);
    const where = of([{}, {}, {}, { id: [key] }, { id: [key] }, { a: { $gte: 1 } }], n) as {
      id?: number[];
      a?: object;
    };
    const fields = of([undefined, undefined, [column]], Math.floor(n / 6));
    world.say(`${unit.name} loads ${table} where ${JSON.stringify(where)}${fields ? `, only ${column}` : ''}`);
    const found = (await unit.em.find(CLASSES[table], where as never, {
      ...(fields && { fields: fields as never }),
      orderBy: { id: 'asc' } as never,
    })) as unknown as Record<string, unknown>[];
    const expected = [...world.rows.visibleTo(unit)]
      .filter(
        ([id, row]) =>
          id.startsWith(`${table} `) &&
          (!where.id || id === rowId(table, key)) &&
          (!where.a || (row['a'] as number) >= 1),
      )
      .map(([id]) => id);
    world.expect(found.map(nameOf).toSorted(), expected.toSorted(), 'what is found');
    for (const entity of found) {
      const row = world.rows.visibleTo(unit).get(nameOf(entity))!;
      const read = fields ? pick(row, [column, ...(TABLES[table].versioned ? ['version'] : [])]) : row;
      taken(world, unit, table, entity, read);
    }
    return true;
  },

  /** Reads again what is in memory, and what is unsaved is gone; now and then a part of it only. */
  reload: async (world, unit, { n, m }) => {
    const table = of(DRAWN, m);
    const copies = unit.copies.filter((copy) => copy.table === table);
    if (!world.mayRead(unit) || copies.some((copy) => copy.moved || hasTwin(unit, copy))) {
      return undefined;
    }
    const column = TABLES[table].versioned ? of([undefined, ...TABLES[table].columns], n) : undefined;
    world.say(`${unit.name} reloads all of ${table}${column ? `, only ${column}` : ''}`);
    const found = (await unit.em.find(
      CLASSES[table],
      {},
      {
        ...(column && { fields: [column] as never }),
        refresh: true,
      },
    )) as unknown as Record<string, unknown>[];
    const rows = [...world.rows.visibleTo(unit)].filter(([id]) => id.startsWith(`${table} `));
    world.expect(found.map(nameOf).toSorted(), rows.map(([id]) => id).toSorted(), 'what is found');
    for (const entity of found) {
      const row = world.rows.visibleTo(unit).get(nameOf(entity))!;
      taken(world, unit, table, entity, column ? pick(row, [column, 'version']) : row, reload);
    }
    return true;
  },

  /** A result cache, as good as a replica that lags: it keeps the items as they are now. */
  remember: async (world) => {
    if (!world.reaches(undefined)) {
      return undefined;
    }
    world.say('a cache takes all items');
    await world.remember();
    return true;
  },

  /** All items, as they once were. */
  recall: async (world, unit, { n, m }) => {
    const { remembered } = world;
    const has = (copy: Copy) => remembered.has(rowId(copy.table, copy.key));
    const reused = unit.copies.some((copy) => has(copy) && (copy.state === 'new' || hasTwin(unit, copy)));
    if (remembered.size === 0 || unit.em.isInTransaction() || reused) {
      return undefined;
    }
    const column = of([undefined, undefined, ...TABLES.item.columns], n);
    const refresh = m % 3 === 0 && !unit.copies.some((copy) => copy.table === 'item' && copy.moved);
    world.say(`${unit.name} ${refresh ? 're' : ''}loads item from the cache${column ? `, only ${column}` : ''}`);
    const options = { ...recalling(column), refresh };
    const found = (await unit.em.find(Item, {}, options)) as unknown as Record<string, unknown>[];
    world.expect(found.map(nameOf).toSorted(), [...remembered.keys()].toSorted(), 'what is found');
    for (const entity of found) {
      const row = remembered.get(nameOf(entity))!;
      taken(world, unit, 'item', entity, column ? pick(row, [column, 'version']) : row, refresh ? reload : reread);
    }
    return true;
  },

  findOne: async (world, unit, { m }) => {
    const target = someKey(world, unit, m);
    if (!target || !world.mayRead(unit)) {
      return undefined;
    }
    const { table, key } = target;
    world.say(`${unit.name} finds ${rowId(table, key)}`);
    const entity = (await unit.em.findOne(CLASSES[table], key)) as Record<string, unknown> | null;
    const copy = find(unit, table, key);
    const row = world.rows.visibleTo(unit).get(rowId(table, key));
    const complete =
      copy?.state === 'new' ||
      (copy && copy.initialized && columnsOf(table).every((column) => copy.loaded.has(column)));
    if (copy && complete) {
      world.expect(entity === copy.entity, true, 'the identity');
    } else {
      world.expect(entity !== null, row !== undefined, 'whether there is a row');
      if (entity && row) {
        taken(world, unit, table, entity, row);
      }
    }
    return true;
  },

  reference: async (world, unit, { m }) => {
    const target = someKey(world, unit, m);
    const deleted =
      target && world.rows.owner === unit && !world.rows.visibleTo(unit).has(rowId(target.table, target.key));
    if (!target || deleted || find(unit, target.table, target.key)) {
      return undefined;
    }
    const { table, key } = target;
    world.say(`${unit.name} takes a reference to ${rowId(table, key)}`);
    const entity = unit.em.getReference(CLASSES[table], key) as unknown as Record<string, unknown>;
    unit.copies.push({
      table,
      entity,
      key,
      state: 'managed',
      initialized: false,
      touched: false,
      now: {},
      base: {},
      loaded: new Set(),
    });
    return true;
  },

  change: async (world, unit, { n, m }) => {
    const copy = someCopy(unit, n, () => true);
    if (!copy) {
      return undefined;
    }
    const column = of(editable(copy.table), m);
    const value = of(VALUES[column]!, Math.floor(m / 2));
    world.say(`${unit.name} sets ${describe(copy)}.${column} = ${JSON.stringify(value)}`);
    copy.entity[column] = copy.now[column] = value;
    return true;
  },

  /** What a version does not cover. */
  count: async (world, unit, { n, m }) => {
    const copy = someCopy(unit, n, (c) => c.table === 'tally');
    if (!copy) {
      return undefined;
    }
    const value = of(VALUES['seen']!, m);
    world.say(`${unit.name} sets ${describe(copy)}.seen = ${JSON.stringify(value)}`);
    copy.entity['seen'] = copy.now['seen'] = value;
    return true;
  },

  changeAll: async (world, unit, { m }) => {
    const copies = unit.copies.filter(
      (copy) => copy.state === 'managed' && (isVersioned(copy) ? isVersion(copy.now['version']) : true),
    );
    if (copies.length < 2) {
      return undefined;
    }
    world.say(`${unit.name} changes ${copies.map(describe).join(', ')} (${m})`);
    copies.forEach((copy, i) => {
      for (const column of editable(copy.table).filter((_, c) => (m + i + c) % 2 === 0)) {
        copy.entity[column] = copy.now[column] = of(VALUES[column]!, m + i);
      }
    });
    return true;
  },

  changeBack: async (world, unit, { n }) => {
    const copy = someCopy(
      unit,
      n,
      (c) => c.state === 'managed' && !c.moved && changedColumns(c).some((column) => c.base[column] !== undefined),
    );
    const column = copy && changedColumns(copy).find((name) => copy.base[name] !== undefined);
    if (!copy || !column) {
      return undefined;
    }
    world.say(`${unit.name} sets ${describe(copy)}.${column} back`);
    copy.entity[column] = copy.now[column] = copy.base[column];
    return true;
  },

  /** A unique value moves from one item to another one or to a new one, in one flush. */
  moveSlug: async (world, unit, { n, m }) => {
    const items = unit.copies.filter((copy) => copy.table === 'item' && !copy.moved && copy.state !== 'removed');
    const from = items.find(
      (copy) => copy.state === 'managed' && copy.now['slug'] != null && !differs(copy.base['slug'], copy.now['slug']),
    );
    const to = of(
      items.filter((copy) => copy.now['slug'] === null && copy.base['slug'] == null && !hasTwin(unit, copy)),
      n,
    );
    if (!from || !to || unit.depth > 0 || hasTwin(unit, from)) {
      return undefined;
    }
    const slug = from.now['slug'];
    world.say(`${unit.name} moves slug ${String(slug)} from ${describe(from)} to ${describe(to)} (${m})`);
    from.entity['slug'] = from.now['slug'] = null;
    to.entity['slug'] = to.now['slug'] = slug;
    from.moved = to.moved = true;
    return true;
  },

  touch: async (world, unit, { n }) => {
    const copy = someCopy(unit, n, (c) => isVersioned(c) && c.state === 'managed');
    if (!copy) {
      return undefined;
    }
    world.say(`${unit.name} touches ${describe(copy)}`);
    let error: unknown;
    try {
      touch(copy.entity);
      copy.touched = true;
    } catch (caught) {
      error = caught;
    }
    world.expect(error instanceof VersionNotLoaded, copy.now['version'] == null, 'whether touch is refused');
    return true;
  },

  verify: async (world, unit, { n, m }) => {
    const copy = someCopy(
      unit,
      n,
      (c) => isVersioned(c) && c.state === 'managed' && c.initialized && !c.moved && !hasTwin(unit, c),
    );
    if (!copy) {
      return undefined;
    }
    world.say(`${unit.name} verifies ${describe(copy)}`);
    let error: unknown;
    try {
      await (m % 2 ? verify(copy.entity) : unit.em.lock(copy.entity, LockMode.OPTIMISTIC));
      copy.verified = true;
    } catch (caught) {
      error = caught;
    }
    world.expect(error instanceof VersionNotLoaded, copy.now['version'] == null, 'whether verify is refused');
    return true;
  },

  claim: async (world, unit, { n, m }) => {
    const copy = someCopy(unit, n, isVersioned);
    if (!copy) {
      return undefined;
    }
    const actual = world.rows.visibleTo(unit).get(rowId(copy.table, copy.key))?.['version'];
    const value = of(
      [actual, actual, actual, copy.base['version'], copy.base['version'], 1, 2, null, undefined, -1, '3', Number.NaN],
      m,
    );
    world.say(`${unit.name} claims version ${show(value)} of ${describe(copy)}`);
    copy.entity['version'] = copy.now['version'] = value;
    return true;
  },

  create: async (world, unit, { n, m }) => {
    const table = of(['item', 'item', 'entry', 'note', 'tally'] as const, n);
    // mostly one that is free
    const key = table === 'entry' ? undefined : (m % 4 === 0 ? 1 : GIVEN_KEYS[table] - 1) + (Math.floor(n / 5) % 3);
    const existing = key === undefined ? undefined : find(unit, table, key);
    if (existing && existing.state !== 'removed') {
      return undefined;
    }
    if (existing || world.rows.owner === unit) {
      unit.reused.add(rowId(table, key));
    }
    const version = table !== 'note' && m % 5 === 0 ? { version: 4 } : {};
    const values = {
      a: of(VALUES['a']!, m),
      ...(table === 'item' && { b: of(VALUES['b']!, m), slug: null }),
      ...(table === 'tally' && { seen: of(VALUES['seen']!, n) }),
      ...version,
    };
    world.say(`${unit.name} creates ${key === undefined ? table : rowId(table, key)} ${JSON.stringify(values)}`);
    const data = { ...(key !== undefined && { id: key }), ...values };
    // em.create() would merge into the removed one
    const entity = (
      existing ? Object.assign(new CLASSES[table](), data) : unit.em.create(CLASSES[table], data as never)
    ) as unknown;
    unit.em.persist(entity as object);
    unit.copies.push({
      table,
      entity: entity as Record<string, unknown>,
      key,
      state: 'new',
      initialized: true,
      touched: false,
      now: values,
      base: {},
      loaded: new Set(),
    });
    return true;
  },

  remove: async (world, unit, { n }) => {
    const copy = someCopy(unit, n, (c) => c.state !== 'removed' && !c.moved);
    if (!copy || hasTwin(unit, copy)) {
      return undefined;
    }
    world.say(`${unit.name} removes ${describe(copy)}`);
    unit.em.remove(copy.entity);
    if (copy.state === 'new') {
      unit.copies.splice(unit.copies.indexOf(copy), 1);
    }
    copy.state = 'removed';
    return true;
  },

  refresh: async (world, unit, { n }) => {
    const copy = someCopy(unit, n, (c) => c.state !== 'new' && c.initialized && !c.moved && mayRefresh(world, unit, c));
    if (!copy || !world.reaches(unit)) {
      return undefined;
    }
    world.say(`${unit.name} refreshes ${describe(copy)}`);
    await refreshed(world, unit, copy);
    return true;
  },

  /** What one does about an error: refresh, apply the changes again, flush. */
  retry: async (world, unit) => retried(world, unit),

  flush: async (world, unit, { n }) => {
    if (!mayFlush(world, unit)) {
      return undefined;
    }
    world.say(`${unit.name} flushes`);
    if (!(await flushed(world, unit)) && n % 3 > 0) {
      await world.check();
      await retried(world, unit);
    }
    return true;
  },

  abort: async (world, unit, { n }) => {
    const plan = planOf(unit);
    const mayFail = failuresOf(plan, world.rows.visibleTo(unit), true).length > 0;
    // in a transaction of its own: on PostgreSQL an aborted statement ends the one around it
    if (
      world.rows.owner === unit ||
      mayFail ||
      !Object.values(plan).some(({ length }) => length > 0) ||
      !mayFlush(world, unit)
    ) {
      return undefined;
    }
    world.say(`${unit.name} flushes, which a signal aborts ${of(Object.keys(MOMENTS), n)}`);
    if (await world.aborted(unit, of(Object.values(MOMENTS), n))) {
      world.events.add('abort that came too late');
    }
    return true;
  },

  clear: async (world, unit) => {
    if (unit.depth > 0) {
      return undefined;
    }
    world.say(`${unit.name} is cleared`);
    unit.em.clear();
    world.rows.cleared(unit);
    return true;
  },

  lock: async (world, unit, { n, m }) => {
    const copy = someCopy(unit, n, (c) => isVersioned(c) && c.state !== 'new' && c.initialized && !hasTwin(unit, c));
    if (!copy) {
      return undefined;
    }
    const version = of([copy.now['version'], 1, 2], m);
    world.say(`${unit.name} locks ${describe(copy)} at version ${show(version)}`);
    let error: unknown;
    await unit.em
      .lock(copy.entity, LockMode.OPTIMISTIC, version as number)
      .catch((caught: unknown) => (error = caught));
    if (version === undefined) {
      // without a version it is verify(), and there is none that it could verify
      world.expectFailure(error, [{ error: 'VersionNotLoaded' }]);
    } else if (version === copy.now['version']) {
      world.expect(error, undefined, 'the error');
    } else {
      const [entity, primaryKey, actual] = [copy.entity, copy.key, copy.now['version'] ?? null];
      const conflicts = [{ entity, primaryKey, operation: 'check', expected: version, actual }];
      world.expectFailure(error, [
        isVersion(version) ? { error: 'ConcurrentUpdate', conflicts } : { error: 'InvalidVersion' },
      ]);
    }
    return true;
  },

  begin: async (world, unit) => {
    if (world.rows.owner || unit.depth > 0) {
      return undefined;
    }
    world.say(`${unit.name} begins`);
    await unit.em.begin();
    world.rows.begin(unit);
    return true;
  },

  commit: async (world, unit) => {
    if (world.rows.owner !== unit || unit.depth > 0 || !mayFlush(world, unit)) {
      return undefined;
    }
    world.say(`${unit.name} commits`);
    if (await world.flush(unit, () => unit.em.commit())) {
      world.rows.commit();
    }
    return true;
  },

  rollback: async (world, unit) => {
    if (world.rows.owner !== unit || unit.depth > 0) {
      return undefined;
    }
    world.say(`${unit.name} rolls back`);
    await unit.em.rollback();
    world.rows.rollback(unit);
    return true;
  },

  transactional: async (world, unit, _command, commands) => {
    const pending = unit.copies.some((copy) => copy.state !== 'managed');
    if ((world.rows.owner && world.rows.owner !== unit) || unit.depth > 1 || pending) {
      return undefined;
    }
    world.say(`${unit.name} transactional`);
    await world.transactional(unit, commands);
    return true;
  },

  leave: async () => undefined,
  throw: async () => undefined,

  nativeUpdate: async (world, unit, { n, m }) => {
    const target = someKey(world, unit, m);
    if (!target || !world.mayWrite(unit, target.table, target.key)) {
      return undefined;
    }
    const { table, key } = target;
    const column = table === 'tally' ? of(editable(table), n) : 'a';
    const values = { [column]: of(VALUES[column]!, Math.floor(n / 2)) };
    world.say(`${unit.name}.nativeUpdate(${rowId(table, key)}, ${JSON.stringify(values)})`);
    await unit.em.nativeUpdate(CLASSES[table], key, values as never);
    const bumps = !TABLES[table].excluded?.includes(column);
    (bumps ? bumped : changed)(world, unit, table, key, values);
    return true;
  },

  nativeDelete: async (world, unit, { m }) => {
    const target = someKey(world, unit, m);
    if (!target || !world.mayWrite(unit, target.table, target.key)) {
      return undefined;
    }
    const { table, key } = target;
    world.say(`${unit.name}.nativeDelete(${rowId(table, key)})`);
    await unit.em.nativeDelete(CLASSES[table], key);
    if (world.rows.visibleTo(unit).has(rowId(table, key))) {
      world.rows.write(unit, rowId(table, key), null);
    }
    return true;
  },

  upsert: async (world, unit, { n, m }) => {
    const target = someKey(world, unit, m);
    const copy = target && find(unit, target.table, target.key);
    const absent =
      target && world.rows.owner === unit && !world.rows.visibleTo(unit).has(rowId(target.table, target.key));
    if (
      !target ||
      absent ||
      target.table === 'entry' ||
      !world.mayWrite(unit, target.table, target.key) ||
      (copy && (copy.state !== 'managed' || copy.moved))
    ) {
      return undefined;
    }
    const { table, key } = target;
    const slug = world.rows.visibleTo(unit).get(rowId(table, key))?.['slug'] ?? null;
    const values: Fields = {
      a: of(VALUES['a']!, n),
      ...(table === 'item' && { b: of(VALUES['b']!, n), ...(n % 2 === 0 && { slug }) }),
      ...(table === 'tally' && { seen: of(VALUES['seen']!, m) }),
    };
    const given: { version?: number } = table === 'item' && n % 3 === 0 ? { version: 3 } : {};
    // what is there stays, and is handed back
    const ignores = m % 3 === 0;
    const options = ignores ? { onConflictAction: 'ignore' as const } : {};
    const data = { id: key, ...values, ...given };
    world.say(`${unit.name}.upsert(${rowId(table, key)}, ${JSON.stringify(data)}${ignores ? ', ignore' : ''})`);
    const entity = (await unit.em.upsert(CLASSES[table], data as never, options)) as unknown;
    if (world.rows.visibleTo(unit).has(rowId(table, key)) && ignores) {
      world.locks(unit, table, key);
      world.events.add('upsert that was ignored');
    } else if (world.rows.visibleTo(unit).has(rowId(table, key))) {
      bumped(world, unit, table, key, values);
      // the greater one counts
      const now = world.rows.visibleTo(unit).get(rowId(table, key))!;
      if ('version' in given && given.version! > Number(now['version'])) {
        world.rows.write(unit, rowId(table, key), { ...now, ...given });
      }
    } else {
      world.rows.write(unit, rowId(table, key), {
        ...(table === 'item' && { slug: null, version: 1, ...given }),
        ...(table === 'tally' && { version: 1 }),
        ...values,
      });
    }
    const row = world.rows.visibleTo(unit).get(rowId(table, key))!;
    if (copy) {
      refresh(copy, row);
      copy.initialized = true;
      Object.keys(row).forEach((column) => copy.loaded.add(column));
    } else {
      taken(world, unit, table, entity as Record<string, unknown>, row);
    }
    return true;
  },

  rivalUpdate: async (world, _unit, { n, m }) => {
    const target = someKey(world, undefined, m);
    if (!target || !world.mayWrite(undefined, target.table, target.key)) {
      return undefined;
    }
    const { table, key } = target;
    const column = of(editable(table), n);
    const value = of(VALUES[column]!, Math.floor(n / 2));
    const { versioned, excluded } = TABLES[table];
    const guarded = TABLES[table].guarded && world.hasGuards;
    const bump = versioned && n % 5 !== 0 && (!guarded || n % 5 === 1);
    world.say(`rival sets ${rowId(table, key)}.${column} = ${JSON.stringify(value)}${bump ? '' : ', without a bump'}`);
    await world.raw(
      `update ${table} set ${column} = ${literal(value)}${bump ? ', version = version + 1' : ''} where id = ${key}`,
    );
    const row = world.rows.visibleTo(undefined).get(rowId(table, key));
    const isGuarded = guarded && row !== undefined && row[column] !== value && !excluded!.includes(column);
    if (isGuarded && !bump) {
      world.events.add('guarded');
    }
    if (bump || isGuarded) {
      bumped(world, undefined, table, key, { [column]: value });
    } else {
      changed(world, undefined, table, key, { [column]: value });
    }
    return true;
  },

  rivalDelete: async (world, _unit, { m }) => {
    const target = someKey(world, undefined, m);
    const id = target && rowId(target.table, target.key);
    if (!target || !id || !world.rows.committed.has(id) || !world.mayWrite(undefined, target.table, target.key)) {
      return undefined;
    }
    world.say(`rival deletes ${id}`);
    await world.raw(`delete from ${target.table} where id = ${target.key}`);
    world.rows.write(undefined, id, null);
    return true;
  },

  rivalCreate: async (world, _unit, { n, m }) => {
    const target = someKey(world, undefined, m);
    const id = target && rowId(target.table, target.key);
    if (
      !target ||
      !id ||
      target.table !== 'item' ||
      world.rows.committed.has(id) ||
      !world.mayWrite(undefined, 'item', target.key)
    ) {
      return undefined;
    }
    const row = { a: of(VALUES['a']!, n), b: 'x', slug: null, version: 1 + (n % 2) };
    world.say(`rival creates ${id} ${JSON.stringify(row)}`);
    await world.raw(
      `insert into item (id, a, b, version) values (${target.key}, ${String(row.a)}, 'x', ${row.version})`,
    );
    world.rows.write(undefined, id, row);
    return true;
  },
} satisfies Record<string, Run>;

function changed(world: World, unit: Unit | undefined, table: Table, key: number, values: Fields): void {
  const row = world.rows.visibleTo(unit).get(rowId(table, key));
  if (row) {
    world.rows.write(unit, rowId(table, key), { ...row, ...values });
  }
}

function bumped(world: World, unit: Unit | undefined, table: Table, key: number, values: Fields): void {
  const version = world.rows.visibleTo(unit).get(rowId(table, key))?.['version'] as number;
  changed(world, unit, table, key, { ...values, ...(TABLES[table].versioned && { version: version + 1 }) });
}

function hasTwin(unit: Unit, copy: Copy): boolean {
  return unit.copies.some((other) => other !== copy && other.table === copy.table && other.key === copy.key);
}

/** MikroORM refreshes the object that it finds by the key, and forgets one whose row is gone in a fork only. */
function mayRefresh(world: World, unit: ModelUnit, copy: Copy): boolean {
  const gone = unit.depth > 0 && !world.rows.visibleTo(unit).has(rowId(copy.table, copy.key));
  return !gone && !hasTwin(unit, copy);
}

/** False when the row is gone. */
async function refreshed(world: World, unit: ModelUnit, copy: Copy): Promise<boolean> {
  const row = world.rows.visibleTo(unit).get(rowId(copy.table, copy.key));
  const result = await unit.em.refresh(copy.entity);
  // with a lock, where a transaction reads from a snapshot
  world.locks(unit, copy.table, copy.key);
  world.expect(result !== null, row !== undefined, 'whether refresh finds the row');
  if (row) {
    refresh(copy, row);
    return true;
  }
  unit.copies.splice(unit.copies.indexOf(copy), 1);
  return false;
}

/** Nobody waits for the open transaction, and no error of the database itself ends it. */
function mayFlush(world: World, unit: ModelUnit): boolean {
  const plan = planOf(unit);
  const copies = Object.values(plan).flat() as Copy[];
  const isElsewhere = world.rows.owner !== undefined && world.rows.owner !== unit;
  const waits = copies.some(
    (copy) =>
      !world.mayWrite(unit, copy.table, copy.key) || (isElsewhere && differs(copy.base['slug'], copy.now['slug'])),
  );
  const aborts =
    world.rows.owner === unit &&
    failuresOf(plan, world.rows.visibleTo(unit), true).some(
      ({ error }) => error === 'UniqueConstraintViolationException',
    );
  return world.reaches(unit) && !waits && !aborts && !isChain(plan);
}

/** A flush, and one more, which has nothing left to do. */
async function flushed(world: World, unit: ModelUnit): Promise<boolean> {
  return (await world.flush(unit)) && world.flush(unit);
}

async function retried(world: World, unit: ModelUnit): Promise<true | undefined> {
  const rows = world.rows.visibleTo(unit);
  const isKnown = (copy: Copy) => rows.has(rowId(copy.table, copy.key));
  const failed = unit.copies.filter((copy) =>
    copy.state === 'new'
      ? isKnown(copy)
      : isVersioned(copy) &&
        (unit.stale.includes(copy) || !isVersion(copy.now['version'])) &&
        mayRefresh(world, unit, copy),
  );
  if (failed.length === 0 || !world.reaches(unit)) {
    return undefined;
  }
  for (const copy of failed) {
    if (copy.state === 'new') {
      await COMMANDS.remove(world, unit, {
        op: 'remove',
        em: 0,
        n: unit.copies.filter((c) => c.state !== 'removed' && !c.moved).indexOf(copy),
        m: 0,
      });
    } else if (copy.initialized) {
      world.say(`${unit.name} refreshes ${describe(copy)} and applies its changes again`);
      const changes = pick(copy.now, changedColumns(copy));
      const { touched } = copy;
      if (await refreshed(world, unit, copy)) {
        Object.assign(copy.now, changes);
        Object.assign(copy.entity, changes);
        if (touched) {
          touch(copy.entity);
          copy.touched = true;
        }
      }
    } else {
      const version = rows.get(rowId(copy.table, copy.key))?.['version'] ?? 1;
      world.say(`${unit.name} claims version ${show(version)} of ${describe(copy)}`);
      copy.entity['version'] = copy.now['version'] = version;
    }
  }
  if (mayFlush(world, unit)) {
    world.say(`${unit.name} flushes`);
    await flushed(world, unit);
  }
  return true;
}
