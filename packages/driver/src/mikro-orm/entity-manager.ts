/** What EntityManagers copy between each other, and how `em.lock()` fails. */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  LockMode,
  type ValidationError,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { readsSnapshots, verifiedIn, verify, verifyInside, versionOf } from '@mikro-ool/core';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { writtenFrom, wrote } from '../memory/written.ts';
import { metaOf, restoreSnapshot, snapshotOf } from './entity.ts';
import { covers, heldVersion, isKnown, versionsOf } from './entity-factory.ts';
import { opened } from './outside.ts';

type LockOptimistic = (entity: object, meta: EntityMetadata, version: unknown) => Promise<void>;
type Transactional = (work: (tx: EntityManager) => unknown, options?: Dictionary) => Promise<unknown>;
type Refresh = (entity: object, options?: Dictionary) => Promise<object | null>;
type FindOne = (...args: unknown[]) => Promise<object | null>;

/**
 * Hooks `em.lock(entity, LockMode.OPTIMISTIC, version)` and `findOne({ lockVersion })`. Without a version they are
 * `verify(entity)`.
 *
 * @param lockFailed what to throw when the version that was given is not the loaded one
 */
export function hookLocks(
  em: EntityManager,
  lockFailed: (entity: object, meta: EntityMetadata, expected: unknown, actual: number | undefined) => Error,
): void {
  const uow = em.getUnitOfWork(false);
  const locks = uow as unknown as { lockOptimistic: LockOptimistic };
  const lockOptimistic = locks.lockOptimistic;
  locks.lockOptimistic = async (entity, meta, version) => {
    const isReference = !helper(entity).__initialized;
    const name = versionOf(meta)?.name;
    const failed = (actual: unknown) => lockFailed(entity, meta, version, actual as number | undefined);
    try {
      await lockOptimistic.call(uow, entity, meta, version);
    } catch (error) {
      const isMismatch = name && (error as ValidationError).getEntity?.() === entity;
      throw isMismatch ? failed((entity as Dictionary)[name]) : error;
    }
    if (version === undefined && name) {
      // without a version MikroORM does nothing
      if (isReference && (entity as Dictionary)[name] == null) {
        await helper(entity).init();
      }
      verify(entity);
      return;
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
 * EntityManager has loaded. An entity that it loaded only in part keeps the version of the rest, and one that is newer
 * already stays as it is; but for the refreshed one itself, which is read from where it is written.
 */
export function hookCopies(em: EntityManager, log: TransactionLog): void {
  const refresh = em.refresh as unknown as Refresh;
  em.refresh = (async (entity: object, options: Dictionary = {}) => {
    const { props } = helper(entity).__meta as EntityMetadata;
    const lazy = options.fields ? [] : props.filter((prop) => prop.lazy && isKnown(entity, prop));
    const populate = [...Utils.asArray(options.populate), ...lazy.map((prop) => prop.name)];
    const keepVersions = versionsBefore(em.getContext() as EntityManager, [entity]);
    const { fork } = em;
    let reader: EntityManager | undefined;
    em.fork = (forkOptions) => {
      reader = fork.call(em, forkOptions) as EntityManager;
      const findOne = reader.findOne as unknown as FindOne;
      reader.findOne = (async (...args: unknown[]) => {
        const found = await findOne.apply(reader, args);
        forgetOlder(reader!, em.getContext() as EntityManager, entity);
        return found;
      }) as never;
      return reader as never;
    };
    const current = versionOf(metaOf(em, entity)) ? currentRow(em) : {};
    const all = { ...options, ...(lazy.length > 0 ? { populate } : {}) };
    const refreshing = refresh.call(em, entity, { ...current, ...all });
    em.fork = fork;
    const refreshed = await refreshing;
    for (const source of refreshed && reader ? reader.getUnitOfWork(false).getIdentityMap() : []) {
      const managed = em.getUnitOfWork().getIdentityMap().getByEntity(source);
      copyExactly(em, source, (managed as object | undefined) ?? entity);
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
      const inside = async (tx: EntityManager) => {
        reader = tx;
        if (tx !== outside) {
          opened(tx.getUnitOfWork(false), outside.getUnitOfWork(false));
          if (!options.clear && verifiedIn(outside.getUnitOfWork(false))) {
            verifyInside(tx.getUnitOfWork(false), outside.getUnitOfWork(false));
          }
        }
        const done = await work(tx);
        if (tx !== outside && options.clear) {
          log.copies(tx, outside);
          forgetOlderAfterFlush(tx, outside);
        }
        return done;
      };
      const result = await transactional.call(em, inside, options);
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

/** Options to read what a write would see: no replica, no cache, and no snapshot of the transaction. */
function currentRow(em: EntityManager): Dictionary {
  const sees = !em.isInTransaction() || !readsSnapshots(em.getPlatform());
  const lock = sees ? {} : { lockMode: LockMode.PESSIMISTIC_READ };
  return { connectionType: 'write', cache: false, ...lock };
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
      const from = copied ? writtenFrom(source!, entity[version]) : undefined;
      if (from !== undefined) {
        wrote(entity, from, entity[version] as number);
      }
      // what was not loaded is as old as the version that the first write found
      const isUpToDate = from !== undefined && from === current && from === based;
      if (copied && !isUpToDate && !covers(helper(source!).__loadedProperties, entity)) {
        entity[version] = current;
        restoreSnapshot(entity, { ...(snapshotOf(entity) as Dictionary), [version]: based });
      }
    }
  };
}
