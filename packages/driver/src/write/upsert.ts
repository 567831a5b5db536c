/** Upserts where nothing is returned, or not of every row: which rows they are, and their versions, is read back. */
import {
  type Dictionary,
  type EntityMetadata,
  type EntityName,
  type FilterQuery,
  LockMode,
  type QueryResult,
  type Transaction,
  Utils,
} from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { ownVersionOf } from '../discovery.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import { dialectOf } from './dialects/index.ts';
import { leftRows, mayWriteNothing } from '../mikro-orm/upserts.ts';

/**
 * An upsert, with the versions that the rows have now. Without RETURNING they are read before anybody else can bump them:
 * a later version than that of the values would let them overwrite what was written in between.
 */
export async function withVersions<T extends object>(
  driver: AbstractSqlDriver,
  entityName: EntityName<T>,
  where: FilterQuery<T>[],
  options: PersistOptions,
  write: (options: PersistOptions) => Promise<QueryResult<T>>,
): Promise<QueryResult<T>> {
  const meta = driver.getMetadata().get(entityName) as unknown as EntityMetadata;
  const version = options.upsert ? versionOf(meta) : undefined;
  const returns = driver.getPlatform().usesReturningStatement();
  if (!version || (returns && !mayWriteNothing(options))) {
    return write(options);
  }
  const run = async (ctx?: Transaction) => {
    const result = await write({ ...options, ctx });
    if (returns && result.rows?.length === where.length) {
      return result;
    }
    if (mayWriteNothing(options)) {
      leftRows(options);
    }
    // where SQL names the unique columns, what is looked for is unknown
    if (where.some((one) => one == null || Utils.isEmpty(one))) {
      return returns ? { ...result, row: undefined, rows: [] } : result;
    }
    const rows = await findUpserted(driver, meta, where, { ...options, ctx });
    // what is returned of some rows does not say of which
    const all = rows.map((row, i) => (returns ? row : { ...result.rows?.[i], ...row }));
    return { ...result, row: all[0], rows: all } as QueryResult<T>;
  };
  return options.ctx || returns ? run(options.ctx) : driver.getConnection('write').transactional(run);
}

/** The keys and versions of the rows that an upsert has met, by column, in the order of what it looked for. */
async function findUpserted(
  driver: AbstractSqlDriver,
  meta: EntityMetadata,
  where: readonly unknown[],
  { ctx, schema }: PersistOptions,
): Promise<Dictionary[]> {
  const conditions = where.map((one) => conditionOf(one, meta));
  const columns = [...meta.getPrimaryProps(), ownVersionOf(meta)].filter((prop) => prop !== undefined);
  const looked = conditions.flatMap((condition) => Object.keys(condition));
  const fields = [...new Set([...looked, ...columns.map((prop) => prop.name)])];
  // what a rival has committed since a snapshot was taken is met by an upsert, too
  const lockMode =
    ctx && !(dialectOf(driver.getPlatform())?.readsCurrent ?? true) ? LockMode.PESSIMISTIC_READ : undefined;
  const options = { fields, ctx, schema, lockMode, connectionType: 'write' };
  const found = (await driver.find(meta.class, { $or: conditions } as never, options as never)) as Dictionary[];
  const comparator = driver.config.getComparator(driver.getMetadata());
  return conditions.map((condition) => {
    const row = found.find((one) => {
      const values = Object.keys(condition).map((name) => [name, one[name]] as const);
      return comparator.matching(meta.class, condition as never, Object.fromEntries(values) as never);
    });
    const values = columns.flatMap((prop) => {
      const parts = Utils.flatten(Utils.asArray(row?.[prop.name]), true) as unknown[];
      return prop.fieldNames.map((column, i) => [column, parts[i]] as const);
    });
    return row ? Object.fromEntries(values) : {};
  });
}

/** What an upsert looks for: its unique values, or a primary key. */
function conditionOf(where: unknown, meta: EntityMetadata): Dictionary {
  const key = Utils.asArray(where);
  return Utils.isPlainObject(where) ? where : Object.fromEntries(meta.primaryKeys.map((name, i) => [name, key[i]]));
}
