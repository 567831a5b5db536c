/**
 * The lock itself: a driver whose flushes check versions.
 *
 *   export default defineConfig({ driver: versioned(PostgreSqlDriver), entities: [Article] });
 *
 * A changed row is updated, and a removed row deleted, only where it still has the version that it was read with; the
 * update bumps it. The rows of a table go into one statement. Where fewer rows match than were meant, the flush throws
 * `ConcurrentUpdate` and changes nothing. What users call directly (`em.nativeUpdate()` and the like) bumps versions
 * and compares none; only a version that it gives to a row is validated.
 */
import { inspect } from 'node:util';
import {
  type Collection,
  type Configuration,
  type Connection,
  type DatabaseDriver,
  type DriverException,
  type EntityData,
  type EntityDictionary,
  type EntityMetadata,
  type EntityName,
  type EntityProperty,
  type FilterQuery,
  type FindOptions,
  type MetadataStorage,
  type PopulateOptions,
  type QueryResult,
} from '@mikro-orm/core';
import type { AbstractSqlDriver, AnyQueryBuilder, InternalField } from '@mikro-orm/sql';
import { VersionExhausted, VersionField, registerPlatform, versionOf } from '@mikro-ool/core';
import { adoptVersions, hookDiscovery } from './discovery.ts';
import { Flush } from './flush/flush.ts';
import { manyToManyFirst } from './order/tables.ts';
import { TransactionLog } from './memory/transaction-log.ts';
import { hookTransactions } from './hooks/connection.ts';
import { hookManager } from './hooks/entity-manager-class.ts';
import type { PersistOptions } from './mikro-orm/entity.ts';
import { syncingFlush } from './mikro-orm/flush-state.ts';
import { requireDriver, requireManager, requireMetadata, warnOfVersion, warnOnce } from './mikro-orm/required.ts';
import { withVersion } from './partial-loading.ts';
import { dialectOf } from './write/dialects/index.ts';
import { bumpSetBasedWrites, validateVersions, withInitialVersions } from './set-based/writes.ts';
import { readingBack } from './set-based/upserts.ts';

/** A MikroORM SQL driver class; of any copy of `@mikro-orm/sql`, whose types are not needed here. */
export type DriverClass = new (
  config: Configuration,
) => DatabaseDriver<Connection> & { createQueryBuilder(...args: never[]): unknown };

type SqlDriverClass = new (config: Configuration) => AbstractSqlDriver;

/** All parameters but the first, which is generic. */
type Rest<Method> = Method extends (first: never, ...rest: infer Tail) => unknown ? Tail : never;

/**
 * Wraps a MikroORM SQL driver class, so that the UPDATEs and DELETEs of a flush check the version of the rows that have one.
 *
 * @param Base the driver class, like `PostgreSqlDriver`; PostgreSQL, MariaDB, MySQL, SQLite and their relatives write
 *   the rows of a table together, another database row by row
 * @returns a driver class of the same type and name, for the `driver` option of the MikroORM config
 * @throws {TypeError} when it is something else
 * @see Fowler, Patterns of Enterprise Application Architecture, "Optimistic Offline Lock"
 */
export function versioned<Driver extends DriverClass>(Base: Driver): Driver {
  if (!isSqlDriver(Base)) {
    throw new TypeError(
      `versioned() wraps a driver class of MikroORM for an SQL database, like SqliteDriver of '@mikro-orm/sqlite', ` +
        `but it was given ${inspect(Base)}. Is it imported by the right name, and from the right package?`,
    );
  }
  if (isWrapped(Base)) {
    return Base;
  }
  class VersionedDriver extends (Base as unknown as SqlDriverClass) {
    readonly log: TransactionLog;
    readonly #writing = (transaction: object): void => this.log.writing(transaction);

    constructor(config: Configuration) {
      super(config);
      requireDriver(Base.prototype as object, this.connection);
      registerPlatform(this.platform, dialectOf(this.platform)?.readsCurrent ?? true);
      hookDiscovery(config);
      const dialect = dialectOf(this.platform);
      if (!dialect) {
        warnOnce(config, `versioned(${Base.name}) knows no batch statements of this database: it writes row by row.`);
      }
      this.log = new TransactionLog(dialect);
      hookTransactions(this.connection, this.log);
    }

    /** MikroORM calls this when all entities are discovered, and before anything uses them. */
    override setMetadata(metadata: MetadataStorage): void {
      requireMetadata(metadata);
      adoptVersions(metadata, this.config);
      super.setMetadata(metadata);
    }

    override createEntityManager(useContext?: boolean): this[typeof import('@mikro-orm/core').EntityManagerType] {
      const manager = super.createEntityManager(useContext);
      // without entities it is made for its class only, by a container of dependencies
      if (this.metadata) {
        requireManager(manager, (meta) => super.createQueryBuilder(meta.class));
        warnOfVersion(this.config);
      }
      return hookManager(manager, this.log, (em) => new Flush(em, this, this.log)) as never;
    }

    override createQueryBuilder<T extends object>(
      entityName: EntityName<T> | AnyQueryBuilder<T>,
      ...rest: Rest<AbstractSqlDriver['createQueryBuilder']>
    ): AnyQueryBuilder<T> {
      const qb = super.createQueryBuilder<T>(entityName, ...rest);
      const flush = syncingFlush();
      bumpSetBasedWrites(qb, this.platform, this.#writing, flush && ((meta) => flush.deletes.pendingKeys(meta)));
      return qb;
    }

    override syncCollections<T extends object, O extends object>(
      collections: Iterable<Collection<T, O>>,
      ...rest: Rest<AbstractSqlDriver['syncCollections']>
    ): Promise<void> {
      return super.syncCollections(manyToManyFirst(collections), ...rest);
    }

    /** Ours are none of the database. */
    override convertException(exception: Error): DriverException {
      return exception instanceof VersionExhausted ? (exception as never) : super.convertException(exception);
    }

    protected override buildFields<T extends object>(
      meta: EntityMetadata<T>,
      populate: PopulateOptions<T>[],
      joinedProps: PopulateOptions<T>[],
      qb: AnyQueryBuilder<T>,
      alias: string,
      options: Pick<FindOptions<T, never, never, never>, 'strategy' | 'fields' | 'exclude'> & { groupBy?: unknown },
      schema?: string,
    ): InternalField<T>[] {
      const fields = super.buildFields(meta, populate, joinedProps, qb, alias, options, schema);
      return withVersion(fields, meta, alias, Boolean(options.groupBy));
    }

    protected override shouldHaveColumn<T, U>(
      meta: EntityMetadata<T>,
      prop: EntityProperty<U>,
      ...rest: [readonly PopulateOptions<U>[], (readonly InternalField<U>[])?, (readonly InternalField<U>[])?]
    ): boolean {
      return prop.customType instanceof VersionField || super.shouldHaveColumn(meta, prop, ...rest);
    }

    override nativeInsertMany<T extends object>(
      entityName: EntityName<T>,
      data: EntityDictionary<T>[],
      options: PersistOptions = {},
      ...rest: [transform?: never]
    ): Promise<QueryResult<T>> {
      const meta = this.metadata.get(entityName) as unknown as EntityMetadata;
      this.#noteTransaction(meta, options);
      return super.nativeInsertMany(entityName, withInitialVersions(meta, data), options, ...rest);
    }

    /** `em.clone()`, whose copy is a new row. */
    override nativeClone<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>,
      overrides?: EntityData<T>,
      options?: PersistOptions,
    ): Promise<QueryResult<T>> {
      const meta = this.metadata.get(entityName) as unknown as EntityMetadata;
      const [complete] = withInitialVersions(meta, [overrides ?? {}]);
      return super.nativeClone(entityName, where, complete as EntityData<T>, options);
    }

    override nativeUpdate<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>,
      data: EntityDictionary<T>,
      options: PersistOptions = {},
    ): Promise<QueryResult<T>> {
      this.#validateVersions(entityName as never, [data], options);
      const write = (more: PersistOptions) => super.nativeUpdate(entityName, where, data, more);
      return options.upsert ? readingBack(this, entityName, [where], options, write) : write(options);
    }

    override nativeUpdateMany<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>[],
      data: EntityDictionary<T>[],
      options: PersistOptions = {},
      ...rest: [transform?: never]
    ): Promise<QueryResult<T>> {
      this.#validateVersions(entityName as never, data, options);
      this.#noteTransaction(this.metadata.get(entityName) as unknown as EntityMetadata, options);
      const write = (more: PersistOptions) => super.nativeUpdateMany(entityName, where, data, more, ...rest);
      return options.upsert ? readingBack(this, entityName, where, options, write) : write(options);
    }

    /** Of what MikroORM writes without a query builder. */
    #noteTransaction(meta: EntityMetadata, { ctx }: PersistOptions): void {
      if (ctx && versionOf(meta)) {
        this.log.writing(ctx);
      }
    }

    /** Of versions that an EntityManager is given from outside; a flush has planned what it writes. */
    #validateVersions(entityName: EntityName<never>, data: readonly object[], options: PersistOptions): void {
      if (options.em || options.upsert) {
        validateVersions(this.metadata.get(entityName) as unknown as EntityMetadata, data);
      }
    }
  }

  // the CLI and messages go by the name
  Object.defineProperty(VersionedDriver, 'name', { value: Base.name });
  wrapped.add(VersionedDriver);
  return VersionedDriver as unknown as Driver;
}

/** The classes that were made here. */
const wrapped = new WeakSet<object>();

/** Is it wrapped already, or does it extend a class that is? */
function isWrapped(Class: object | null): boolean {
  return Class !== null && (wrapped.has(Class) || isWrapped(Object.getPrototypeOf(Class)));
}

/** By its methods: there may be several copies of a package. */
function isSqlDriver(Class: unknown): boolean {
  const methods: unknown = typeof Class === 'function' ? Class.prototype : undefined;
  return ['nativeUpdate', 'createQueryBuilder', 'createEntityManager'].every(
    (name) => typeof (methods as Record<string, unknown> | undefined)?.[name] === 'function',
  );
}
