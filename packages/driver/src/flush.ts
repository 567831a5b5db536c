/**
 * One flush: which version each row must have, in which order rows are written, and how it ends.
 * The statements are the driver's (versioned.ts).
 */
import type {
  Dictionary,
  EntityManager,
  EntityMetadata,
  EntityProperty,
  Transaction,
  UnitOfWork,
} from '@mikro-orm/core';
import { ChangeSet, ChangeSetType, EventType, JsonType, ReferenceKind, Utils, helper } from '@mikro-orm/core';
import type { AbstractSqlConnection, AbstractSqlDriver } from '@mikro-orm/sql';
import { ConcurrentUpdate, type Operation, VersionNotLoaded, isTouched, versionOf } from '@mikro-ool/core';
import { type VersionedRow, batchDialect, keyOf } from './batch.ts';
import { cascades } from './cascades.ts';
import {
  StaleRows,
  asLostRace,
  asUnknown,
  currentVersions,
  describeConflict,
  findRows,
  invalidVersion,
  publish,
} from './conflicts.ts';
import { type Dialect, type DriverError, dialectOf } from './dialect.ts';
import { initialVersion, ownVersionOf, versionTable, versionedBelow } from './discovery.ts';
import {
  type AnyChangeSet,
  type ChangeSetGroups,
  type FlushListener,
  type PersistOptions,
  type ReturnedRows,
  metaOf,
  restoreSnapshot,
  snapshotOf,
} from './internals.ts';
import { type TransactionLog, Undo } from './undo.ts';

const WRITES = [
  [ChangeSetType.UPDATE, 'update'],
  [ChangeSetType.UPDATE_EARLY, 'update'],
  [ChangeSetType.DELETE, 'delete'],
  [ChangeSetType.DELETE_EARLY, 'delete'],
] as const;

const UPDATE_EVENTS = [EventType.beforeUpdate, EventType.afterUpdate];
const DELETE_EVENTS = [EventType.beforeDelete, EventType.afterDelete];
const TRANSACTION_EVENTS = Object.values(EventType).filter((event) => event.includes('Transaction'));

/** What a flush needs of the driver. */
interface FlushDriver extends AbstractSqlDriver {
  readonly log: TransactionLog;
  updateRows(rows: VersionedRow[], options: PersistOptions): Promise<Dictionary[]>;
  deleteRows(flush: Flush, changeSets: AnyChangeSet[], options: PersistOptions): Promise<void>;
}

export class Flush implements FlushListener {
  readonly #em: EntityManager;
  readonly #driver: FlushDriver;
  readonly #dialect: Dialect | undefined;
  /** Rows that MikroORM updates one by one: its driver calls carry the payload, by reference. */
  readonly #byPayload = new Map<unknown, AnyChangeSet>();
  /** Entities whose version this flush has already moved or set: one flush, one bump. */
  readonly #moved = new Set<object>();
  readonly #claims: VersionedRow[] = [];
  /** Rows that may be of another class than their entity, one with a version. */
  readonly #unsure: { changeSet: AnyChangeSet; below: EntityMetadata; operation: Operation }[] = [];
  /** Rows with a version that are still to be deleted. */
  readonly #deletes = new Set<AnyChangeSet>();
  /** Rows that were found as expected, and that a cascade may have deleted since. */
  readonly #cascaded = new Set<AnyChangeSet>();
  readonly #undo: Undo;
  #planned = false;
  /** Its transaction or savepoint has begun: from here on the log of transactions knows what to take back. */
  #begun = false;
  /** A statement was carried out, … */
  #sent = false;
  /** … and all of them were. */
  #written = false;
  /** The transaction around the flush, … */
  #around?: Transaction;
  /** … and whether a savepoint of the flush's own protects it. */
  #hasSavepoint = false;
  /** More than one row is written, so that part of them could stay. */
  #several = false;
  #versioned = false;
  /** A single statement is a transaction by itself: BEGIN and COMMIT would be two round trips for nothing. */
  #isOneStatement = false;
  /** The statement that is sent is a COMMIT as well. */
  #autocommits = false;

  constructor(em: EntityManager, driver: FlushDriver) {
    this.#em = em;
    this.#driver = driver;
    this.#dialect = dialectOf(driver.getPlatform());
    this.#undo = new Undo(em);
  }

  plan(groups: ChangeSetGroups): void {
    this.#undo.remember(groups);
    this.#planned = true;
    let statements = 0;
    let last: AnyChangeSet | undefined;
    for (const sets of groups[ChangeSetType.CREATE].values()) {
      statements += sets.length;
      sets.forEach((changeSet) => this.#checkInitial(changeSet));
    }
    const elsewhere = changedElsewhere(groups);
    for (const [type, operation] of WRITES) {
      for (const [id, sets] of groups[type]) {
        const written = operation === 'update' ? this.#planUpdates(sets, elsewhere) : this.#planDeletes(sets);
        this.#noteUnsure(sets, operation);
        groups[type].set(id, written);
        // joined-table inheritance: one DELETE for the table with the version, and one for the rest
        const split = operation === 'delete' && written.some(({ meta }) => versionTable(meta) !== meta.root);
        statements += split ? 2 * written.length : written.length;
        last = written.at(-1) ?? last;
      }
    }
    const uow = this.#em.getUnitOfWork(false);
    for (const [entity] of uow.getExtraUpdates()) {
      statements++;
      this.#checkFollowUp(entity);
    }
    statements += uow.getCollectionUpdates().length;
    this.#several = statements > 1;
    this.#isOneStatement = statements === 1 && last !== undefined && this.#isAlone(last);
  }

  isOneStatement(): boolean {
    return this.#isOneStatement;
  }

  /** Nothing is read in the same transaction, nothing can fail after the only row was written, and nobody watches. */
  #isAlone({ meta, type }: AnyChangeSet): boolean {
    const events = this.#em.getEventManager();
    const watched = type.startsWith('update') ? UPDATE_EVENTS : DELETE_EVENTS;
    return (
      this.#dialect?.autocommits === true &&
      ownVersionOf(meta) !== undefined &&
      meta.inheritanceType !== 'tpt' &&
      this.#claims.length + this.#unsure.length === 0 &&
      this.#em.getTransactionSessionContext() === undefined &&
      !watched.some((event) => events.hasListeners(event, meta)) &&
      ![...events.getSubscribers()].some((subscriber) => TRANSACTION_EVENTS.some((event) => event in subscriber))
    );
  }

  /** Returns what is written, in order; a claim without another change is only compared. */
  #planUpdates(sets: AnyChangeSet[], elsewhere: Set<object>): AnyChangeSet[] {
    const claims = new Set(sets.filter((set) => isClaim(set, elsewhere)));
    for (const changeSet of sets) {
      if (claims.has(changeSet)) {
        this.#claims.push(this.row(changeSet, 'check'));
        this.#takeBackStamps(changeSet);
      } else if (ownVersionOf(changeSet.meta)) {
        this.#expect(changeSet.entity, changeSet.meta, 'update');
      }
    }
    return inKeyOrder(claims.size > 0 ? sets.filter((set) => !claims.has(set)) : sets);
  }

  #planDeletes(sets: AnyChangeSet[]): AnyChangeSet[] {
    const versioned = sets.filter((set) => versionOf(set.meta));
    for (const changeSet of versioned) {
      const { entity, meta } = changeSet;
      // a removed row is found by the key that it has, whatever was assigned since
      changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
      this.#expect(entity, meta, 'delete');
    }
    inKeyOrder(versioned).forEach((changeSet) => this.#deletes.add(changeSet));
    return inKeyOrder(sets);
  }

  #noteUnsure(sets: AnyChangeSet[], operation: Operation): void {
    for (const changeSet of sets[0]!.meta.root.inheritanceType ? sets : []) {
      const classes = classesInDoubt(this.#em, changeSet.entity);
      classes.forEach((below) => this.#unsure.push({ changeSet, below, operation }));
    }
  }

  async persist(write: (ctx?: Transaction) => Promise<void>, ctx?: Transaction): Promise<void> {
    const run = async (tx?: Transaction) => {
      this.#begun = true;
      this.#driver.log.carries(tx, this.#undo, this.#versioned);
      await this.#checkClasses(tx);
      await this.#checkClaims(tx);
      for (const orphans of this.#orphanedClasses()) {
        await this.#checkCascade((meta) => meta.root === orphans.root || cascades(this.#driver, orphans, meta), tx);
      }
      this.#autocommits = tx === undefined && !this.#several;
      await write(tx);
      this.#written = true;
      this.#undo.done();
    };
    // MikroORM opens none when transactions are disabled
    const ownTransaction = ctx !== undefined && !this.#em.isInTransaction();
    if (ctx) {
      this.#driver.log.going(ctx);
    }
    this.#around = ownTransaction ? undefined : ctx;
    if (!this.#several || !this.#versioned || ownTransaction) {
      return run(ctx);
    }
    // In the transaction around the flush a savepoint: catching the conflict and committing must not commit half of it.
    const connection = this.#driver.getConnection('write') as AbstractSqlConnection;
    const sessionContext = this.#em.getTransactionSessionContext();
    const runInside = (tx: Transaction) => {
      this.#hasSavepoint = true;
      return run(tx);
    };
    await connection.transactional(runInside, { ctx, sessionContext, loggerContext: { id: this.#em._id } as never });
    if (ctx) {
      this.#em.setTransactionContext(ctx);
    }
  }

  inserting(changeSets: AnyChangeSet[]): void {
    for (const changeSet of changeSets) {
      const version = ownVersionOf(changeSet.meta);
      if (!version) {
        continue;
      }
      this.#checkInitial(changeSet);
      const entity = changeSet.entity as Record<string, unknown>;
      const payload = changeSet.payload as Record<string, unknown>;
      // spelled out, because a multi-row INSERT has the same columns for all rows
      payload[version.name] ??= initialVersion(version);
      this.#move(entity, version, payload[version.name] as number);
    }
  }

  updating(changeSets: AnyChangeSet[]): AnyChangeSet[] {
    return changeSets
      .filter(({ entity, meta }) => versionOf(meta) && !ownVersionOf(meta) && !this.#moved.has(entity))
      .map(({ entity, originalEntity, meta }) => {
        const changeSet = new ChangeSet(entity, ChangeSetType.UPDATE, {}, versionTable(meta));
        changeSet.originalEntity = originalEntity;
        return changeSet;
      });
  }

  divide(changeSets: AnyChangeSet[]): { ours: AnyChangeSet[]; single: AnyChangeSet[]; plain: AnyChangeSet[] } {
    const versioned = changeSets.filter((set) => ownVersionOf(set.meta));
    const plain = versioned.length < changeSets.length ? changeSets.filter((set) => !ownVersionOf(set.meta)) : [];
    const dialect = batchDialect(this.#driver.getPlatform(), versioned);
    const ours = dialect ? versioned.filter((set) => !this.#moved.has(set.entity)) : [];
    const single = ours.length < versioned.length ? versioned.filter((set) => !ours.includes(set)) : [];
    single.forEach((changeSet) => this.#byPayload.set(changeSet.payload, changeSet));
    return { ours, single, plain };
  }

  async update(changeSets: AnyChangeSet[], batched: boolean, options: PersistOptions): Promise<ReturnedRows> {
    const { config } = this.#driver;
    const platform = this.#driver.getPlatform();
    const isBatch = batched && config.get('useBatchUpdates', platform.usesBatchUpdates()) && shareColumns(changeSets);
    const size = isBatch ? config.get('batchSize') : 1;
    const returned = new Map<AnyChangeSet, Dictionary>();
    for (let i = 0; i < changeSets.length; i += size) {
      const rows = changeSets.slice(i, i + size).map((changeSet) => this.row(changeSet, 'update'));
      matchReturned(rows, await this.#driver.updateRows(rows, options), returned);
      this.written(rows);
    }
    return returned;
  }

  async deleting(changeSets: AnyChangeSet[], ctx?: Transaction): Promise<void> {
    const [{ meta: from, schema }] = changeSets as [AnyChangeSet];
    const together =
      changeSets.length === 1 ||
      (changeSets.every((set) => versionOf(set.meta) && set.schema === schema) &&
        batchDialect(this.#driver.getPlatform(), changeSets) !== undefined);
    // one statement sees all of its rows before a cascade takes any
    if (together) {
      changeSets.forEach((changeSet) => this.#deletes.delete(changeSet));
    }
    await this.#checkCascade((meta) => cascades(this.#driver, from, meta), ctx);
    changeSets.forEach((changeSet) => this.#deletes.delete(changeSet));
  }

  async delete(changeSets: AnyChangeSet[], options: PersistOptions): Promise<void> {
    await this.#driver.deleteRows(this, changeSets, options);
  }

  /** Was it found as expected before an earlier DELETE, whose cascade may have taken it along? */
  mayBeGone({ changeSet }: VersionedRow): boolean {
    return this.#cascaded.has(changeSet);
  }

  /** The rows that are left to delete: what a cascade of this very flush has taken along is no conflict. */
  async withoutCascaded(rows: VersionedRow[], options: PersistOptions): Promise<VersionedRow[]> {
    if (!rows.some((row) => this.mayBeGone(row))) {
      return rows;
    }
    const actual = await currentVersions(this.#driver, rows, options);
    return rows.filter((row) => !this.mayBeGone(row) || actual(row) !== null);
  }

  sent(): void {
    this.#sent = true;
  }

  removing(uow: UnitOfWork, entity: object): void {
    this.#undo.removing(uow, entity);
  }

  async failed(failure: unknown): Promise<{ error: unknown; undo?: Undo }> {
    if (!this.#planned) {
      this.#undo.remember();
    }
    if (!this.#written) {
      this.#undo.done();
    }
    const error = failure instanceof StaleRows ? await this.#describe(failure) : failure;
    const cause = this.#autocommits && this.#versioned ? asUnknown(error, this.#dialect) : error;
    const lost = this.#versioned ? asLostRace(cause, this.#dialect) : error;
    const hasEnded = this.#dialect?.endsTransaction?.((error ?? {}) as DriverError);
    if (this.#around && (hasEnded || (lost !== error && !this.#hasSavepoint))) {
      this.#driver.log.aborted(this.#around, lost, hasEnded);
      if (hasEnded) {
        await this.#beginAgain(this.#around);
      }
    } else if (this.#around && !this.#hasSavepoint && this.#versioned && !(error instanceof ConcurrentUpdate)) {
      this.#driver.log.suspect(this.#around, error);
    }
    // the log of transactions tells whether rows stay; a statement that failed has changed none
    return { error: publish(lost), undo: (this.#several && this.#begun) || this.#sent ? undefined : this.#undo };
  }

  /** The rest of a transaction that is over must not be committed one by one: it goes into one that cannot be committed. */
  async #beginAgain(ctx: Transaction): Promise<void> {
    for (const statement of ['rollback', 'begin']) {
      await this.#driver.execute(statement, [], 'run', ctx).catch(() => {});
    }
  }

  /** What the flush wrote is rolled back by now. */
  #describe({ rows, operation, options }: StaleRows): Promise<ConcurrentUpdate> {
    const ctx = this.#em.getTransactionContext<Transaction>();
    return describeConflict(this.#driver, rows, operation, { ...options, ctx });
  }

  /** The row of an UPDATE, when the driver call's payload is a versioned change set of this flush. */
  rowOf(payload: object): VersionedRow | undefined {
    const changeSet = this.#byPayload.get(payload);
    return changeSet && ownVersionOf(changeSet.meta) && this.row(changeSet, 'update');
  }

  /** A row with the version that it must still have, checked again: listeners may have touched it during the flush. */
  row(changeSet: AnyChangeSet, operation: Operation): VersionedRow {
    return { changeSet, expected: this.#expect(changeSet.entity, changeSet.meta, operation) };
  }

  /** The primary keys of rows of this table that the flush is going to delete with a check of their version. */
  removedKeys(meta: EntityMetadata): unknown[] {
    return [...this.#deletes].filter((set) => set.meta.root === meta.root).map(keyOf);
  }

  hasMoved({ changeSet }: VersionedRow): boolean {
    return this.#moved.has(changeSet.entity);
  }

  /** The rows were written: the entities have the new version, until the flush fails after all. */
  written(rows: readonly VersionedRow[]): void {
    const moving = this.#moved.size > 0 ? rows.filter((row) => !this.hasMoved(row)) : rows;
    for (const { changeSet, expected } of moving) {
      this.#move(changeSet.entity, versionOf(changeSet.meta)!, expected + 1);
    }
    this.#undo.moved(moving);
  }

  #move(entity: object, { name }: EntityProperty, version: number): void {
    this.#moved.add(entity);
    (entity as Record<string, unknown>)[name] = version;
  }

  #expect(entity: object, meta: EntityMetadata, operation: Operation): number {
    this.#versioned = true;
    return expectedVersion(entity, meta, operation);
  }

  /** MikroORM has called `onUpdate` for a row that is not written after all. */
  #takeBackStamps({ entity, meta, payload }: AnyChangeSet): void {
    const snapshot = snapshotOf(entity) as Dictionary;
    const stored: Dictionary = {};
    for (const key of Object.keys(payload).filter((name) => name !== meta.versionProperty)) {
      if (key in snapshot) {
        stored[key] = snapshot[key];
      } else {
        delete (entity as Dictionary)[key];
      }
    }
    const hydrator = this.#em.config.getHydrator(this.#em.getMetadata());
    hydrator.hydrate(entity, meta, stored, this.#em.getEntityFactory(), 'full', false, true);
  }

  #checkInitial({ entity, meta }: AnyChangeSet): void {
    const version = ownVersionOf(meta);
    if (version) {
      this.#versioned = true;
      if ((entity as Record<string, unknown>)[version.name] != null) {
        this.#expect(entity, meta, 'update');
      }
    }
  }

  /** An update that MikroORM carries out later in the flush, for a row that exists already. */
  #checkFollowUp(entity: object): void {
    const meta = metaOf(this.#em, entity);
    if (snapshotOf(entity) && versionOf(meta)) {
      this.#expect(entity, meta, 'update');
    }
  }

  async #checkClasses(ctx: Transaction | undefined): Promise<void> {
    for (const rows of Map.groupBy(this.#unsure, (row) => `${row.below._id} ${row.changeSet.schema}`).values()) {
      const { below, changeSet } = rows[0]!;
      const options = { ctx, schema: changeSet.schema ?? below.schema };
      const sets = rows.map((row) => row.changeSet);
      const find = await findRows(this.#driver, below, sets, [], options);
      const blind = rows.find((row) => find(row.changeSet));
      if (blind) {
        throw new VersionNotLoaded(blind.changeSet.entity, below.className, versionOf(below)!.name, blind.operation);
      }
    }
  }

  /** Classes of which MikroORM deletes rows by a condition: orphans of collections that are not loaded. */
  #orphanedClasses(): EntityMetadata[] {
    const collections = this.#em.getUnitOfWork(false).getCollectionUpdates();
    return collections
      .filter((collection) => !collection.getSnapshot())
      .map((collection) => collection.property)
      .filter(({ kind, orphanRemoval }) => kind === ReferenceKind.ONE_TO_MANY && orphanRemoval)
      .map(({ targetMeta }) => targetMeta as EntityMetadata);
  }

  /** Before rows of a class are deleted: those that a cascade may take along are looked at while they are there. */
  async #checkCascade(isReached: (meta: EntityMetadata) => boolean, ctx?: Transaction): Promise<void> {
    const exposed = [...this.#deletes].filter((set) => !this.#cascaded.has(set) && isReached(set.meta));
    const rows = exposed.map((changeSet) => this.row(changeSet, 'delete'));
    await this.#compare(rows, 'delete', ctx);
    exposed.forEach((changeSet) => this.#cascaded.add(changeSet));
  }

  /** Reads the versions of rows that no statement of ours compares. */
  async #compare(all: readonly VersionedRow[], operation: Operation, ctx: Transaction | undefined): Promise<void> {
    const tableOf = ({ changeSet: { meta, schema } }: VersionedRow) => `${versionTable(meta)._id} ${schema}`;
    for (const rows of Map.groupBy(all, tableOf).values()) {
      const { meta, schema } = rows[0]!.changeSet;
      const options = { ctx, schema: schema ?? meta.schema };
      const actual = await currentVersions(this.#driver, rows, options);
      const stale = rows.filter((row) => actual(row) !== row.expected);
      if (stale.length > 0) {
        throw await describeConflict(this.#driver, stale, operation, options);
      }
    }
  }

  async #checkClaims(ctx: Transaction | undefined): Promise<void> {
    await this.#compare(this.#claims, 'check', ctx);
    // the claims held: from now on they are the state that changes are based on
    for (const { changeSet, expected } of this.#claims) {
      const { entity, meta } = changeSet;
      restoreSnapshot(entity, { ...(snapshotOf(entity) as object), [versionOf(meta)!.name]: expected });
    }
  }
}

/**
 * The version that a row must still have: the entity's current one, whether it was loaded or claimed.
 *
 * @throws {VersionNotLoaded} when there is none
 * @throws {InvalidVersion} when it is no integer that the column can hold
 */
function expectedVersion(entity: object, meta: EntityMetadata, operation: Operation): number {
  const prop = versionOf(meta)!;
  const value: unknown = (entity as Dictionary)[prop.name];
  if (value == null) {
    throw new VersionNotLoaded(entity, helper(entity).__meta.className, prop.name, operation);
  }
  const invalid = invalidVersion(entity, meta, value);
  if (invalid) {
    throw invalid;
  }
  return value as number;
}

/**
 * The classes with a version that a row may be of without its entity knowing: a reference may be made of any class
 * above, and joined tables are loaded partially as the class that was asked for.
 */
function classesInDoubt(em: EntityManager, entity: object): EntityMetadata[] {
  const meta = metaOf(em, entity);
  const known = helper(entity).__initialized && meta.root.inheritanceType === 'sti';
  return known ? [] : versionedBelow(meta, em.getMetadata());
}

/** Set by `onUpdate`, and can be set back: the snapshot has the stored value in a form that can be hydrated. */
function isStamp(prop: EntityProperty | undefined): boolean {
  return Boolean(prop?.onUpdate) && !prop!.embedded && !prop!.object && !(prop!.customType instanceof JsonType);
}

/**
 * Was nothing but the version assigned to this entity? A touched one is written; and what `onUpdate` sets comes along
 * with every change, and is none by itself.
 */
function isClaim({ entity, meta, payload }: AnyChangeSet, elsewhere: Set<object>): boolean {
  const version = ownVersionOf(meta)?.name;
  if (!version || !(version in payload) || elsewhere.has(entity) || isTouched(snapshotOf(entity), version)) {
    return false;
  }
  const properties = meta.properties as Record<string, EntityProperty>;
  return Object.keys(payload).every((key) => key === version || isStamp(properties[key]));
}

/** With joined-table inheritance an entity has a change set per table: those changed in one without the version. */
function changedElsewhere(groups: ChangeSetGroups): Set<object> {
  const updates = [...groups[ChangeSetType.UPDATE].values(), ...groups[ChangeSetType.UPDATE_EARLY].values()];
  const isElsewhere = ({ meta }: AnyChangeSet) => meta.inheritanceType === 'tpt' && !ownVersionOf(meta);
  // a group is of one table
  return new Set(updates.filter(([set]) => isElsewhere(set!)).flatMap((sets) => sets.map((set) => set.entity)));
}

/** With single-table inheritance, properties of one name may have a column per class. */
function shareColumns(sets: readonly AnyChangeSet[]): boolean {
  const { meta } = sets[0]!;
  return !meta.root.props.some((prop) => prop.renamedFrom) || sets.every((set) => set.meta === meta);
}

/** Finds the change sets of returned rows, which have the columns of the key. */
function matchReturned(
  rows: readonly VersionedRow[],
  found: Dictionary[],
  returned: Map<AnyChangeSet, Dictionary>,
): void {
  if (found.length === 0) {
    return;
  }
  const fields = rows[0]!.changeSet.meta.getPrimaryProps().flatMap((prop) => prop.fieldNames);
  const byKey = new Map(
    found.map((row) => [Utils.getPrimaryKeyHash(fields.map((field) => row[field] as string)), row]),
  );
  for (const { changeSet } of rows) {
    returned.set(changeSet, byKey.get(helper(changeSet.entity).getSerializedPrimaryKey())!);
  }
}

/** Rows are written in one order by everybody, so that flushes wait for each other instead of deadlocking. */
function inKeyOrder(sets: AnyChangeSet[]): AnyChangeSet[] {
  const keyed = sets.map((changeSet) => ({ changeSet, key: keyOf(changeSet) }));
  const isSorted = keyed.every(({ key }, i) => i === 0 || compareKeys(keyed[i - 1]!.key, key) <= 0);
  return isSorted ? sets : keyed.toSorted((a, b) => compareKeys(a.key, b.key)).map(({ changeSet }) => changeSet);
}

function compareKeys(a: unknown, b: unknown): number {
  if (!Array.isArray(a) || !Array.isArray(b)) {
    return compare(a, b);
  }
  for (let i = 0; i < a.length; i++) {
    const order = compareKeys(a[i], b[i]);
    if (order !== 0) {
      return order;
    }
  }
  return 0;
}

const INTEGER = /^-?\d+$/;

function compare(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') {
    return a - b;
  }
  const texts = [String(a), String(b)] as const;
  // MikroORM hands bigint keys around as strings
  const [left, right] = texts.every((text) => INTEGER.test(text)) ? texts.map(BigInt) : texts;
  return left! < right! ? -1 : left! > right! ? 1 : 0;
}
