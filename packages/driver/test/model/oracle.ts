/**
 * What must be in the database and in memory, as plain data. Nothing here knows how the lock is built: rows have
 * versions, copies of rows are based on a version, and a write succeeds only where that is still the row's version.
 */
import { isDeepStrictEqual } from 'node:util';

interface Shape {
  readonly columns: readonly string[];
  readonly versioned: boolean;
  readonly generated: boolean;
  /** Columns that the version does not cover. */
  readonly excluded?: readonly string[];
  /** Who writes past us bumps, too. */
  readonly guarded?: true;
}

export type Table = 'item' | 'entry' | 'note' | 'tally';
export const TABLES: Readonly<Record<Table, Shape>> = {
  item: { columns: ['a', 'b', 'slug'], versioned: true, generated: false },
  entry: { columns: ['a'], versioned: true, generated: true },
  note: { columns: ['a'], versioned: false, generated: false },
  tally: { columns: ['a', 'seen'], versioned: true, generated: false, excluded: ['seen'], guarded: true },
};

/** Columns by name, `version` among them where the table has one; what is not loaded is absent. */
export type Fields = Record<string, unknown>;

/** A row by table and key, say `item 2`. */
export type RowId = string;
export const rowId = (table: Table, key: unknown): RowId => `${table} ${String(key)}`;

/** What an EntityManager knows of one row. */
export interface Copy {
  readonly table: Table;
  readonly entity: Record<string, unknown>;
  key: number | undefined;
  state: 'new' | 'managed' | 'removed';
  /** Not a bare reference. */
  initialized: boolean;
  touched: boolean;
  /** The next flush compares it, whether it writes it or not. */
  verified?: boolean;
  /** A transaction was rolled back: what was read in it may never have been. */
  doubtful?: boolean;
  /** A unique value has moved from or to it. */
  moved?: boolean;
  now: Fields;
  /** What `now` is compared with. */
  base: Fields;
  loaded: Set<string>;
}

/** What a flush changed in one copy, so that a rollback can discard it. */
interface Before {
  readonly copy: Copy;
  readonly was: Pick<Copy, 'state' | 'initialized' | 'base' | 'key'>;
  /** What the flush left in memory; none: it is what the copy is based on. */
  readonly left?: Fields;
  /** No rollback makes it known again. */
  forgotten: boolean;
}

/** A transaction or savepoint: rows that it wrote (`null`: deleted), and its flushes. */
interface Layer {
  readonly rows: Map<RowId, Fields | null>;
  /** Rows that it has claimed, and not written: they are held until it ends. */
  readonly held: Set<RowId>;
  readonly flushes: Before[][];
  /** What its flushes have verified, which is not held when it is rolled back. */
  readonly verified: Copy[];
}

/** Rows with their versions; one transaction at a time, with savepoints. */
export class Rows {
  readonly committed = new Map<RowId, Fields>();
  owner?: Unit;
  readonly #layers: Layer[] = [];
  readonly #keepsLocks: boolean;

  /** @param keepsLocks what a savepoint has locked stays so until the transaction ends */
  constructor(keepsLocks = false) {
    this.#keepsLocks = keepsLocks;
  }

  visibleTo(unit?: Unit): Map<RowId, Fields> {
    const rows = new Map(this.committed);
    for (const layer of unit && unit === this.owner ? this.#layers : []) {
      layer.rows.forEach((row, id) => (row ? rows.set(id, row) : rows.delete(id)));
    }
    return rows;
  }

  /** Would somebody else wait for the open transaction? */
  isLocked(id: RowId): boolean {
    return this.#layers.some((layer) => layer.rows.has(id) || layer.held.has(id));
  }

  /** Has the open transaction moved a unique value? InnoDB then locks what is next to it in the index. */
  get movesUnique(): boolean {
    const moves = ([id, row]: [RowId, Fields | null]) => differs(this.committed.get(id)?.['slug'], row?.['slug']);
    return this.#layers.some(({ rows }) => [...rows].some(moves));
  }

  write(unit: Unit | undefined, id: RowId, row: Fields | null): void {
    if (unit && unit === this.owner) {
      this.#layers.at(-1)!.rows.set(id, row);
    } else if (row) {
      this.committed.set(id, row);
    } else {
      this.committed.delete(id);
    }
  }

  begin(unit: Unit): void {
    this.owner = unit;
    this.#layers.push({ rows: new Map(), held: new Set(), flushes: [], verified: [] });
  }

  hold(unit: Unit, id: RowId): void {
    if (unit === this.owner) {
      this.#layers.at(-1)!.held.add(id);
    }
  }

  flushed(unit: Unit, flush: Before[], verified: readonly Copy[]): void {
    if (unit === this.owner) {
      const layer = this.#layers.at(-1)!;
      layer.flushes.push(flush);
      layer.verified.push(...verified);
    }
  }

  /** @param known em.transactional(): the copies that were known outside */
  commit(known?: readonly Copy[]): void {
    const { rows, held, flushes, verified } = this.#layers.pop()!;
    const outer = this.#layers.at(-1);
    held.forEach((id) => outer?.held.add(id));
    const unit = this.owner;
    if (outer) {
      const gone = (copy: Copy) => known && !known.includes(copy) && !unit!.copies.includes(copy);
      const inner = flushes.flat().filter(({ copy }) => gone(copy));
      inner.forEach((before) => (before.forgotten = true));
      outer.flushes.push(...flushes);
      outer.verified.push(...verified);
    } else {
      this.owner = undefined;
    }
    rows.forEach((row, id) => this.write(outer && unit, id, row));
  }

  /** em.clear(): a rollback brings nothing back into the EntityManager. */
  cleared(unit: Unit): void {
    unit.copies = [];
    if (unit === this.owner) {
      this.#layers.flatMap(({ flushes }) => flushes.flat()).forEach((before) => (before.forgotten = true));
    }
  }

  /** Memory follows the database: what the flushes wrote is discarded, but what was changed since is the user's. */
  rollback(unit: Unit): void {
    const { rows, held, flushes, verified } = this.#layers.pop()!;
    if (this.#keepsLocks) {
      [...rows.keys(), ...held].forEach((id) => this.#layers.at(-1)?.held.add(id));
    }
    unit.copies.forEach((copy) => (copy.doubtful = true));
    const all = flushes.flat();
    for (const copy of new Set(all.map((before) => before.copy))) {
      const own = all.filter((before) => before.copy === copy);
      discard(unit, copy, own[0]!, own.at(-1)!);
    }
    verified.filter((copy) => unit.copies.includes(copy)).forEach((copy) => (copy.verified = true));
    if (this.#layers.length === 0) {
      this.owner = undefined;
    }
  }
}

/** The oldest state counts. */
function discard(unit: Unit, copy: Copy, first: Before, last: Before): void {
  const { was } = first;
  const columns = [...TABLES[copy.table].columns, 'version'];
  const left = last.left ?? copy.base;
  const since = columns.filter((column) => differs(left[column], copy.now[column]));
  const isKnown = unit.copies.includes(copy);
  if (was.state === 'new') {
    unit.copies = unit.copies.filter((other) => other !== copy);
    return;
  }
  if (!isKnown) {
    copy.state = 'managed';
    copy.touched = false;
    if (!first.forgotten) {
      unit.copies.push(copy);
    }
  }
  Object.assign(copy, { base: was.base, initialized: was.initialized, key: was.key });
  columns.filter((column) => !since.includes(column)).forEach((column) => (copy.now[column] = was.base[column]));
}

/** An EntityManager: the copies that it knows. */
export interface Unit {
  readonly name: string;
  copies: Copy[];
}

export function find(unit: Unit, table: Table, key: unknown): Copy | undefined {
  const found = unit.copies.filter((copy) => copy.table === table && copy.key === key);
  return found.find((copy) => copy.state === 'new') ?? found[0];
}

/** MikroORM's comparison: `null` that was not there before is a change, other missing values are the same. */
export function differs(before: unknown, now: unknown): boolean {
  return (now === null && before === undefined) || ((before != null || now != null) && !Object.is(before, now));
}

export function changedColumns(copy: Copy): string[] {
  return TABLES[copy.table].columns.filter((column) => differs(copy.base[column], copy.now[column]));
}

function isDirty(copy: Copy): boolean {
  const changed = changedColumns(copy).length > 0 || differs(copy.base['version'], copy.now['version']);
  return changed || copy.touched || copy.verified === true || copy.state === 'removed';
}

export function isVersioned(copy: Copy): boolean {
  return TABLES[copy.table].versioned;
}

/** Do only columns change that the version does not cover, and does nothing else ask for it? */
export function isUncovered(copy: Copy): boolean {
  const excluded = TABLES[copy.table].excluded ?? [];
  // MikroORM writes all that was ever assigned to a reference, so its version is assigned each time
  const isAssigned = differs(copy.initialized ? copy.base['version'] : undefined, copy.now['version']);
  const isAsked = copy.touched || copy.verified || isAssigned;
  const changed = changedColumns(copy);
  return !isAsked && changed.length > 0 && changed.every((column) => excluded.includes(column));
}

/**
 * A row is read into a copy that exists: changed columns stay, and so does the version that they, or columns that are
 * not read, are based on. An older row (of a cache, or one that was created again) brings only columns that the copy
 * has not, which is then as old as they are. To a reference, which holds nothing yet, it brings everything, and the
 * claim stays; and a copy that a rollback has put in doubt takes it, if nothing else is lost by that.
 */
export function reread(copy: Copy, row: Fields): void {
  const known = copy.base['version'] ?? copy.now['version'];
  // MikroORM does not replace a value by NULL when it merges, so that one stays old, too
  const brings = (column: string) => column in row && (row[column] !== null || copy.base[column] == null);
  const isHeld = (column: string) => copy.loaded.has(column) || copy.base[column] !== undefined;
  const columns = [...new Set([...copy.loaded, ...Object.keys(copy.base)])];
  const partial = columns.some((column) => copy.base[column] !== undefined && !brings(column));
  const isLower = isVersioned(copy) && copy.initialized && Number(row['version']) < Number(known ?? Number.NaN);
  if (isLower && copy.doubtful && !partial && !isDirty(copy)) {
    copy.doubtful = false;
  } else if (isLower) {
    const fresh = Object.entries(row).filter(([column]) => column !== 'version' && !isHeld(column));
    take(copy, Object.fromEntries(fresh));
    if (fresh.length > 0) {
      const [now, older] = [Number(copy.now['version']), Number(row['version'])];
      copy.now['version'] = now < older ? now : older;
      copy.base['version'] = older;
    }
    return;
  }
  const kept = isVersioned(copy) && row['version'] !== known && ((known != null && isDirty(copy)) || partial);
  take(copy, kept ? Object.fromEntries(Object.entries(row).filter(([column]) => column !== 'version')) : row);
  if (!copy.initialized) {
    copy.initialized = true;
    Object.keys(row).forEach((column) => copy.loaded.add(column));
  }
}

function take(copy: Copy, row: Fields): void {
  const changed = new Set([
    ...changedColumns(copy),
    ...(differs(copy.base['version'], copy.now['version']) ? ['version'] : []),
  ]);
  for (const [column, value] of Object.entries(row)) {
    const now = copy.now[column];
    const stays = changed.has(column) && (copy.initialized || now !== undefined);
    if (differs(now, value) && !stays && !(now != null && value === null)) {
      copy.now[column] = value;
      copy.base[column] = value;
      copy.loaded.add(column);
    }
  }
}

/** em.refresh(): the row replaces everything. */
export function refresh(copy: Copy, row: Fields, given: Fields = {}): void {
  copy.now = { ...given, ...row };
  copy.base = { ...row };
  copy.touched = false;
}

/**
 * A read with `refresh: true`: what is read replaces what is unsaved, but a claim of a reference; where it is less than
 * what the copy has, that is as old as before. An older row is one like any other.
 */
export function reload(copy: Copy, row: Fields): void {
  const claim = copy.now['version'];
  const isClaimed = isVersioned(copy) && !copy.initialized && claim != null;
  const isLower = copy.initialized && Number(row['version']) < Number(copy.base['version'] ?? claim ?? Number.NaN);
  const has = (column: string) => copy.loaded.has(column) || copy.base[column] !== undefined;
  const isPart = TABLES[copy.table].columns.some((column) => has(column) && !(column in row));
  if (isLower && (!copy.doubtful || isPart || isDirty(copy))) {
    return reread(copy, row);
  }
  if (isPart) {
    const { version: _, ...read } = row;
    Object.assign(copy.now, read);
    Object.assign(copy.base, read);
  } else {
    // what a reference was given, and is not read, stays
    refresh(copy, row, copy.now);
  }
  if (isClaimed) {
    copy.now['version'] = claim;
  }
  copy.doubtful &&= !isLower;
  copy.initialized = true;
  Object.keys(row).forEach((column) => copy.loaded.add(column));
}

/** What a flush has to do, in MikroORM's order. */
export interface Plan {
  readonly claims: Copy[];
  readonly earlyDeletes: Copy[];
  readonly inserts: Copy[];
  readonly updates: Copy[];
  readonly deletes: Copy[];
}

/** MikroORM sees no change in a reference without any value, its version taken off included: there is nothing to write. */
function isEmpty(copy: Copy): boolean {
  return !copy.initialized && Object.values(copy.now).every((value) => value === undefined);
}

export function planOf(unit: Unit): Plan {
  const plan: Plan = { claims: [], earlyDeletes: [], inserts: [], updates: [], deletes: [] };
  const created = new Set(unit.copies.filter((c) => c.state === 'new').map((c) => rowId(c.table, c.key)));
  for (const copy of unit.copies) {
    if (copy.state === 'new') {
      plan.inserts.push(copy);
    } else if (copy.state === 'removed') {
      (created.has(rowId(copy.table, copy.key)) ? plan.earlyDeletes : plan.deletes).push(copy);
    } else if (changedColumns(copy).length > 0 || (copy.touched && !isEmpty(copy))) {
      plan.updates.push(copy);
    } else if (copy.verified || (isVersioned(copy) && differs(copy.base['version'], copy.now['version']))) {
      plan.claims.push(copy);
    }
  }
  return plan;
}

export interface StaleRow {
  readonly entity: object;
  readonly primaryKey: unknown;
  readonly operation: string;
  readonly expected: unknown;
  readonly actual: unknown;
}

/** An error that a flush may throw; when statements fail alike, whichever MikroORM sends first. */
export interface Failure {
  /** Some of the conflicts: unique values that move are written in statements of their own. */
  readonly some?: boolean;
  readonly error: 'ConcurrentUpdate' | 'VersionNotLoaded' | 'InvalidVersion' | 'UniqueConstraintViolationException';
  readonly conflicts?: StaleRow[];
}

/** Does a unique value move to a row from one that gets another value? MikroORM writes such a chain in any order. */
export function isChain(plan: Plan): boolean {
  const moves = [...plan.inserts, ...plan.updates].filter((copy) => differs(copy.base['slug'], copy.now['slug']));
  const moving = moves.filter((copy) => copy.now['slug'] != null);
  return moving.some((copy) => moving.some((other) => other !== copy && other.base['slug'] === copy.now['slug']));
}

/** The ways in which a flush must fail; none: it must succeed. */
export function failuresOf(plan: Plan, rows: ReadonlyMap<RowId, Fields>, batches: boolean): Failure[] {
  const covered = plan.updates.filter((copy) => !isUncovered(copy));
  const writes = [...plan.claims, ...plan.earlyDeletes, ...covered, ...plan.deletes];
  const bad = [...writes, ...plan.inserts.filter((copy) => copy.now['version'] != null)]
    .filter(isVersioned)
    .map((copy) => copy.now['version'])
    .filter((version) => !isVersion(version))
    .map((version): Failure => ({ error: version == null ? 'VersionNotLoaded' : 'InvalidVersion' }));
  if (bad.length > 0) {
    return bad;
  }
  const moves = [...plan.inserts, ...plan.updates].filter((copy) => differs(copy.base['slug'], copy.now['slug']));
  const stale = (copies: Copy[], operation: string): Failure[] =>
    (Object.keys(TABLES) as Table[])
      .map((table) =>
        copies.filter((copy) => copy.table === table && isVersioned(copy)).toSorted((a, b) => a.key! - b.key!),
      )
      .map((sorted) =>
        sorted
          .map((copy) => ({ copy, actual: rows.get(rowId(copy.table, copy.key))?.['version'] ?? null }))
          .filter(({ copy, actual }) => copy.now['version'] !== actual)
          .map(({ copy, actual }) => ({
            entity: copy.entity,
            primaryKey: copy.key,
            operation,
            expected: copy.now['version'],
            actual,
          })),
      )
      .filter((conflicts) => conflicts.length > 0)
      .map((conflicts): Failure => ({
        error: 'ConcurrentUpdate',
        // row by row, the first one ends the flush; claims are read together
        conflicts: batches || operation === 'check' || moves.length > 0 ? conflicts : conflicts.slice(0, 1),
      }));
  /** Of what the version does not cover, the row must be there; such rows have a statement of their own. */
  const gone = plan.updates
    .filter((copy) => isUncovered(copy) && !rows.has(rowId(copy.table, copy.key)))
    .toSorted((a, b) => a.key! - b.key!)
    .map(({ entity, key }) => ({ entity, primaryKey: key, operation: 'update', expected: null, actual: null }));
  const updates = [
    ...stale(covered, 'update'),
    ...(gone.length > 0 ? [{ error: 'ConcurrentUpdate' as const, conflicts: batches ? gone : gone.slice(0, 1) }] : []),
  ];
  const removed = new Set(plan.earlyDeletes.map((copy) => rowId(copy.table, copy.key)));
  const duplicates = plan.inserts
    .map((copy) => rowId(copy.table, copy.key))
    .filter((id) => rows.has(id) && !removed.has(id))
    .map((): Failure => ({ error: 'UniqueConstraintViolationException' }));
  if (moves.length > 0) {
    // by whoever knows that it has the value; one that got it meanwhile is stale
    const knowing = [...moves, ...plan.earlyDeletes].filter(
      (copy) => copy.base['slug'] === rows.get(rowId(copy.table, copy.key))?.['slug'],
    );
    const freed = new Set(knowing.map((copy) => rowId(copy.table, copy.key)));
    const taken = moves.some((copy) =>
      [...rows].some(([id, row]) => {
        const same = copy.now['slug'] != null && row['slug'] === copy.now['slug'];
        return same && id !== rowId(copy.table, copy.key) && !freed.has(id);
      }),
    );
    const all = [
      ...stale([...plan.claims, ...covered], 'update'),
      ...stale([...plan.claims, ...covered], 'check'),
      ...updates,
      ...stale([...plan.earlyDeletes, ...plan.deletes], 'delete'),
    ];
    return [
      ...all.map((failure) => ({ ...failure, some: true })),
      ...duplicates,
      ...(taken ? [{ error: 'UniqueConstraintViolationException' } as const] : []),
    ];
  }
  const phases = [
    stale(plan.claims, 'check'),
    stale(plan.earlyDeletes, 'delete'),
    duplicates,
    updates,
    stale(plan.deletes, 'delete'),
  ];
  return phases.find((phase) => phase.length > 0) ?? [];
}

export function isVersion(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
}

/** A row as the database returns it. */
function stored(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, value ?? null]));
}

/** A flush that succeeded. Generated keys are taken from the entities. */
export function applyFlush(unit: Unit, plan: Plan, rows: Rows): void {
  const visible = rows.visibleTo(unit);
  const flush: Before[] = [];
  const remember = (copy: Copy, work: () => void) => {
    const { state, initialized, key } = copy;
    // the mark of a touch stands in for the version that was loaded, so a claim beside it is what is known
    const base = copy.touched ? { ...copy.base, version: copy.now['version'] } : copy.base;
    work();
    const left = unit.copies.includes(copy) ? undefined : { ...copy.now };
    flush.push({ copy, was: { state, initialized, base, key }, left, forgotten: false });
  };
  const drop = (copy: Copy) =>
    remember(copy, () => {
      unit.copies.splice(unit.copies.indexOf(copy), 1);
      if (visible.has(rowId(copy.table, copy.key))) {
        rows.write(unit, rowId(copy.table, copy.key), null);
      }
    });
  plan.claims.forEach((copy) => {
    rows.hold(unit, rowId(copy.table, copy.key));
    remember(copy, () => (copy.base = { ...copy.base, version: copy.now['version'] }));
  });
  plan.earlyDeletes.forEach(drop);
  for (const copy of plan.inserts) {
    remember(copy, () => {
      copy.key = copy.entity['id'] as number;
      if (isVersioned(copy)) {
        copy.now['version'] ??= 1;
      }
      copy.state = 'managed';
      copy.base = { ...copy.now };
      Object.keys(copy.now).forEach((column) => copy.loaded.add(column));
      rows.write(unit, rowId(copy.table, copy.key), stored(copy.now));
    });
  }
  for (const copy of plan.updates) {
    remember(copy, () => {
      const id = rowId(copy.table, copy.key);
      const changes = Object.fromEntries(changedColumns(copy).map((column) => [column, copy.now[column]]));
      if (isVersioned(copy) && !isUncovered(copy)) {
        copy.now['version'] = (copy.now['version'] as number) + 1;
        changes['version'] = copy.now['version'];
      }
      if (visible.has(id)) {
        rows.write(unit, id, { ...visible.get(id), ...stored(changes) });
      }
      copy.base = { ...copy.now };
      copy.touched = false;
      copy.initialized = true;
    });
  }
  plan.deletes.forEach(drop);
  const verified = unit.copies.filter((copy) => copy.verified);
  unit.copies.forEach((copy) => (copy.verified = false));
  rows.flushed(unit, flush, verified);
}

export function isSame(a: unknown, b: unknown): boolean {
  return isDeepStrictEqual(a, b);
}

/** Is this what the oracle allows? */
export function matches(actual: Failure, { some, ...expected }: Failure): boolean {
  if (!some || !actual.conflicts?.length) {
    return isSame(actual, expected);
  }
  return actual.conflicts.every((conflict) => expected.conflicts!.some((other) => isSame(conflict, other)));
}
