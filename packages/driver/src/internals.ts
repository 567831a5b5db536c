/**
 * Every touch of a MikroORM internal: what MikroORM 7.2 offers no public extension point for. All are overrides of plain
 * methods on instances that belong to a `versioned()` ORM, never on a prototype. test/internals.test.ts pins each one,
 * so that a MikroORM that renames or reroutes it fails there with a sentence.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import {
  type ChangeSet,
  type Collection,
  type Configuration,
  type Dictionary,
  type EntityClass,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  OptimisticLockError,
  type Transaction,
  type UnitOfWork,
  Utils,
  helper,
} from '@mikro-orm/core';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';

export type AnyChangeSet = ChangeSet<object>;

/**
 * The metadata of an entity's class in this ORM. What stands on the entity itself is that of whichever ORM started last,
 * when several in one process share the class.
 */
export function metaOf(em: EntityManager, entity: object): EntityMetadata {
  return em.getMetadata().get(entity.constructor as EntityClass<object>) as unknown as EntityMetadata;
}

/** The state an entity is compared with when its changes are computed; setting it back makes them dirty again. */
export function snapshotOf(entity: object): unknown {
  return helper(entity).__originalEntityData;
}

/** @see snapshotOf */
export function restoreSnapshot(entity: object, snapshot: unknown): void {
  helper(entity).__originalEntityData = snapshot as never;
}

/** Makes a collection compare its items with an older state again, until it takes its next snapshot. */
export function forgetSnapshot(collection: Collection<object>, older: object[] | undefined): void {
  // the snapshot itself is a private field
  Object.defineProperty(collection, 'getSnapshot', { value: () => older, configurable: true, enumerable: false });
  Object.defineProperty(collection, 'takeSnapshot', {
    value: (forcePropagate?: boolean) => {
      delete (collection as Partial<typeof collection>).getSnapshot;
      delete (collection as Partial<typeof collection>).takeSnapshot;
      collection.takeSnapshot(forcePropagate as true);
    },
    configurable: true,
    enumerable: false,
  });
}

// --- discovery ---

/** Is the function that takes snapshots a precompiled one from before this property was compared? */
export function isCompiledWithout(prop: EntityProperty, meta: EntityMetadata, config: Configuration): boolean {
  const compiled = config.get('compiledFunctions')?.[`snapshotGenerator-${meta.uniqueName}`];
  return compiled !== undefined && !String(compiled).includes(prop.name);
}

/** Hooks `orm.discoverEntity()`, which calls no discovery hook: it puts each class into the ORM's storage. */
export function hookLaterDiscovery(storage: MetadataStorage, discovered: (meta: EntityMetadata) => void): void {
  const registry = storage as unknown as { set(entityName: unknown, meta: EntityMetadata): EntityMetadata };
  const { set } = registry;
  registry.set = (entityName, meta) => {
    discovered(meta);
    return set.call(storage, entityName, meta);
  };
}

// --- flushes ---

/** Change sets of one flush by type, then by the class that they are written with. */
export type ChangeSetGroups = Record<AnyChangeSet['type'], Map<number, AnyChangeSet[]>>;

/** Options that the change set persister hands down to the driver. */
export type PersistOptions = Dictionary & { ctx?: Transaction; schema?: string };

/** What the database computed in the rows of a table, column by column, with the key's columns. */
export type ReturnedRows = ReadonlyMap<AnyChangeSet, Dictionary>;

/** State in memory that can be taken back. */
export interface Restorable {
  readonly uow: UnitOfWork;
  restore(): void;
}

/** What a flush is told while MikroORM carries it out, in this order. */
export interface FlushListener {
  /** Change sets are final (all `onFlush` listeners ran), and no SQL was sent yet. */
  plan(groups: ChangeSetGroups): void;
  /** Is it a single statement that needs no transaction around it? */
  isOneStatement(): boolean;
  /** Write everything: `write` sends the statements in the transaction it is given. */
  persist(write: (ctx?: Transaction) => Promise<void>, ctx?: Transaction): Promise<void>;
  /** New rows are about to be inserted. */
  inserting(changeSets: AnyChangeSet[]): void;
  /**
   * Changed rows are about to be updated: here also those that MikroORM adds during the flush ("extra updates").
   * Returns what must be updated before.
   */
  updating(changeSets: AnyChangeSet[]): AnyChangeSet[];
  /** Which of the rows of one table are updated by us, which by MikroORM one by one, and which have no version. */
  divide(changeSets: AnyChangeSet[]): { ours: AnyChangeSet[]; single: AnyChangeSet[]; plain: AnyChangeSet[] };
  /** Update the first of them, in as few statements as possible. Returns what the database computed, by column. */
  update(changeSets: AnyChangeSet[], batched: boolean, options: PersistOptions): Promise<ReturnedRows>;
  /** Rows are about to be deleted: those of one class. */
  deleting(changeSets: AnyChangeSet[], ctx?: Transaction): Promise<void>;
  /** Delete the rows with a version, which are of one table. */
  delete(changeSets: AnyChangeSet[], options: PersistOptions): Promise<void>;
  /** A statement was carried out; listeners may still fail. */
  sent(): void;
  /** An entity is about to leave an identity map, because this flush deleted its row. */
  removing(uow: UnitOfWork, entity: object): void;
  /** The flush failed, its COMMIT included. Returns what to throw, and what to restore when MikroORM has tidied up. */
  failed(error: unknown): Promise<{ error: unknown; undo?: Restorable }>;
}

/** The parts of the unit of work and its persister that are overridden; private in MikroORM's types. */
interface UnitOfWorkMethods {
  clear(): void;
  commit(): Promise<void>;
  unsetIdentity(entity: object): void;
  doCommit(): Promise<void>;
  getChangeSetGroups(): ChangeSetGroups;
  persistToDatabase(groups: ChangeSetGroups, ctx?: Transaction): Promise<void>;
  commitCollectionUpdates(ctx?: Transaction): Promise<void>;
  getChangeSetPersister(): PersisterMethods;
}

interface PersisterMethods {
  executeInserts(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeUpdates(sets: AnyChangeSet[], batched: boolean, options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeDeletes(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  prepareOptions(meta: AnyChangeSet['meta'], options?: PersistOptions): PersistOptions;
  processProperties(changeSet: AnyChangeSet): void;
  mapReturnedValues(entity: object, payload: object, row: Dictionary, meta: AnyChangeSet['meta']): void;
  reloadVersionValues(meta: AnyChangeSet['meta'], sets: AnyChangeSet[], options?: PersistOptions): Promise<void>;
}

/** Rides on the persister's options down to the driver, and so tells a flush from a user's own call. */
const FLUSH = Symbol('mikro-ool flush');

/** The flush that a driver call belongs to, or `undefined` for a call by the user. */
export function flushOf<Flush>(options: object): Flush | undefined {
  return (options as { [FLUSH]?: Flush })[FLUSH];
}

/** The flush that writes the collections of which it knows the new items only: set-based, before its own deletes. */
const syncingCollections = new AsyncLocalStorage<FlushListener>();

/** The flush that is writing collections right now, if any. */
export function syncingFlush<Flush>(): Flush | undefined {
  return syncingCollections.getStore() as Flush | undefined;
}

/** The units of work in whose flushes this code runs, one inside another. */
const insideFlush = new AsyncLocalStorage<readonly object[]>();

/** The flush that deleted an entity: EntityManagers around its transaction forget the entity later. */
const removers = new WeakMap<object, FlushListener>();

/** What is known of a unit of work beyond MikroORM's own state. */
interface FlushState {
  /** The flush that is writing, up to its COMMIT or ROLLBACK. */
  flush?: FlushListener;
  /** A flush is running, up to and including MikroORM's tidying up. */
  flushing: boolean;
  /** MikroORM empties the unit of work when a flush ends; what is restored before would go with it. */
  readonly pending: Restorable[];
  /** How often it was cleared. */
  generation: number;
}

const states = new WeakMap<object, FlushState>();

/** Changes when everything in the unit of work is forgotten by `em.clear()`. */
export function generationOf(uow: object): number {
  return states.get(uow)!.generation;
}

/** Takes back at once, or after the flush that the unit of work is in. */
function restoreWhenIdle(undo: Restorable): void {
  const { flushing, pending } = states.get(undo.uow)!;
  if (flushing) {
    pending.push(undo);
  } else {
    undo.restore();
  }
}

/**
 * Hooks the unit of work of an EntityManager. Why not `onFlush` and a catch around `em.flush()`: later `onFlush`
 * listeners may still recompute change sets, and follow-up updates appear only while the flush runs.
 *
 * @param begin called once for every flush
 */
export function hookFlushes(em: EntityManager, begin: () => FlushListener): void {
  const uow = em.getUnitOfWork(false) as unknown as UnitOfWorkMethods;
  const state: FlushState = { flushing: false, pending: [], generation: 0 };
  states.set(uow, state);
  queueFlushes(uow, state);
  hookUnitOfWork(em, uow, state, begin);
  hookPersister(em, uow.getChangeSetPersister(), state, begin);
}

/**
 * Flushes of one EntityManager run one after the other. MikroORM's own queue is emptied only when the first one succeeds,
 * so a second one would never settle; and a flush inside a flush is for MikroORM to refuse.
 */
function queueFlushes(uow: UnitOfWorkMethods, state: FlushState): void {
  const { commit } = uow;
  let queue: Promise<unknown> = Promise.resolve();
  uow.commit = async () => {
    const outer = insideFlush.getStore() ?? [];
    if (state.flushing && outer.includes(uow)) {
      return commit.call(uow);
    }
    const turn = queue.then(async () => {
      state.flushing = true;
      try {
        await insideFlush.run([...outer, uow], () => commit.call(uow));
      } finally {
        state.flushing = false;
        state.pending.splice(0).forEach((undo) => undo.restore());
      }
    });
    queue = turn.catch(() => {});
    return turn;
  };
}

function hookUnitOfWork(
  em: EntityManager,
  uow: UnitOfWorkMethods,
  state: FlushState,
  begin: () => FlushListener,
): void {
  const { clear, doCommit, getChangeSetGroups, persistToDatabase, commitCollectionUpdates, unsetIdentity } = uow;
  uow.clear = () => {
    clear.call(uow);
    state.generation++;
  };
  uow.unsetIdentity = (entity) => {
    (state.flush ?? removers.get(entity))?.removing(uow as unknown as UnitOfWork, entity);
    if (state.flush) {
      removers.set(entity, state.flush);
    }
    unsetIdentity.call(uow, entity);
  };
  // Runs once per flush, queued ones included, and its promise ends after COMMIT or ROLLBACK.
  uow.doCommit = async () => {
    const flush = begin();
    state.flush = flush;
    try {
      await doCommit.call(uow);
    } catch (error) {
      const failure = await flush.failed(error);
      if (failure.undo) {
        restoreWhenIdle(failure.undo);
      }
      throw failure.error;
    } finally {
      state.flush = undefined;
    }
  };
  // The last step before the transaction starts.
  uow.getChangeSetGroups = () => {
    withOwnMetadata(em, em.getUnitOfWork(false).getChangeSets());
    const groups = getChangeSetGroups.call(uow);
    state.flush!.plan(groups);
    return groups;
  };
  uow.persistToDatabase = async (groups, ctx) => {
    await state.flush!.persist((tx) => persistToDatabase.call(uow, groups, tx), ctx);
  };
  uow.commitCollectionUpdates = (ctx) =>
    syncingCollections.run(state.flush!, () => commitCollectionUpdates.call(uow, ctx));
}

function hookPersister(
  em: EntityManager,
  persister: PersisterMethods,
  state: FlushState,
  begin: () => FlushListener,
): void {
  const { executeInserts, executeUpdates, executeDeletes, reloadVersionValues } = persister;
  // Without RETURNING, MikroORM reads back what the database computed, and the version, which we know.
  persister.reloadVersionValues = (meta, sets, options) => {
    const withoutVersion = Object.create(meta, { ownsVersionProperty: { value: () => false } });
    return reloadVersionValues.call(persister, versionOf(meta) ? withoutVersion : meta, sets, options);
  };
  // em.insert() and em.insertMany() with entities come here too, without a flush.
  persister.executeInserts = async (sets, options, withSchema) => {
    if (!withSchema) {
      withOwnMetadata(em, sets);
      (state.flush ?? begin()).inserting(sets);
    }
    await executeInserts.call(persister, sets, options, withSchema);
    state.flush?.sent();
  };
  persister.executeUpdates = async (sets, batched, options, withSchema) => {
    const { flush } = state;
    if (!flush || !withSchema) {
      const before = flush?.updating(sets) ?? [];
      if (before.length > 0) {
        await persister.executeUpdates(before, false, options);
      }
      return executeUpdates.call(persister, sets, batched, options, withSchema);
    }
    const { ours, single, plain } = flush.divide(sets);
    if (plain.length > 0) {
      await executeUpdates.call(persister, plain, batched, options, true);
    }
    if (ours.length > 0) {
      ours.forEach((set) => persister.processProperties(set));
      const returned = await flush.update(ours, batched, persister.prepareOptions(ours[0]!.meta, options));
      returned.forEach((row, { entity, payload, meta }) => persister.mapReturnedValues(entity, payload, row, meta));
      await persister.reloadVersionValues(ours[0]!.meta, ours, options);
      ours.forEach((set) => (set.persisted = true));
    }
    // not batched, so the check by SELECT of batches is never made
    if (single.length > 0) {
      await executeUpdates.call(persister, single, false, { ...options, [FLUSH]: flush }, true);
    }
    flush.sent();
  };
  // The persister passes keys only, and the check needs to know whose they are.
  persister.executeDeletes = async (sets, options, withSchema) => {
    const { flush } = state;
    if (!flush || !withSchema) {
      await flush?.deleting(sets, options?.ctx);
      return executeDeletes.call(persister, sets, options, withSchema);
    }
    const checked = sets.filter((set) => versionOf(set.meta));
    const rest = sets.filter((set) => !versionOf(set.meta));
    if (rest.length > 0) {
      await executeDeletes.call(persister, rest, options, withSchema);
    }
    if (checked.length > 0) {
      await flush.delete(checked, persister.prepareOptions(checked[0]!.meta, options));
    }
    flush.sent();
  };
}

/** @see metaOf; change sets of removed and of inherited classes take what stands on the entity. */
function withOwnMetadata(em: EntityManager, sets: Iterable<AnyChangeSet>): void {
  const metadata = em.getMetadata();
  for (const changeSet of sets) {
    changeSet.meta = metadata.get(changeSet.meta.class);
    changeSet.rootMeta = changeSet.meta.root;
    if (changeSet.tptChangeSets) {
      withOwnMetadata(em, changeSet.tptChangeSets);
    }
  }
}

// --- transactions ---

/** What becomes of the flushes of a transaction. */
export interface TransactionListener {
  began(transaction: object, parent: object | undefined): void;
  /** A savepoint is about to be sent. Throws when it must not be. */
  going(transaction: object): void;
  /** COMMIT is about to be sent. Throws when it must not be; `isAlive` asks the database for the transaction. */
  committing(transaction: object, isAlive: () => Promise<unknown>): Promise<void>;
  committed(transaction: object): void;
  rolledBack(transaction: object): Restorable[];
  rollbackFailed(savepoint: object, error: unknown): void;
  /** COMMIT failed, or a listener before it was sent. Returns what to throw. */
  commitFailed(transaction: object, error: unknown, wasSent: boolean): unknown;
  /** ROLLBACK failed. May the connection go back to its pool? */
  mayRelease(error: unknown): boolean;
}

type Client = ReturnType<AbstractSqlConnection['getClient']>;
type TransactionBuilder = ReturnType<Client['startTransaction']>;
type ControlledTransaction = Awaited<ReturnType<TransactionBuilder['execute']>>;

/** How to give up the connection of a transaction that cannot be ended. */
const leases = new WeakMap<object, () => void>();

/**
 * Kysely keeps a connection for ever when BEGIN or ROLLBACK fails (kysely#1990), until none is left. Here it is borrowed
 * around the transaction, and goes back to the pool, which drops it when it is dead.
 */
function borrowing(
  connection: AbstractSqlConnection,
  listener: TransactionListener,
  start = (db: Client): TransactionBuilder => db.startTransaction(),
) {
  const and = (set: (builder: TransactionBuilder) => TransactionBuilder): unknown =>
    borrowing(connection, listener, (db) => set(start(db)));
  return {
    setIsolationLevel: (level: never) => and((builder) => builder.setIsolationLevel(level)),
    setAccessMode: (mode: never) => and((builder) => builder.setAccessMode(mode)),
    execute: () =>
      new Promise<ControlledTransaction>((resolve, reject) => {
        const lease = connection.getClient().connection();
        const over = lease.execute(async (outer) => {
          try {
            const begin = async (db: Client) => [db, await start(db).execute()] as const;
            const [db, transaction] = await outer.connection().execute(begin);
            const givenUp = new Promise<void>((end) => leases.set(transaction, end));
            resolve(transaction);
            // the connection is provided again as soon as the transaction has ended
            await Promise.race([givenUp, db.getExecutor().provideConnection(async () => {})]);
          } catch (error) {
            // it may have begun all the same
            const isFree = await rollsBack(() => connection.execute('rollback', [], 'run', outer as never), listener);
            reject(error);
            await (isFree || new Promise(() => {}));
          }
        });
        over.catch(reject);
      }),
  };
}

/** Rolls back, twice at most. Returns whether the connection may go back to its pool: it is rolled back, or dead. */
async function rollsBack(rollback: () => Promise<unknown>, { mayRelease }: TransactionListener): Promise<boolean> {
  const again = (error: unknown) => mayRelease(error) || rollback().then(() => true, mayRelease);
  return rollback().then(() => true, again);
}

/**
 * Hooks the transactions of a connection: events miss a COMMIT that fails, and subscribers are the user's. A flush opens
 * its transaction here, too, and nothing else tells it not to.
 */
export function hookTransactions(connection: AbstractSqlConnection, listener: TransactionListener): void {
  const { begin, commit, rollback, transactional } = connection;
  connection.transactional = (work, options = {}) => {
    const { em } = (options.eventBroadcaster ?? {}) as { em?: EntityManager };
    const flush = em && states.get(em.getUnitOfWork(false))?.flush;
    return flush?.isOneStatement()
      ? work(undefined as never)
      : (transactional.call(connection, work, options) as never);
  };
  // the connection itself, but for the one call by which it opens a transaction
  const getClient = () => ({ startTransaction: () => borrowing(connection, listener) });
  const borrower = new Proxy(connection, {
    get(target, key) {
      const value: unknown = key === 'getClient' ? getClient : Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
  connection.begin = async (options) => {
    if (options?.ctx) {
      listener.going(options.ctx);
    }
    const transaction = (await begin.call(options?.ctx ? connection : borrower, options)) as Transaction<object>;
    listener.began(transaction, options?.ctx as object | undefined);
    return transaction as never;
  };
  connection.commit = async (transaction, ...rest) => {
    await listener.committing(transaction, () => connection.execute('select 1', [], 'get', transaction));
    const { commit: send } = transaction;
    let wasSent = false;
    transaction.commit = () => {
      wasSent = true;
      return send.call(transaction);
    };
    try {
      await commit.call(connection, transaction, ...rest);
    } catch (error) {
      throw transaction.isCommitted ? error : listener.commitFailed(transaction, error, wasSent);
    }
    listener.committed(transaction);
  };
  connection.rollback = async (transaction, ...rest) => {
    const undo = () => listener.rolledBack(transaction).forEach(restoreWhenIdle);
    try {
      await rollback.call(connection, transaction, ...rest);
    } catch (error) {
      if (transaction.isCommitted) {
        listener.committed(transaction); // what is committed stays
        throw error;
      }
      if ('savepointName' in transaction) {
        listener.rollbackFailed(transaction, error);
      } else if (!transaction.isRolledBack) {
        // once more: the first may have been stopped by a listener, or may only have told of the end of the connection
        if (await rollsBack(() => transaction.rollback().execute(), listener)) {
          leases.get(transaction)?.();
        }
      }
      undo();
      throw error;
    }
    undo();
  };
}

// --- reading ---

interface EntityFactoryMethods {
  create(entityName: unknown, data: Dictionary, options?: Dictionary): object;
  findEntity(data: Dictionary, meta: EntityMetadata, options?: Dictionary): object | undefined;
  mergeData(meta: EntityMetadata, entity: object, data: Dictionary, options?: unknown): void;
}
type LockOptimistic = (entity: object, meta: EntityMetadata, version: unknown) => Promise<void>;
type Transactional = (work: (tx: EntityManager) => unknown, options?: Dictionary) => Promise<unknown>;
type Refresh = (entity: object, options?: Dictionary) => Promise<object | null>;

/**
 * Hooks what happens to the version of an entity that is read again or locked.
 * MikroORM merges a row that is read again into the entity: changed properties stay, the rest is refreshed, as far as
 * it was read. A version that is refreshed above what is not would let it overwrite what it was not based on.
 *
 * @param lockFailed what to throw when a version that `em.lock()` or `findOne()` was given is not the loaded one
 */
export function hookReads(
  em: EntityManager,
  lockFailed: (entity: object, meta: EntityMetadata, expected: unknown, actual: number | undefined) => Error,
): void {
  const uow = em.getUnitOfWork(false);
  const factory = ownFactory(em) as unknown as EntityFactoryMethods;
  const { create, findEntity, mergeData } = factory;
  // where a refresh is asked for, MikroORM does not merge, and forgets the state of the columns that are not read
  factory.create = (entityName, data, options) => {
    if (!options?.refresh) {
      return create.call(factory, entityName, data, options);
    }
    const meta = em.getMetadata().find(entityName as never) as EntityMetadata | undefined;
    const isRow = meta && !meta.virtual && data && !Utils.isEntity(data, true);
    const known = isRow ? (findEntity.call(factory, data, meta, options) as Dictionary | undefined) : undefined;
    const version = known && versionOf(metaOf(em, known))?.name;
    if (!known || !version) {
      return create.call(factory, entityName, data, options);
    }
    const { current, based } = versionsOf(known, version);
    const snapshot = snapshotOf(known) as Dictionary;
    // only an upsert says so: what it has written is the state from now on
    const isOurs = options.initialized === true;
    const isClaim = !isOurs && !helper(known).__initialized && current != null;
    const isPart = !covers(Object.keys(data), known);
    const entity = create.call(factory, entityName, data, options);
    if (isPart && !isClaim) {
      restoreSnapshot(known, { ...snapshot, ...(snapshotOf(known) as Dictionary), [version]: based });
    }
    if (isPart || isClaim) {
      known[version] = current;
    }
    return entity;
  };
  factory.mergeData = (meta, entity, data, options) => {
    const version = versionOf(metaOf(em, entity))?.name;
    const left = version ? leftAsItWas(em, entity, version, data) : [];
    if (left.length > 0) {
      // joined relations are found by the data object's constructor
      data = Object.assign(Object.create(Object.getPrototypeOf(data)), data);
      left.forEach((name) => delete data[name]);
    }
    mergeData.call(factory, meta, entity, data, options);
  };

  const locks = uow as unknown as { lockOptimistic: LockOptimistic };
  const lockOptimistic = locks.lockOptimistic;
  locks.lockOptimistic = async (entity, meta, version) => {
    const isReference = !helper(entity).__initialized;
    const name = versionOf(meta)?.name;
    const failed = (actual: unknown) => lockFailed(entity, meta, version, actual as number | undefined);
    try {
      await lockOptimistic.call(uow, entity, meta, version);
    } catch (error) {
      throw error instanceof OptimisticLockError && name ? failed((entity as Dictionary)[name]) : error;
    }
    // a reference that is loaded by this keeps a version that was claimed: compare with the one that was loaded
    const loaded = isReference && name && version !== undefined ? versionsOf(entity, name).based : version;
    if (loaded !== version) {
      throw failed(loaded);
    }
  };
}

/**
 * Hooks `em.refresh()` and `em.transactional({ clear: true })`: they copy into the managed entities what another
 * EntityManager has loaded. An entity that it loaded only in part keeps the version of the rest.
 */
export function hookCopies(em: EntityManager): void {
  const refresh = em.refresh as unknown as Refresh;
  em.refresh = (async (entity: object, options: Dictionary = {}) => {
    const { props } = helper(entity).__meta as EntityMetadata;
    const lazy = options.fields ? [] : props.filter((prop) => prop.lazy && isKnown(entity, prop));
    const populate = [...Utils.asArray(options.populate), ...lazy.map((prop) => prop.name)];
    const keepVersions = versionsBefore(em.getContext() as EntityManager, [entity]);
    const { fork } = em;
    let reader: EntityManager | undefined;
    em.fork = (forkOptions) => (reader = fork.call(em, forkOptions) as EntityManager) as never;
    const refreshing = refresh.call(em, entity, lazy.length > 0 ? { ...options, populate } : options);
    em.fork = fork;
    const refreshed = await refreshing;
    for (const source of refreshed && reader ? reader.getUnitOfWork(false).getIdentityMap() : []) {
      const managed = em.getUnitOfWork().getIdentityMap().getByEntity(source);
      copyRenamed(em, source, (managed as object | undefined) ?? entity);
    }
    keepVersions(reader);
    return refreshed;
  }) as never;

  const transactional = em.transactional as unknown as Transactional;
  em.transactional = (async (work: (tx: EntityManager) => unknown, options: Dictionary = {}) => {
    const outside = em.getContext(false) as EntityManager;
    const keepVersions = options.clear ? versionsBefore(outside) : undefined;
    let reader: EntityManager | undefined;
    try {
      const result = await transactional.call(em, (tx) => work((reader = tx)), options);
      keepVersions?.(reader);
      return result;
    } catch (error) {
      // transactions inside have handed entities of outside to the fork of this one, which is gone
      for (const entity of outside.getUnitOfWork(false).getIdentityMap()) {
        helper(entity).__em = outside;
      }
      throw error;
    }
  }) as never;
}

/** MikroORM refreshes by way of the serialised form, and misses what has another name there. */
function copyRenamed(em: EntityManager, source: object, managed: object): void {
  const meta = metaOf(em, managed);
  const renamed = meta.props.filter((prop) => prop.serializedName && prop.serializedName !== prop.name);
  if (renamed.length > 0) {
    const options = { ignoreSerializers: true, includeHidden: true, convertCustomTypes: false };
    const data = helper(source).serialize(options as never) as Dictionary;
    const missed = renamed.filter((prop) => Object.hasOwn(data, prop.serializedName!));
    const values = Object.fromEntries(missed.map((prop) => [prop.name, data[prop.serializedName!]]));
    em.config.getHydrator(em.getMetadata()).hydrate(managed, meta, values, em.getEntityFactory(), 'full', false, false);
  }
}

/** Takes back the versions that came with a part of an entity only; called when the reader's state has been copied. */
function versionsBefore(em: EntityManager, entities: object[] = []): (reader?: EntityManager) => void {
  const managed = new Set<Dictionary>([...entities, ...em.getUnitOfWork(false).getIdentityMap()]);
  const before = [...managed].flatMap((entity) => {
    const version = versionOf(metaOf(em, entity))?.name;
    return version ? [{ entity, version, ...versionsOf(entity, version) }] : [];
  });
  return (reader) => {
    const read = reader?.getUnitOfWork(false).getIdentityMap();
    for (const { entity, version, current, based } of before) {
      const source = read?.getByEntity(entity as never) as Dictionary | undefined;
      const copied = entity[version] !== current && source !== entity && source?.[version] === entity[version];
      if (copied && !covers(helper(source!).__loadedProperties, entity)) {
        entity[version] = current;
        restoreSnapshot(entity, { ...(snapshotOf(entity) as Dictionary), [version]: based });
      }
    }
  };
}

/** The version that an entity has, and the one that its unsaved changes are compared with. */
function versionsOf(entity: Dictionary, version: string): { current: unknown; based: unknown } {
  return { current: entity[version], based: (snapshotOf(entity) as Dictionary | undefined)?.[version] };
}

/** `em.getEntityFactory()` answers with the factory of whichever EntityManager is in context; this one is our own. */
function ownFactory(em: EntityManager): object {
  const { getContext } = em;
  em.getContext = () => em as never;
  try {
    return em.getEntityFactory();
  } finally {
    em.getContext = getContext;
  }
}

/**
 * What a row that is read again must not bring: its version, when the entity has unsaved changes or columns that are not
 * read; and nothing at all when the row is older than the entity (a replica that lags), or was created again.
 */
function leftAsItWas(em: EntityManager, entity: object, version: string, data: Dictionary): string[] {
  const { based, current } = versionsOf(entity, version);
  const known = typeof based === 'number' ? based : current;
  const read = Number(data[version]);
  if (Number.isNaN(read) || read === known || (covers(mergedKeys(entity, data), entity) && !isDirty(em, entity))) {
    return [];
  }
  const columns = metaOf(em, entity).comparableProps.filter((prop) => !prop.primary);
  return known != null && read < Number(known) ? columns.map((prop) => prop.name) : [version];
}

/** MikroORM keeps a value where NULL is read, which is then as old as the version that it was read with. */
function mergedKeys(entity: object, data: Dictionary): string[] {
  const snapshot = snapshotOf(entity) as Dictionary | undefined;
  return Object.keys(data).filter((key) => data[key] != null || snapshot?.[key] == null);
}

/** Does what was read have every column that the entity has loaded? */
function covers(read: Iterable<string>, entity: object): boolean {
  const names = new Set(read);
  return helper(entity).__meta.comparableProps.every((prop) => !isKnown(entity, prop) || names.has(prop.name));
}

/** Has the entity a value of this column, whether it was loaded, or assigned and flushed? */
function isKnown(entity: object, { name }: EntityProperty): boolean {
  const { __loadedProperties: loaded, __originalEntityData: snapshot } = helper(entity);
  return loaded.has(name) || (snapshot as Dictionary | undefined)?.[name] !== undefined;
}

function isDirty(em: EntityManager, entity: object): boolean {
  const { __meta: meta, __originalEntityData: snapshot } = helper(entity);
  const uow = em.getUnitOfWork(false);
  if (uow.getRemoveStack().has(entity) || uow.getOrphanRemoveStack().has(entity as never)) {
    return true;
  }
  const comparator = em.getComparator();
  return Utils.hasObjectKeys(comparator.diffEntities(meta.class, snapshot as never, comparator.prepareEntity(entity)));
}
