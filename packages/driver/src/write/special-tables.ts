/**
 * Tables of which a row count does not say what was written (views too): past a rule, through an INSTEAD OF trigger of
 * a view, or where a BEFORE trigger may leave a row out. The database is asked for them once.
 */
import type { EntityMetadata, Transaction } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { type DriverError, dialectOf } from './dialects/index.ts';

/** How it differs from a plain table. */
interface Special {
  /** The database rewrites what is sent (a rule, a view), and refuses the statements of a batch. */
  readonly isRewritten: boolean;
  /** A trigger or a rule writes instead, which need not compare the version. */
  readonly writesInstead: boolean;
}

const known = new WeakMap<AbstractSqlDriver, SpecialTables>();

/** Those of the database that a driver is connected to. */
export function specialTablesOf(driver: AbstractSqlDriver): SpecialTables {
  let tables = known.get(driver);
  if (!tables) {
    known.set(driver, (tables = new SpecialTables(driver)));
  }
  return tables;
}

export class SpecialTables {
  readonly #driver: AbstractSqlDriver;
  #special: ReadonlyMap<string, Special> | undefined;
  /** The database has not failed to answer. */
  #isSure = true;

  constructor(driver: AbstractSqlDriver) {
    this.#driver = driver;
  }

  /** Asks the database, the first time. */
  async ask(ctx?: Transaction): Promise<void> {
    if (this.#special) {
      return;
    }
    const dialect = dialectOf(this.#driver.getPlatform());
    const reading = dialect?.specialTables
      ? this.#driver.execute<Record<string, unknown>[]>(dialect.specialTables, [], 'all', ctx)
      : [];
    const found = await Promise.resolve(reading).catch((error: unknown) => {
      if (ctx || dialect?.losesAnswer((error ?? {}) as DriverError)) {
        throw error;
      }
      // a relative of the database that has no such catalog
      this.#isSure = false;
      return [];
    });
    this.#special = new Map(
      found.map((row) => [
        String(row['name']),
        { isRewritten: Number(row['is_rewritten']) === 1, writesInstead: Number(row['writes_instead']) === 1 },
      ]),
    );
  }

  /**
   * Is it known to be a plain table? Then a statement that counts no row has written none, also where nothing is around
   * it that could be rolled back. An answer that failed leaves it open.
   */
  isPlain({ tableName }: EntityMetadata): boolean {
    return this.#isSure && this.#special !== undefined && !this.#special.has(tableName);
  }

  /** Is it known that something may keep back a row of it? */
  isSpecial({ tableName }: EntityMetadata): boolean {
    return this.#special?.has(tableName) === true;
  }

  isRewritten({ tableName }: EntityMetadata): boolean {
    return this.#special?.get(tableName)?.isRewritten === true;
  }

  writesInstead({ tableName }: EntityMetadata): boolean {
    return this.#special?.get(tableName)?.writesInstead === true;
  }
}
