/**
 * Is this a MikroORM that the lock works with? Looked at when the ORM starts, before any SQL: a method that is overridden,
 * and is called no more under that name, would let writes pass unchecked.
 */
import {
  type Configuration,
  Configuration as OurConfiguration,
  type EntityManager,
  type EntityMetadata,
  type MetadataStorage,
  Utils,
} from '@mikro-orm/core';

/** The oldest and the newest version that the tests have run on: `npx pnpm compat` runs them on another one. */
export const TESTED = ['7.2.1', '7.2.5'] as const;

/** What is overridden or called, by the class that has it. */
export const REQUIRED = {
  driver: [
    ...['createEntityManager', 'setMetadata', 'createQueryBuilder', 'buildFields', 'shouldHaveColumn'],
    ...[
      'nativeInsertMany',
      'nativeClone',
      'nativeUpdate',
      'nativeUpdateMany',
      'nativeDelete',
      'find',
      'execute',
      'rethrow',
    ],
    ...['getTableName', 'mapDataToFieldNames', 'getConnection', 'syncCollections', 'convertException'],
  ],
  connection: ['begin', 'commit', 'rollback', 'transactional', 'execute'],
  metadata: ['ownsVersionProperty', 'sync', 'getPrimaryProps', 'getOwnConcurrencyCheckKeys'],
  storage: ['get', 'find', 'set'],
  EntityManager: [
    ...['getUnitOfWork', 'getEntityFactory', 'getComparator', 'getContext', 'getEventManager', 'getMetadata', 'fork'],
    ...[
      'refresh',
      'transactional',
      'begin',
      'isInTransaction',
      'setTransactionContext',
      'getTransactionSessionContext',
    ],
    ...['setFlushMode', 'merge', 'upsert', 'upsertMany', 'find', 'findOne', 'flush', 'tryCache', 'storeCache'],
  ],
  UnitOfWork: [
    ...['clear', 'commit', 'doCommit', 'getChangeSetGroups', 'persistToDatabase', 'commitCollectionUpdates'],
    ...[
      'filterCollectionUpdates',
      'register',
      'remove',
      'postCommitCleanup',
      'takeCollectionSnapshots',
      'getCommitOrder',
    ],
    ...['commitCreateChangeSets', 'commitUpdateChangeSets', 'commitDeleteChangeSets', 'computeChangeSet'],
    'recomputeSingleChangeSet',
    ...['unsetIdentity', 'lockOptimistic', 'getChangeSetPersister', 'getIdentityMap', 'getChangeSets'],
    'getById',
    ...['getExtraUpdates', 'getCollectionUpdates', 'getPersistStack', 'getRemoveStack', 'getOrphanRemoveStack'],
  ],
  IdentityMap: ['getByEntity', 'getStore', 'store', 'delete'],
  ChangeSetPersister: [
    ...['executeInserts', 'executeUpdates', 'executeDeletes', 'prepareOptions', 'processProperties'],
    ...['checkConcurrencyKeys', 'mapReturnedValues', 'reloadVersionValues'],
  ],
  EntityFactory: ['create', 'findEntity', 'mergeData'],
  EntityComparator: ['getSnapshotGenerator', 'prepareEntity', 'diffEntities', 'matching'],
  QueryBuilder: ['insert', 'update', 'merge', 'ignore', 'returning', 'andWhere', 'execute', 'clone'],
  QueryBuilderHelper: ['updateVersionProperty'],
  SchemaHelper: ['alterTable', 'dropTrigger'],
} as const;

type Owner = keyof typeof REQUIRED;

/** @throws when MikroORM's driver or connection lacks something */
export function requireDriver(driver: object, connection: object): void {
  requireAll({ driver, connection });
}

/** @throws when MikroORM's metadata lacks something */
export function requireMetadata(storage: MetadataStorage): void {
  const [metadata] = [...storage] as EntityMetadata[];
  requireAll({ storage, ...(metadata && { metadata }) });
}

/** @throws when what is behind an EntityManager lacks something */
export function requireManager(em: EntityManager, createQueryBuilder: (meta: EntityMetadata) => object): void {
  requireAll({ EntityManager: em });
  const platform = em.getPlatform() as { getSchemaHelper?(): object };
  requireAll({ SchemaHelper: platform.getSchemaHelper?.() });
  const own = em.getUnitOfWork(false);
  requireAll({ UnitOfWork: own, EntityFactory: em.getEntityFactory(), EntityComparator: em.getComparator() });
  requireAll({ IdentityMap: own.getIdentityMap(), ChangeSetPersister: own.getChangeSetPersister() });
  const entity = [...(em.getMetadata() as MetadataStorage)].find(({ embeddable, virtual }) => !embeddable && !virtual);
  if (entity) {
    const QueryBuilder = createQueryBuilder(entity);
    requireAll({ QueryBuilder });
    requireAll({ QueryBuilderHelper: (QueryBuilder as { helper?: object }).helper });
  }
}

function requireAll(owners: Partial<Record<Owner, object | undefined>>): void {
  const missing = Object.entries(owners).flatMap(([owner, methods]) =>
    REQUIRED[owner as Owner]
      .filter((method) => typeof (methods as Record<string, unknown> | undefined)?.[method] !== 'function')
      .map((method) => `${owner}.${method}()`),
  );
  if (missing.length > 0) {
    throw new Error(
      `versioned() cannot lock with MikroORM ${Utils.getORMVersion()}, which has no ${missing.join(', no ')}. ` +
        `It works with MikroORM ${TESTED.join(' to ')}: install one of these, or a newer @mikro-ool/driver.`,
    );
  }
}

/** What was said once in this process. */
const said = new Set<string>();

/** Says once what is not as it was tested. */
export function warnOnce(config: Configuration, sentence: string): void {
  if (!said.has(sentence)) {
    said.add(sentence);
    config.getLogger().warn('info', sentence, { enabled: true });
  }
}

/** Is this a MikroORM that the tests have run on? */
export function isTested(): boolean {
  const version = Utils.getORMVersion();
  const [oldest, newest] = TESTED;
  return compareVersions(version, oldest) >= 0 && compareVersions(version, newest) <= 0;
}

/** Says when this MikroORM was not tested, or there are two of it. */
export function warnOfVersion(config: Configuration): void {
  const version = Utils.getORMVersion();
  if (!isTested()) {
    warnOnce(
      config,
      `versioned() was tested with MikroORM ${TESTED.join(' to ')}; this is ${version}. All that it needs is there.`,
    );
  }
  if (!(config instanceof OurConfiguration)) {
    warnOnce(
      config,
      `There are two copies of @mikro-orm/core: that of the ORM, and that of @mikro-ool (${version}). Locking works, but ` +
        `a ConcurrentUpdate is no OptimisticLockError of the ORM's copy: catch ConcurrentUpdate, or install one copy only.`,
    );
  }
}

function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split(/[.-]/).map(Number));
  const i = [0, 1, 2].find((index) => left![index] !== right![index]);
  return i === undefined ? 0 : left![i]! - right![i]!;
}
