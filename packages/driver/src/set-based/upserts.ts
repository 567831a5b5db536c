/** Upserts that return nothing, or not every row: which rows they have met, and with which versions, is read back. */
import {
  type Dictionary,
  type EntityMetadata,
  type EntityName,
  type EntityProperty,
  type FilterQuery,
  LockMode,
  type QueryResult,
  type Transaction,
  Utils,
} from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { readsSnapshots, versionOf } from '@mikro-ool/core';
import { ownVersionOf } from '../discovery.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';

/** What comes of an upsert. */
interface Outcome {
  /** Rows may be other than what was given. */
  isUnwritten: boolean;
}

/** Rides on the options of an upsert down to the driver, which says there what came of it. */
const OUTCOME = Symbol('mikro-ool upsert');

/** An upsert that may leave a row that exists as it is. */
export function mayWriteNothing(options: Dictionary): boolean {
  return options.onConflictAction === 'ignore' || Boolean(options.onConflictWhere);
}

/** These options of an upsert, and its outcome when it is over. */
export function withOutcome(options: Dictionary): { asking: Dictionary; outcome: Outcome } {
  const outcome: Outcome = { isUnwritten: false };
  return { asking: { ...options, [OUTCOME]: outcome }, outcome };
}

/** Says of an upsert that rows were left as they are. */
function leftRows(options: PersistOptions): void {
  const outcome = (options as { [OUTCOME]?: Outcome })[OUTCOME];
  if (outcome) {
    outcome.isUnwritten = true;
  }
}

/**
 * Upserts, and where that does not say so itself, reads back which versions the rows have now. Without
 * RETURNING they are read before anybody else can bump them: a later version than that of the values would let them
 * overwrite what was written in between.
 */
export async function readingBack<T extends object>(
  driver: AbstractSqlDriver,
  entityName: EntityName<T>,
  where: FilterQuery<T>[],
  options: PersistOptions,
  write: (options: PersistOptions) => Promise<QueryResult<T>>,
): Promise<QueryResult<T>> {
  const meta = driver.getMetadata().get(entityName) as unknown as EntityMetadata;
  const returns = driver.getPlatform().usesReturningStatement();
  const mayLeave = mayWriteNothing(options) && versionOf(meta);
  if (!mayLeave && (returns || !ownVersionOf(meta))) {
    return write(options);
  }
  const run = async (ctx?: Transaction) => {
    const result = await write({ ...options, ctx });
    if (returns && result.rows?.length === where.length) {
      return result;
    }
    if (mayLeave) {
      leftRows(options);
    }
    // where SQL names the unique columns, what is looked for is unknown
    if (where.some((one) => one == null || Utils.isEmpty(one))) {
      return returns ? { ...result, row: undefined, rows: [] } : result;
    }
    const found = await findUpserted(driver, meta, where, { ...options, ctx });
    // what is returned of some rows does not say of which
    const rows = found.map((row, i) => (returns ? row : { ...result.rows?.[i], ...row }));
    return { ...result, row: rows[0], rows } as QueryResult<T>;
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
  // MikroORM reads no keys where rows come back
  const returned = [...meta.getPrimaryProps(), ownVersionOf(meta)].filter((prop) => prop !== undefined);
  const names = returned.map((prop) => prop.name);
  const fields = [...new Set(conditions.flatMap((condition) => Object.keys(condition)).concat(names))];
  // an upsert meets what others have committed since a snapshot was taken, too
  const lockMode = ctx && readsSnapshots(driver.getPlatform()) ? LockMode.PESSIMISTIC_READ : undefined;
  const options = { fields, ctx, schema, lockMode, connectionType: 'write' };
  const find = (condition: object): Promise<Dictionary[]> =>
    driver.find(meta.class, condition as never, options as never);
  const found = await find({ $or: conditions });
  const comparator = driver.config.getComparator(driver.getMetadata());
  const matches = (row: Dictionary, condition: Dictionary) => {
    const values = Object.keys(condition).map((name) => [name, row[name]] as const);
    return comparator.matching(meta.class, condition as never, Object.fromEntries(values) as never);
  };
  const rows: Dictionary[] = [];
  for (const condition of conditions) {
    // spelled otherwise, and only the database knows which row is meant
    const row = found.find((one) => matches(one, condition)) ?? (await find(condition))[0];
    rows.push(row ? byColumn(row, returned) : {});
  }
  return rows;
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
