/**
 * Rows are written in one order by everybody, so that flushes wait for each other instead of deadlocking. Inside a
 * statement it is the order of the database, so it has to be the same from one statement to the next.
 */
import type { EntityMetadata, Transaction } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionTable } from '../discovery.ts';
import { runStatement } from '../mikro-orm/driver.ts';
import type { AnyChangeSet } from '../mikro-orm/entity.ts';
import { isComparable, keyValues, locate } from '../write/batch.ts';
import { type Dialect, dialectOf } from '../write/dialects/index.ts';
import { specialTablesOf } from '../write/special-tables.ts';
import { areOneUpdate } from '../write/one-statement.ts';

/** A value that JavaScript sorts as the database sorts the key. */
type Sortable = number | bigint | string | Uint8Array;

/** Sorts change sets of one table by primary key. `isKnown`: the database has the same order. */
export function inKeyOrder(
  sets: AnyChangeSet[],
  dialect: Dialect | undefined,
): { sorted: AnyChangeSet[]; isKnown: boolean } {
  const keys = sets.map(keyValues);
  const types = sets[0] ? keyTypes(sets[0].meta) : [];
  const known = types.map((type, k) =>
    sortable(
      keys.map((key) => key[k]),
      type,
      dialect,
    ),
  );
  const columns = known.map((column, k) => column ?? keys.map((key) => String(key[k])));
  const compare = (a: number, b: number) => {
    for (const column of columns) {
      const order = compareValues(column[a]!, column[b]!);
      if (order !== 0) {
        return order;
      }
    }
    return 0;
  };
  const isSorted = sets.every((_, i) => i === 0 || compare(i - 1, i) <= 0);
  const sorted = isSorted ? sets : [...sets.keys()].toSorted(compare).map((i) => sets[i]!);
  return { sorted, isKnown: !known.includes(undefined) };
}

function keyTypes(meta: EntityMetadata): string[] {
  return meta.getPrimaryProps().flatMap((prop) => prop.fieldNames.map((_, i) => prop.columnTypes[i]!));
}

function compareValues(a: Sortable, b: Sortable): number {
  if (typeof a === 'object') {
    return Buffer.compare(a, b as Uint8Array);
  }
  return a < b ? -1 : a > b ? 1 : 0;
}

const NUMERIC = /int|serial|decimal|numeric/i;
const DECIMAL = /^(-?)(\d+)(?:\.(\d+))?$/;
const ISO_DATE = /^\d{4}-\d\d-\d\d$/;

/** The values of a column in a form that sorts as the database does; `undefined` where we do not know how it does. */
function sortable(values: unknown[], type: string, dialect: Dialect | undefined): Sortable[] | undefined {
  const all = <Value>(is: (value: unknown) => value is Value): Value[] | undefined =>
    values.every(is) ? values : undefined;
  const texts = all((value) => typeof value === 'string');
  if (!texts) {
    return (
      all((value) => typeof value === 'number' || typeof value === 'bigint') ??
      all((value) => value instanceof Date)?.map((date) => date.getTime()) ??
      all((value) => value instanceof Uint8Array)
    );
  }
  // MikroORM hands large numbers around as texts
  if (NUMERIC.test(type)) {
    return texts.every((text) => DECIMAL.test(text)) ? decimals(texts) : undefined;
  }
  const sorted =
    /^date$/i.test(type) && texts.every((text) => ISO_DATE.test(text)) ? texts : dialect?.asCompared?.(texts, type);
  // by code point, which is not how JavaScript compares texts
  return sorted && (sorted.every((text) => isAscii(text)) ? sorted : sorted.map((text) => Buffer.from(text)));
}

/** Exact, whatever their size: as integers of the smallest unit. */
function decimals(texts: string[]): bigint[] {
  const parts = texts.map((text) => DECIMAL.exec(text)!);
  const scale = Math.max(...parts.map(([, , , fraction = '']) => fraction.length));
  return parts.map(([, sign, digits, fraction = '']) => BigInt(`${sign}${digits}${fraction.padEnd(scale, '0')}`));
}

function isAscii(text: string): boolean {
  // eslint-disable-next-line no-control-regex
  return /^[\0-\x7f]*$/.test(text);
}

/**
 * Rows that take more than one statement, and that only the database can sort. Deleted ones are sorted where they would
 * not go into one UPDATE, which may be once too often.
 */
export function needsDatabaseOrder(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
  const [{ meta }] = sets as [AnyChangeSet];
  const isReadable = isComparable(meta) && !specialTablesOf(driver).isRewritten(versionTable(meta));
  return (
    sets.length > 1 && !areOneUpdate(driver, sets) && isReadable && dialectOf(driver.getPlatform())?.locksRows === true
  );
}

/** Sorts rows of one table, in place, as the database does. What is not found there goes to the end. */
export async function sortInDatabase(
  driver: AbstractSqlDriver,
  sets: AnyChangeSet[],
  ctx: Transaction | undefined,
): Promise<void> {
  const platform = driver.getPlatform();
  const sorted: AnyChangeSet[] = [];
  for (const [schema, some] of Map.groupBy(sets, (set) => set.schema ?? set.meta.schema)) {
    const { meta } = some[0]!;
    const options = { ctx, schema };
    const table = driver.getTableName(versionTable(meta), options);
    const rows = some.map((changeSet) => ({ changeSet }));
    const { sql, params } = dialectOf(platform)!.read(locate(table, meta, rows, platform));
    const found = ((await runStatement(driver, sql, params, options)).rows ?? []).map(({ i }) => some[Number(i)]!);
    const known = new Set(found);
    sorted.push(...found, ...some.filter((set) => !known.has(set)));
  }
  sets.splice(0, sets.length, ...sorted);
}
