/** Upserts where nothing is returned: the versions that the rows have are read back, and their keys. */
import {
  type Dictionary,
  type EntityMetadata,
  type EntityName,
  type EntityProperty,
  type FilterQuery,
  type QueryResult,
  type Transaction,
  Utils,
} from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { ownVersionOf } from '../discovery.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';

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
  const version = options.upsert && !driver.getPlatform().usesReturningStatement() ? ownVersionOf(meta) : undefined;
  // where SQL names the unique columns, what is looked for is unknown
  if (!version || where.some((one) => one == null || Utils.isEmpty(one))) {
    return write(options);
  }
  const run = async (ctx: Transaction) => {
    const result = await write({ ...options, ctx });
    const conditions = where.map((one) => conditionOf(one, meta));
    // MikroORM reads no keys where rows come back
    const returned = [...meta.getPrimaryProps(), version];
    const names = returned.map((prop) => prop.name);
    const fields = [...new Set(conditions.flatMap((condition) => Object.keys(condition)).concat(names))];
    const { schema } = options;
    const find = (condition: object): Promise<Dictionary[]> =>
      driver.find(meta.class, condition as never, { fields, ctx, schema } as never);
    const found = await find({ $or: conditions });
    const matches = (row: Dictionary, condition: Dictionary) => {
      const values = Object.keys(condition).map((name) => [name, row[name]] as const);
      const comparator = driver.config.getComparator(driver.getMetadata());
      return comparator.matching(meta.class, condition as never, Object.fromEntries(values) as never);
    };
    const bySpelling = conditions.map((condition) => found.find((one) => matches(one, condition)));
    for (const i of conditions.keys()) {
      // spelled otherwise, and only the database knows which row is meant
      const [row] = bySpelling[i] ? [] : await find(conditions[i]!);
      bySpelling[i] ??= row;
    }
    const rows = bySpelling.map((row, i) => {
      return { ...result.rows?.[i], ...(row && byColumn(row, returned)) };
    });
    return { ...result, row: rows[0], rows } as QueryResult<T>;
  };
  return options.ctx ? run(options.ctx) : driver.getConnection('write').transactional(run);
}

/** Values of a row as MikroORM's drivers return them. */
function byColumn(row: Dictionary, props: EntityProperty[]): Dictionary {
  const values = props.map(({ name }) => Utils.flatten(Utils.asArray(row[name]) as unknown[][], true));
  return Object.fromEntries(props.flatMap(({ fieldNames }, p) => fieldNames.map((field, i) => [field, values[p]![i]])));
}

/** What an upsert looks for: its unique values, or a primary key. */
function conditionOf(where: unknown, meta: EntityMetadata): Dictionary {
  const key = Utils.asArray(where);
  return Utils.isPlainObject(where) ? where : Object.fromEntries(meta.primaryKeys.map((name, i) => [name, key[i]]));
}
