/** What EntityManagers copy between each other, and how `em.lock()` fails. */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  LockMode,
  type UnitOfWork,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { asTouched, isTouched, readsSnapshots, verify, versionOf } from '@mikro-ool/core';
import { lockFailed } from '../flush/conflicts.ts';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { writtenFrom, wrote } from '../memory/written.ts';
import { metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import { flushesOf, isFlushing, isInFlushOf } from '../mikro-orm/flush-state.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { opened } from '../mikro-orm/outside.ts';
import { returnVerified } from '../mikro-orm/verified.ts';
import { covers, heldVersion, isKnown, versionsOf } from './entity-factory.ts';

interface Locking {
  lockOptimistic(entity: Dictionary, meta: EntityMetadata, version: unknown): Promise<void>;
}

interface Copying {
  refresh(entity: object, options?: Dictionary): Promise<object | null>;
  transactional(work: (tx: EntityManager) => unknown, options?: Dictionary): Promise<unknown>;
}

interface Beginning {
  begin(...options: unknown[]): Promise<void>;
}

type FindOne = (...args: unknown[]) => Promise<object | null>;

/**
 * `em.lock(entity, LockMode.OPTIMISTIC, version)` and `findOne({ lockVersion })` fail with a `ConcurrentUpdate`. Without a
 * version they are `verify(entity)`, where MikroORM does nothing.
 */
export const locking: Layer<Locking> = (Base) =>
  class extends Base {
    override async lockOptimistic(entity: Dictionary, meta: EntityMetadata, version: unknown): Promise<void> {
      const name = versionOf(meta)?.name;
      if (!name) {
        return super.lockOptimistic(entity, meta, version);
      }
      const isReference = !helper(entity).__initialized;
      if (isReference && (version !== undefined || entity[name] == null)) {
        await load(entity, name);
      }
      if (version === undefined) {
        verify(entity);
        return;
      }
      const { current, based } = versionsOf(entity, name);
      // a reference that is loaded by this keeps a version that was claimed: compare with the one that was loaded
      const actual = isReference && current === version ? based : current;
      if (actual !== version) {
        throw lockFailed(entity, meta, version, actual as number | undefined);
      }
    }
  };

/** Loads a reference. MikroORM makes another entity of a row whose key is spelled otherwise, and this one stays empty. */
async function load(reference: Dictionary, version: string): Promise<void> {
  const { [version]: claimed } = reference;
  const found: object | null = await helper(reference).init();
  if (found && found !== reference) {
    await helper(reference).__em!.refresh(reference);
    helper(reference).__initialized = true;
    reference[version] = claimed ?? reference[version];
  }
}

/**
 * `em.refresh()` copies into the managed entity, and those next to it, what another EntityManager has loaded. An entity that
 * it loaded only in part keeps the version of the rest, and one that is newer already stays as it is; but for the refreshed
 * one itself, which is read from where it is written. It keeps the key by which the EntityManager knows it.
 */
export const refreshing: Layer<Copying> = (Base) =>
  class extends Base {
    override async refresh(entity: object, options: Dictionary = {}): Promise<object | null> {
      const em = this as unknown as EntityManager;
      const { props } = helper(entity).__meta as EntityMetadata;
      const lazy = options.fields ? [] : props.filter((prop) => prop.lazy && isKnown(entity, prop));
      const populate = [...Utils.asArray(options.populate), ...lazy.map((prop) => prop.name)];
      const keepVersions = versionsBefore(em.getContext() as EntityManager, [entity]);
      const keepKey = keyBefore(em, entity);
      // a part of an older row would stand under a newer version, so no replica and no cache that is asked for
      const current = versionOf(metaOf(em, entity)) ? currentRow(em, options) : {};
      const all = { ...options, ...current, ...(lazy.length > 0 ? { populate } : {}) };
      const { result, reader } = withReader(em, entity, () => super.refresh(entity, all));
      const refreshed = await result;
      for (const source of refreshed && reader ? reader.getUnitOfWork(false).getIdentityMap() : []) {
        const managed = em.getUnitOfWork().getIdentityMap().getByEntity(source);
        copyExactly(em, source, (managed as object | undefined) ?? entity);
      }
      keepVersions(reader);
      keepKey();
      return refreshed;
    }
  };

/** MikroORM forks an EntityManager to refresh by. What it reads that is older than what is in memory is not copied. */
function withReader<Result>(
  em: EntityManager,
  refreshed: object,
  refresh: () => Result,
): { result: Result; reader?: EntityManager } {
  const { fork } = em;
  let reader: EntityManager | undefined;
  em.fork = (options) => {
    const forked = fork.call(em, options) as EntityManager;
    const findOne = forked.findOne as unknown as FindOne;
    forked.findOne = (async (...args: unknown[]) => {
      const found = await findOne.apply(forked, args);
      forgetOlder(forked, em.getContext() as EntityManager, refreshed);
      return found;
    }) as never;
    reader = forked;
    return forked as never;
  };
  try {
    const result = refresh();
    return { result, reader };
  } finally {
    em.fork = fork;
  }
}

/** `em.transactional({ clear: true })` copies, as `em.refresh()` does, what the EntityManager of the transaction has. */
export const transacting =
  (log: TransactionLog): Layer<Copying> =>
  (Base) =>
    class extends Base {
      override async transactional(work: (tx: EntityManager) => unknown, options: Dictionary = {}): Promise<unknown> {
        const outside = (this as unknown as EntityManager).getContext(false) as EntityManager;
        await afterFlushes(outside.getUnitOfWork(false));
        const wasInTransaction = outside.isInTransaction();
        const keepVersions = options.clear ? versionsBefore(outside) : undefined;
        let reader: EntityManager | undefined;
        const inside = async (tx: EntityManager) => {
          reader = tx;
          if (tx !== outside) {
            enter(tx, outside, wasInTransaction && !outside.isInTransaction());
          }
          const done = await work(tx);
          if (tx !== outside && options.clear) {
            log.copies(tx, outside);
            forgetOlderAfterFlush(tx, outside);
          }
          return done;
        };
        try {
          const result = await super.transactional(inside, options);
          keepVersions?.(reader);
          if (options.clear && reader) {
            forgetMissing(reader, outside);
          }
          return result;
        } catch (error) {
          // transactions inside have handed entities of outside to the fork of this one, which is gone
          for (const entity of outside.getUnitOfWork(false).getIdentityMap()) {
            helper(entity).__em = outside;
          }
          if (reader && reader !== outside) {
            returnVerified(reader, outside);
          }
          throw error;
        }
      }
    };

/** `em.begin()` while a flush is on its way: see `afterFlushes()`. */
export const beginning: Layer<Beginning> = (Base) =>
  class extends Base {
    override async begin(...options: unknown[]): Promise<void> {
      const em = (this as unknown as EntityManager).getContext(false) as EntityManager;
      await afterFlushes(em.getUnitOfWork(false));
      return super.begin(...options);
    }
  };

/**
 * While an EntityManager is flushing it is in the transaction of that flush, and a transaction that begins then would be a
 * savepoint of it: rolled back with a flush that fails, after it has told that it was saved.
 */
async function afterFlushes(uow: UnitOfWork): Promise<void> {
  while (isFlushing(uow) && !isInFlushOf(uow)) {
    await flushesOf(uow);
  }
}

/** A transaction has an EntityManager of its own. */
function enter(tx: EntityManager, outside: EntityManager, isSuspended: boolean): void {
  opened(tx.getUnitOfWork(false), outside.getUnitOfWork(false), isSuspended);
}

/** Options to read what a write would see: no replica, no cache, and no snapshot of the transaction. */
function currentRow(em: EntityManager, { lockMode = LockMode.NONE }: { lockMode?: LockMode }): Dictionary {
  const sees = !em.isInTransaction() || !readsSnapshots(em.getPlatform()) || lockMode > LockMode.OPTIMISTIC;
  const lock = sees ? {} : { lockMode: LockMode.PESSIMISTIC_READ };
  return { connectionType: 'write', cache: false, ...lock };
}

/**
 * MikroORM copies the snapshots of whole entities, but of embeddables and relations no values that an entity outside has
 * never loaded: the next flush would take them for changes, and write NULL.
 */
function forgetMissing(from: EntityManager, to: EntityManager): void {
  for (const source of from.getUnitOfWork(false).getIdentityMap()) {
    const managed = to.getUnitOfWork(false).getIdentityMap().getByEntity(source) as object | undefined;
    const snapshot = managed && managed !== source && (snapshotOf(managed) as Dictionary | undefined);
    if (snapshot && versionOf(metaOf(to, managed))) {
      const values = to.getComparator().prepareEntity(managed) as Dictionary;
      const known = Object.entries(snapshot).filter(([name]) => values[name] !== undefined);
      restoreSnapshot(managed, Object.fromEntries(known));
    }
  }
}

/** Leaves out of what is copied between EntityManagers the entities that are newer where they are copied to. */
function forgetOlder(from: EntityManager, to: EntityManager, refreshed?: object): void {
  const read = from.getUnitOfWork(false).getIdentityMap();
  for (const source of [...read] as Dictionary[]) {
    const managed = to
      .getUnitOfWork(false)
      .getIdentityMap()
      .getByEntity(source as never) as Dictionary | undefined;
    const version = managed && managed !== source && managed !== refreshed && versionOf(metaOf(to, managed))?.name;
    const isInMemory = version && helper(managed).__initialized;
    if (isInMemory && Number(heldVersion(source, version)) < Number(heldVersion(managed, version))) {
      read.delete(source as never);
    }
  }
}

/** MikroORM flushes a transaction's EntityManager once more, and then copies. */
function forgetOlderAfterFlush(tx: EntityManager, outside: EntityManager): void {
  const { flush } = tx;
  tx.flush = async () => {
    await flush.call(tx);
    forgetOlder(tx, outside);
  };
}

/**
 * MikroORM refreshes by way of the serialised form. It misses what has another name there and, before 7.2.5, takes what a
 * type makes of a value for JSON for the value.
 */
function copyExactly(em: EntityManager, source: Dictionary, managed: object): void {
  const meta = metaOf(em, managed);
  const differs = (prop: EntityProperty) => isRenamed(prop) || (isValue(prop) && prop.customType);
  const props = meta.props.filter(differs);
  if (props.length === 0) {
    return;
  }
  const options = { ignoreSerializers: true, includeHidden: true, convertCustomTypes: false };
  const data = helper(source).serialize(options as never) as Dictionary;
  const values: Dictionary = {};
  for (const prop of props) {
    const value: unknown = isValue(prop) ? source[prop.name] : data[prop.serializedName!];
    if (value !== undefined) {
      values[prop.name] = value;
    }
  }
  em.config.getHydrator(em.getMetadata()).hydrate(managed, meta, values, em.getEntityFactory(), 'full', false, false);
}

function isRenamed({ name, serializedName }: EntityProperty): boolean {
  return serializedName !== undefined && serializedName !== name;
}

/** Neither a relation, nor an embeddable, nor behind a reference. */
function isValue({ kind, ref }: EntityProperty): boolean {
  return kind === ReferenceKind.SCALAR && !ref;
}

/**
 * Takes back a key that the database spells otherwise: under that one the entity is not managed. One that was assigned and
 * is not saved is discarded, like everything else.
 */
function keyBefore(em: EntityManager, entity: Dictionary): () => void {
  const { __meta: meta, __primaryKeys: keys, __schema: schema } = helper(entity);
  const isManagedBy = em.getUnitOfWork().getById(meta.class, keys as never, schema) === entity;
  const before = (isManagedBy ? (meta.primaryKeys as string[]) : []).map((name) => ({
    name,
    value: entity[name] as unknown,
    stored: storedIn(entity, name),
  }));
  return () => {
    for (const { name, value, stored } of before.filter((one) => entity[one.name] !== one.value)) {
      entity[name] = value;
      restoreSnapshot(entity, { ...(snapshotOf(entity) as Dictionary), [name]: stored });
    }
  };
}

function storedIn(entity: object, name: string): unknown {
  return (snapshotOf(entity) as Dictionary | undefined)?.[name];
}

/** Takes back the versions, and the ends of touches, that came with a part of an entity only; called when the reader's state has been copied. */
function versionsBefore(em: EntityManager, entities: object[] = []): (reader?: EntityManager) => void {
  const managed = new Set<Dictionary>([...entities, ...em.getUnitOfWork(false).getIdentityMap()]);
  const before = [...managed].flatMap((entity) => {
    const version = versionOf(metaOf(em, entity))?.name;
    return version
      ? [{ entity, version, touched: isTouched(snapshotOf(entity), version), ...versionsOf(entity, version) }]
      : [];
  });
  return (reader) => {
    const read = reader?.getUnitOfWork(false).getIdentityMap();
    for (const { entity, version, touched, current, based } of before) {
      const source = read?.getByEntity(entity as never) as Dictionary | undefined;
      const copied = entity[version] !== current && source !== entity && source?.[version] === entity[version];
      const from = copied ? writtenFrom(source!, entity[version]) : undefined;
      if (from !== undefined) {
        wrote(entity, from, entity[version] as number);
      }
      // what was not loaded is as old as the version that the first write found
      const isUpToDate = from !== undefined && from === current && from === based;
      const isOlder = copied && !isUpToDate;
      if (!source || source === entity || !(isOlder || touched) || covers(helper(source).__loadedProperties, entity)) {
        continue;
      }
      if (isOlder) {
        entity[version] = current;
        restoreSnapshot(entity, { ...(snapshotOf(entity) as Dictionary), [version]: based });
      }
      if (touched) {
        restoreSnapshot(entity, asTouched(snapshotOf(entity) as Dictionary, version));
      }
    }
  };
}
