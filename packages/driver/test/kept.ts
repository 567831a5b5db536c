/**
 * ORMs that tests have one after another, with tables that are as new, where making them costs the server more than most
 * tests do. One that has been sent more than rows is not handed on.
 */
import type { MikroORM } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import type { Database } from './harness.ts';

export interface Kept {
  readonly db: Database;
  /** Has it been sent rows only? */
  readonly state: { isAsNew: boolean };
  /** SQL by which its tables are as new; it throws where a session that a test has left holds them. */
  readonly empty: string | undefined;
  close(): Promise<void>;
}

/** Those that no test has now, by their entities. Tests of the same entities follow each other, so a few are enough. */
const idle = new Map<string, Kept[]>();
const SETS = 3;

const numbers = new Map<object, number>();

/** The same for the same entities. */
export function nameOf(entities: readonly object[]): string {
  return entities
    .map((entity) => {
      numbers.set(entity, numbers.get(entity) ?? numbers.size);
      return numbers.get(entity);
    })
    .join();
}

const ROWS =
  /^(?:begin|commit|rollback|savepoint|release|set (?:local|transaction)|select|with|insert|update|delete)\b/;
/** What a SELECT can do besides reading. */
const MORE = /pg_(?:terminate|cancel|advisory|try_advisory)|set_config|setval/;

/** Does a statement leave everything but rows as it was when its transaction has ended? */
export const isOfRows = (sql: string): boolean => ROWS.test(sql) && !MORE.test(sql);

/** One that a test has given back, unless another ORM has taken over its classes: they belong to the last one that starts. */
export async function take(name: string): Promise<Kept | undefined> {
  const kept = idle.get(name)?.pop();
  if (!kept || hasItsClasses(kept.db.orm)) {
    return kept;
  }
  await kept.close();
  return take(name);
}

function hasItsClasses({ em, config }: MikroORM): boolean {
  const classes = [...em.getMetadata().getAll().values()].map(({ prototype }) => prototype as { __config?: unknown });
  return classes.every(({ __config: owner }) => owner === undefined || owner === config);
}

/** For the next test that asks by this name, or not: then it is closed. */
export async function giveBack(name: string, kept: Kept): Promise<void> {
  if (!(await isEmptied(kept))) {
    return kept.close();
  }
  const others = idle.get(name) ?? [];
  idle.delete(name);
  idle.set(name, [...others, kept]);
  const [oldest] = idle;
  if (idle.size > SETS && oldest) {
    idle.delete(oldest[0]);
    await Promise.all(oldest[1].map((one) => one.close()));
  }
}

async function isEmptied({ db, empty, state }: Kept): Promise<boolean> {
  const em = db.orm.em as unknown as EntityManager;
  if (!empty || !state.isAsNew || em.getEventManager().getSubscribers().size > 0) {
    return false;
  }
  try {
    await em.getConnection().execute(empty);
    await em.config.getResultCacheAdapter().clear();
  } catch {
    return false;
  }
  state.isAsNew = true;
  return true;
}
