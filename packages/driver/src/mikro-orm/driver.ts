/** Statements of our own, with the logging, the abort signal and the exceptions of MikroORM's. */
import type { Dictionary, EntityManager, QueryResult } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import type { PersistOptions } from './entity.ts';

/** Turns the errors of a database into MikroORM's exceptions; protected in its types. */
interface Rethrowing {
  rethrow<Result>(promise: Promise<Result>): Promise<Result>;
}

export function runStatement(
  driver: AbstractSqlDriver,
  sql: string,
  params: unknown[],
  options: PersistOptions,
): Promise<QueryResult<Dictionary>> {
  const { signal, inflightQueryAbortStrategy } = options;
  const logging = signal ? { ...options.loggerContext, signal, inflightQueryAbortStrategy } : options.loggerContext;
  const running = driver.execute<QueryResult<Dictionary>>(sql, params, 'run', options.ctx, logging);
  return (driver as unknown as Rethrowing).rethrow(running);
}

/** Protected in MikroORM's types. */
interface Abortable {
  getAbortOptions(): { signal?: AbortSignal } | undefined;
}

/** Can statements of this EntityManager be aborted by a signal, after the database has carried them out? */
export function isAbortable(em: EntityManager): boolean {
  return (em as unknown as Abortable).getAbortOptions()?.signal !== undefined;
}
