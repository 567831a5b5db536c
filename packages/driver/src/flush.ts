/**
 * One flush: which version each row must have, in which order rows are written, and how it ends.
 * The statements are the driver's (versioned.ts).
 */
import type {
  Dictionary,
  EntityManager,
  EntityMetadata,
  EntityName,
  EntityProperty,
  Transaction,
  UnitOfWork,
} from '@mikro-orm/core';
import { ChangeSet, ChangeSetType, JsonType, ReferenceKind, helper } from '@mikro-orm/core';
import type { AbstractSqlConnection, AbstractSqlDriver } from '@mikro-orm/sql';
import { type Operation, VersionNotLoaded, isTouched, versionOf } from '@mikro-ool/core';
import { type VersionedRow, batchDialect, keyOf, keyValues } from './batch.ts';
import { cascades } from './cascades.ts';
import { asLostRace, currentVersions, describeConflict, findRows, invalidVersion } from './conflicts.ts';
import { dialectOf } from './dialect.ts';
import { initialVersion, ownVersionOf, versionTable, versionedBelow } from './discovery.ts';
import {
  type AnyChangeSet,
  type ChangeSetGroups,
  type FlushListener,
  type PersistOptions,
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

/** What a flush needs of the driver. */
interface FlushDriver extends AbstractSqlDriver {
  readonly log: TransactionLog;
  deleteRows(flush: Flush, changeSets: AnyChangeSet[], options: PersistOptions): Promise<void>;
}

export class Flush implements FlushListener {
  readonly #em: EntityManager;
  readonly #driver: FlushDriver;
  /** MikroORM's driver calls carry the payload, by reference. */
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
  #written = false;
  /** The transaction around the flush, when no savepoint of its own protects it. */
  #around?: Transaction;
  /** More than one row is written, so that part of them could stay. */
  #several = false;
  #versioned = false;

  constructor(em: EntityManager, driver: FlushDriver) {
    this.#em = em;
    this.#driver = driver;
    this.#undo = new Undo(em);
  }

  plan(groups: ChangeSetGroups): void {
    this.#undo.remember(groups);
    this.#planned = true;
    let statements = 0;
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
      }
    }
    const uow = this.#em.getUnitOfWork(false);
    for (const [entity] of uow.getExtraUpdates()) {
      statements++;
      this.#checkFollowUp(entity);
    }
    statements += uow.getCollectionUpdates().length;
    this.#several = statements > 1;
  }

  /** Returns what is written, in order; a claim without another change is only compared. */
  #planUpdates(sets: AnyChangeSet[], elsewhere: Set<object>): AnyChangeSet[] {
    const claims = claimsOnly(sets, elsewhere);
    for (const changeSet of sets.filter((set) => ownVersionOf(set.meta))) {
      const isClaim = claims.has(changeSet);
      const row = this.row(changeSet, isClaim ? 'check' : 'update');
      if (isClaim) {
        this.#claims.push(row);
        this.#takeBackStamps(changeSet);
      }
    }
    return sets.filter((set) => !claims.has(set)).toSorted(byPrimaryKey);
  }

  #planDeletes(sets: AnyChangeSet[]): AnyChangeSet[] {
    const versioned = sets.filter((set) => versionOf(set.meta));
    for (const changeSet of versioned) {
      const { entity, meta } = changeSet;
      // a removed row is found by the key that it has, whatever was assigned since
      changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
      this.#expect(entity, meta, 'delete');
    }
    versioned.toSorted(byPrimaryKey).forEach((changeSet) => this.#deletes.add(changeSet));
    return sets.toSorted(byPrimaryKey);
  }

  #noteUnsure(sets: AnyChangeSet[], operation: Operation): void {
    for (const changeSet of sets) {
      const classes = classesInDoubt(this.#em, changeSet.entity);
      classes.forEach((below) => this.#unsure.push({ changeSet, below, operation }));
    }
  }

  async persist(write: (ctx?: Transaction) => Promise<void>, ctx?: Transaction): Promise<void> {
    const run = async (tx?: Transaction) => {
      this.#driver.log.carries(tx, this.#undo, this.#versioned);
      await this.#checkClasses(tx);
      await this.#checkClaims(tx);
      for (const orphans of this.#orphanedClasses()) {
        await this.#checkCascade((meta) => meta.root === orphans.root || cascades(this.#driver, orphans, meta), tx);
      }
      await write(tx);
      this.#written = true;
      this.#undo.done();
    };
    // MikroORM opens none when transactions are disabled
    const ownTransaction = ctx !== undefined && !this.#em.isInTransaction();
    if (!this.#several || !this.#versioned || ownTransaction) {
      this.#around = ownTransaction ? undefined : ctx;
      return run(ctx);
    }
    // In the transaction around the flush a savepoint: catching the conflict and committing must not commit half of it.
    const connection = this.#driver.getConnection('write') as AbstractSqlConnection;
    const sessionContext = this.#em.getTransactionSessionContext();
    await connection.transactional(run, { ctx, sessionContext, loggerContext: { id: this.#em._id } as never });
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
    changeSets.forEach((changeSet) => this.#byPayload.set(changeSet.payload, changeSet));
    return changeSets
      .filter(({ entity, meta }) => versionOf(meta) && !ownVersionOf(meta) && !this.#moved.has(entity))
      .map(({ entity, originalEntity, meta }) => {
        const changeSet = new ChangeSet(entity, ChangeSetType.UPDATE, {}, versionTable(meta));
        changeSet.originalEntity = originalEntity;
        return changeSet;
      });
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

  removing(uow: UnitOfWork, entity: object): void {
    this.#undo.removing(uow, entity);
  }

  failed(error: unknown): { error: unknown; undo?: Undo } {
    if (!this.#planned) {
      this.#undo.remember();
    }
    if (!this.#written) {
      this.#undo.done();
    }
    const lost = this.#versioned ? asLostRace(error, dialectOf(this.#driver.getPlatform())) : error;
    if (lost !== error && this.#around) {
      this.#driver.log.aborted(this.#around, lost);
    }
    // several rows: the log of transactions tells whether they stay; without a transaction, some of them do
    return { error: lost, undo: this.#several || this.#written ? undefined : this.#undo };
  }

  /** The row of an UPDATE, when the driver call's payload is a versioned change set of this flush. */
  rowOf(payload: object): VersionedRow | undefined {
    const changeSet = this.#byPayload.get(payload);
    return changeSet && ownVersionOf(changeSet.meta) && this.row(changeSet, 'update');
  }

  /** The class of the row: with single-table inheritance a driver call names the first one of its rows only. */
  classOf(payload: object): EntityName<object> {
    return this.#byPayload.get(payload)!.meta.class;
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
    for (const row of rows.filter((r) => !this.hasMoved(r))) {
      this.#move(row.changeSet.entity, ownVersionOf(row.changeSet.meta)!, row.expected + 1);
    }
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
 * Change sets of entities in which nothing but the version was assigned; touched ones are written. What `onUpdate` sets
 * comes along with every change, and is none by itself.
 */
function claimsOnly(sets: readonly AnyChangeSet[], elsewhere: Set<object>): Set<AnyChangeSet> {
  return new Set(
    sets.filter(({ entity, meta, payload }) => {
      const version = ownVersionOf(meta)?.name;
      const properties = meta.properties as Record<string, EntityProperty>;
      const isNoChange = (key: string) => key === version || isStamp(properties[key]);
      const alone = Object.keys(payload).every(isNoChange) && !elsewhere.has(entity);
      return version && version in payload && alone && !isTouched(snapshotOf(entity), version);
    }),
  );
}

/** With joined-table inheritance an entity has a change set per table: those changed in one without the version. */
function changedElsewhere(groups: ChangeSetGroups): Set<object> {
  const updates = [...groups[ChangeSetType.UPDATE].values(), ...groups[ChangeSetType.UPDATE_EARLY].values()].flat();
  return new Set(
    updates.filter(({ meta }) => meta.inheritanceType === 'tpt' && !ownVersionOf(meta)).map((set) => set.entity),
  );
}

/** Rows are written in one order by everybody, so that flushes wait for each other instead of deadlocking. */
function byPrimaryKey(a: AnyChangeSet, b: AnyChangeSet): number {
  const left = keyValues(a);
  const right = keyValues(b);
  for (let i = 0; i < left.length; i++) {
    const order = compare(left[i], right[i]);
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
