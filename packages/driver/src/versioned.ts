/**
 * The lock itself: a driver whose flushes check versions.
 *
 *   export default defineConfig({ driver: versioned(PostgreSqlDriver), entities: [Article] });
 *
 * A changed row is updated, and a removed row deleted, only where it still has the version that it was read with; the
 * update bumps it. The rows of a table go into one statement. Where fewer rows match than were meant, the flush throws
 * `ConcurrentUpdate` and changes nothing. What users call directly (`em.nativeUpdate()` and the like) is not checked.
 */
import {
  type ChangeSet,
  type Configuration,
  type Dictionary,
  type EntityDictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityName,
  type EntityProperty,
  type FilterQuery,
  type FindOptions,
  type MetadataStorage,
  type PopulateOptions,
  type QueryResult,
  type Transaction,
  Utils,
} from '@mikro-orm/core';
import type { AbstractSqlDriver, AnyQueryBuilder, InternalField } from '@mikro-orm/sql';
import { VersionField, registerPlatform, versionOf } from '@mikro-ool/core';
import { type VersionedRow, batchDialect, batchUpdate, keyOf, locate } from './batch.ts';
import { cascades } from './cascades.ts';
import { describeBatch, describeConflict, lockFailed } from './conflicts.ts';
import { type Dialect, dialectOf } from './dialect.ts';
import { updateOne } from './dialects/values.ts';
import { adoptVersions, hookDiscovery, ownVersionOf, versionTable } from './discovery.ts';
import { Flush } from './flush.ts';
import {
  type PersistOptions,
  flushOf,
  hookCopies,
  hookFlushes,
  hookReads,
  hookTransactions,
  syncingFlush,
} from './internals.ts';
import { type Writer, bumpSetBasedWrites, sparing } from './set-based.ts';
import { TransactionLog } from './undo.ts';

/** A MikroORM SQL driver class. */
export type DriverClass = new (config: Configuration) => AbstractSqlDriver;

/** All parameters but the first, which is generic. */
type Rest<Method> = Method extends (first: never, ...rest: infer Tail) => unknown ? Tail : never;

/**
 * Wraps a MikroORM SQL driver class, so that every UPDATE and DELETE of a flush checks the row's version.
 *
 * @param Base the driver class, `PostgreSqlDriver` or `SqliteDriver`; one of another database works row by row
 * @returns a driver class of the same type, for the `driver` option of the MikroORM config
 * @see Fowler, Patterns of Enterprise Application Architecture, "Optimistic Offline Lock"
 */
export function versioned<Driver extends DriverClass>(Base: Driver): Driver {
  class VersionedDriver extends (Base as DriverClass) {
    readonly log: TransactionLog;
    #managerClass?: new (...args: unknown[]) => EntityManager;

    constructor(config: Configuration) {
      super(config);
      registerPlatform(this.platform);
      hookDiscovery(config);
      this.log = new TransactionLog(dialectOf(this.platform));
      hookTransactions(this.connection, this.log);
    }

    /** MikroORM calls this when all entities are discovered, and before anything uses them. */
    override setMetadata(metadata: MetadataStorage): void {
      adoptVersions(metadata, this.config);
      super.setMetadata(metadata);
    }

    override createEntityManager(useContext?: boolean): this[typeof import('@mikro-orm/core').EntityManagerType] {
      // forks are made by `new em.constructor()`, so the hooks belong into a class: whichever the config names, extended
      this.#managerClass ??= managerClass(super.createEntityManager(useContext), this);
      return new this.#managerClass(this.config, this, this.metadata, useContext) as never;
    }

    override createQueryBuilder<T extends object>(
      entityName: EntityName<T> | AnyQueryBuilder<T>,
      ...rest: Rest<AbstractSqlDriver['createQueryBuilder']>
    ): AnyQueryBuilder<T> {
      const qb = super.createQueryBuilder<T>(entityName, ...rest);
      bumpSetBasedWrites(qb as unknown as Writer, this.platform);
      const flush = syncingFlush<Flush>();
      if (flush) {
        sparing(qb as unknown as Writer, (meta) => flush.removedKeys(meta));
      }
      return qb;
    }

    /** Partial loading loads the version all the same; what is serialised does not change. */
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
      const props = meta.props as EntityProperty[];
      const version = props.find((prop) => prop.customType instanceof VersionField)?.name as
        | InternalField<T>
        | undefined;
      const complete = fields.some((field) => field === '*' || field === `${alias}.*` || field === version);
      return version && !complete && !options.groupBy ? [...fields, version] : fields;
    }

    protected override shouldHaveColumn<T, U>(
      meta: EntityMetadata<T>,
      prop: EntityProperty<U>,
      ...rest: [readonly PopulateOptions<U>[], (readonly InternalField<U>[])?, (readonly InternalField<U>[])?]
    ): boolean {
      return prop.customType instanceof VersionField || super.shouldHaveColumn(meta, prop, ...rest);
    }

    override async nativeUpdate<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>,
      data: EntityDictionary<T>,
      options: PersistOptions = {},
    ): Promise<QueryResult<T>> {
      const flush = flushOf<Flush>(options);
      const row = flush?.rowOf(data);
      if (!flush || !row) {
        return this.#withVersions(entityName, [where], options, (more) =>
          super.nativeUpdate(entityName, where, data, more),
        );
      }
      const { name } = ownVersionOf(row.changeSet.meta)!;
      const { [name]: _claim, ...payload } = data as Record<string, unknown>;
      if (flush.hasMoved(row)) {
        payload[name] = row.expected;
      } else if (Object.keys(payload).length === 0) {
        payload[name] = row.expected + 1; // touched: MikroORM adds its own bump to other changes only
      }
      const result = await super.nativeUpdate(
        entityName,
        { ...(where as object), [name]: row.expected } as never,
        payload as never,
        options,
      );
      if (result.affectedRows !== 1) {
        throw await describeConflict(this, [row], 'update', options);
      }
      flush.written([row]);
      return result;
    }

    override async nativeUpdateMany<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>[],
      data: EntityDictionary<T>[],
      options: PersistOptions = {},
      ...rest: [transform?: never]
    ): Promise<QueryResult<T>> {
      return this.#withVersions(entityName, where, options, (more) =>
        super.nativeUpdateMany(entityName, where, data, more, ...rest),
      );
    }

    /**
     * An upsert, with the versions that the rows have now. Without RETURNING they are read before anybody else can bump
     * them: a later version than that of the values would let them overwrite what was written in between.
     */
    async #withVersions<T extends object>(
      entityName: EntityName<T>,
      where: FilterQuery<T>[],
      options: PersistOptions,
      write: (options: PersistOptions) => Promise<QueryResult<T>>,
    ): Promise<QueryResult<T>> {
      const meta = this.metadata.get(entityName) as EntityMetadata;
      const version = options.upsert && !this.platform.usesReturningStatement() ? ownVersionOf(meta) : undefined;
      // where SQL names the unique columns, what is looked for is unknown
      if (!version || where.some((one) => one == null || Utils.isEmpty(one))) {
        return write(options);
      }
      const run = async (ctx: Transaction) => {
        const result = await write({ ...options, ctx });
        const conditions = where.map((one) => conditionOf(one, meta));
        const fields = [...new Set(conditions.flatMap((condition) => Object.keys(condition))), version.name];
        const { schema } = options;
        const found = await this.find(meta.class, { $or: conditions } as never, { fields, ctx, schema } as never);
        const matches = (row: Dictionary, condition: Dictionary) => {
          const values = Object.keys(condition).map((name) => [name, row[name]] as const);
          return this.comparator.matching(meta.class, condition as never, Object.fromEntries(values) as never);
        };
        const rows = conditions.map((condition, i) => {
          const row = found.find((one) => matches(one, condition));
          return { ...result.rows?.[i], ...(row && { [version.fieldNames[0]!]: (row as Dictionary)[version.name] }) };
        });
        return { ...result, row: rows[0], rows } as QueryResult<T>;
      };
      return options.ctx ? run(options.ctx) : this.connection.transactional(run);
    }

    /**
     * The UPDATE of a flush: all these rows, which are of one table.
     * Returns what the database computed, with the key of each row, by column.
     */
    async updateRows(rows: VersionedRow[], options: PersistOptions): Promise<Dictionary[]> {
      const { meta } = rows[0]!.changeSet;
      const update = batchUpdate(this.getTableName(meta, options), meta, rows, this.platform, (item, props) =>
        this.mapDataToFieldNames(item, false, props, false),
      );
      const { sql, params } = rows.length > 1 ? dialectOf(this.platform)!.update(update) : updateOne(update);
      const result = await this.#run(sql, params, options);
      if (result.affectedRows !== rows.length) {
        throw await describeBatch(this, rows, 'update', options, result.affectedRows);
      }
      return (result.rows as Dictionary[] | undefined) ?? [];
    }

    /** The DELETE of a flush: all these rows, which are of one table. */
    async deleteRows(flush: Flush, changeSets: ChangeSet<object>[], options: PersistOptions): Promise<void> {
      const { meta } = changeSets[0]!;
      // rows that may delete each other by a cascading foreign key go into one statement, which sees them all before
      const size = cascades(this, meta, meta) ? changeSets.length : this.config.get('batchSize');
      for (let i = 0; i < changeSets.length; i += size) {
        await this.#deleteChunk(flush, changeSets.slice(i, i + size), options);
      }
    }

    async #deleteChunk(flush: Flush, changeSets: ChangeSet<object>[], options: PersistOptions): Promise<void> {
      const { meta } = changeSets[0]!;
      const rows = changeSets.map((changeSet) => flush.row(changeSet, 'delete'));
      const dialect = rows.length > 1 ? batchDialect(this.platform, changeSets) : undefined;
      if (dialect) {
        await this.#deleteTogether(dialect, flush, rows, options);
      } else {
        for (const row of rows) {
          await this.#deleteOne(flush, row, options);
        }
      }
      // Joined-table inheritance: the DELETE of the checked row comes first. One of the root with a subquery on the
      // version would wait for a rival's UPDATE of the other table only in its cascade, after the subquery had passed.
      if (versionTable(meta) !== meta.root) {
        const keys = { [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: changeSets.map(keyOf) } };
        await super.nativeDelete(meta.root.class, keys as never, options);
      }
    }

    async #deleteTogether(
      dialect: Dialect,
      flush: Flush,
      rows: VersionedRow[],
      options: PersistOptions,
    ): Promise<void> {
      const left = await flush.withoutCascaded(rows, options);
      if (left.length === 0) {
        return;
      }
      const { meta } = left[0]!.changeSet;
      const table = this.getTableName(versionTable(meta), options);
      const { sql, params } = dialect.delete(locate(table, meta, left, this.platform));
      const { affectedRows } = await this.#run(sql, params, options);
      // all rows matched or none was deleted; those that the statement's own cascade took may not be counted
      if (affectedRows === 0 || (affectedRows !== left.length && !cascades(this, meta, meta))) {
        throw await describeBatch(this, left, 'delete', options, affectedRows);
      }
    }

    async #deleteOne(flush: Flush, row: VersionedRow, options: PersistOptions): Promise<void> {
      const { meta } = row.changeSet;
      const where = { ...(row.changeSet.getPrimaryKey(true) as object), [versionOf(meta)!.name]: row.expected };
      const { affectedRows } = await super.nativeDelete(versionTable(meta).class, where as never, options);
      if (affectedRows !== 1) {
        const conflict = await describeConflict(this, [row], 'delete', options);
        if (!flush.mayBeGone(row) || conflict.conflicts[0]!.actual !== null) {
          throw conflict;
        }
      }
    }

    #run<T extends object>(sql: string, params: unknown[], options: PersistOptions): Promise<QueryResult<T>> {
      const { signal, inflightQueryAbortStrategy } = options;
      const logging = signal ? { ...options.loggerContext, signal, inflightQueryAbortStrategy } : options.loggerContext;
      return this.rethrow(this.execute<QueryResult<T>>(sql, params, 'run', options.ctx, logging));
    }
  }

  /** What an upsert looks for: its unique values, or a primary key. */
  function conditionOf(where: unknown, meta: EntityMetadata): Dictionary {
    const key = Utils.asArray(where);
    return Utils.isPlainObject(where) ? where : Object.fromEntries(meta.primaryKeys.map((name, i) => [name, key[i]]));
  }

  function managerClass(manager: EntityManager, driver: VersionedDriver): new (...args: unknown[]) => EntityManager {
    const Manager = manager.constructor as new (...args: unknown[]) => EntityManager;
    return class VersionedEntityManager extends Manager {
      constructor(...args: unknown[]) {
        super(...args);
        hookFlushes(this, () => new Flush(this, driver));
        hookReads(this, lockFailed);
        hookCopies(this);
      }
    };
  }

  return VersionedDriver as unknown as Driver;
}
