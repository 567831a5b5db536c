/** Sends a statement that writes rows. Its result says how many, whichever way the statement says it. */
import type { Dictionary, QueryResult } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { runStatement } from '../mikro-orm/driver.ts';
import type { PersistOptions } from '../mikro-orm/entity.ts';
import type { DriverError, Statement } from './dialects/dialect.ts';
import { dialectOf } from './dialects/index.ts';

export async function sendRows(
  driver: AbstractSqlDriver,
  { sql, params, answersCount }: Statement,
  options: PersistOptions,
): Promise<QueryResult<Dictionary>> {
  try {
    const result = await runStatement(driver, sql, params, options);
    return answersCount ? { ...result, affectedRows: Number(result.rows![0]!.n), rows: undefined } : result;
  } catch (error) {
    // without a transaction, a statement that would have written only a part has ended itself by an error, and so wrote
    // nothing: `describeAlone()` looks into it like into any that has, and lets it be sent again in a transaction
    const hasEnded = answersCount && dialectOf(driver.getPlatform())!.endsItself?.((error ?? {}) as DriverError);
    if (hasEnded) {
      return { affectedRows: 0 } as QueryResult<Dictionary>;
    }
    throw error;
  }
}
