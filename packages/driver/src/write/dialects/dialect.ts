/**
 * What a database contributes to the lock: the text of the batch statements, and how it says that a race was lost.
 * A driver without a dialect works too, row by row.
 */

/** In the name of each trigger of ours, by which statements that have no transaction tell it from others. */
export const GUARD = 'mikro_ool_guard';

/** One column of a batch: a value per row. */
export interface Column {
  /** Quoted name in the table. */
  readonly name: string;
  /** The column's type, as the schema declares it. */
  readonly type: string;
  readonly values: readonly unknown[];
  /** Rows that change this column; absent when all do. The others keep what the database has. */
  readonly changed?: readonly boolean[];
  /** Of an enum type that the user has named, in a schema that only the table knows for sure. */
  readonly nativeEnum?: boolean;
  /** SQL conversion of a custom type, around the value. */
  convert?(value: string): string;
}

/** The rows that one statement locates, each by primary key and version. */
export interface BatchRows {
  /** Quoted name of the table, with its schema. */
  readonly table: string;
  readonly keys: readonly Column[];
  readonly version: Column;
  /** The version is neither compared nor bumped: it does not cover what changes, or the rows are only locked. */
  readonly uncovered?: boolean;
  /** The table has a trigger of ours, which keeps back nothing. */
  readonly guarded?: boolean;
}

/** The rows that one UPDATE writes. */
export interface BatchUpdate extends BatchRows {
  readonly columns: readonly Column[];
  /** Quoted names of the columns that the database computes. */
  readonly returning: readonly string[];
}

/** A statement with `?` for the parameters, which MikroORM fills in. */
export interface Statement {
  readonly sql: string;
  readonly params: unknown[];
  /** It answers with the number of written rows, as a column `n`. */
  readonly answersCount?: boolean;
}

/**
 * `update`: nobody else may read it with a lock, write it, or refer to it by a new row; `no key update`: the last is
 * allowed, where the database knows the difference; `share`: nobody may write it.
 */
export type RowLock = 'share' | 'no key update' | 'update';

/** All differences between databases, but for the triggers of guards (covers/guard/forms.ts). */
export interface Dialect {
  /**
   * One UPDATE for all rows that have the expected version, written or at least locked in primary key order.
   *
   * @param alone no transaction is around it: it writes all rows or none, whatever the table has for triggers
   */
  update(batch: BatchUpdate, alone?: boolean): Statement;
  /**
   * One DELETE for all rows: all of them, or none when one of them is stale. What a cascade takes along may not be
   * counted, so the count alone could not tell.
   *
   * @param alone as with `update`
   */
  delete(rows: BatchRows, alone?: boolean): Statement;
  /**
   * Reads the rows that are there, whatever their version, and locks them until COMMIT where that is asked for, in
   * primary key order. Returns their place in the list as `i`, and their `version`: so the database matches the keys.
   */
  read(rows: BatchRows, lock?: RowLock): Statement;
  /** Connections write at the same time, so the order in which they lock rows matters. */
  readonly locksRows: boolean;
  /** Texts of a column as the database compares them, which is by code point; absent, or `undefined`, where it is not. */
  asCompared?(texts: string[], type: string): string[] | undefined;
  /**
   * Reads the tables and views of which a row count does not say what was written, as `name`, `is_rewritten` and
   * `writes_instead`. Absent where there are none.
   */
  readonly specialTables?: string;
  /** In an upsert, the value that was given for a column. */
  proposed(column: string): string;
  /**
   * The next version, where columns have no range that the database keeps to: an expression that fails at the end.
   * Batches need none, because they expect a version that was looked at.
   */
  next?(current: string, maximum: number): string;
  /** Has `next` failed? */
  isAtEnd?(error: DriverError): boolean;
  /**
   * The condition under which a statement outside of a transaction is one by itself, where a session can be told
   * otherwise.
   */
  readonly aloneWhen?: string;
  /** Has a statement that is `alone` ended itself, because it would have written only a part? */
  endsItself?(error: DriverError): boolean;
  /** A plain SELECT in a transaction sees what writes see; else versions are read with a shared lock. */
  readonly readsCurrent: boolean;
  /** Codes of errors by which the database itself decides a race. */
  readonly lostRaceCodes: readonly string[];
  /** Has the database ended the whole transaction with this error, so that what follows would be outside of it? */
  endsTransaction?(error: DriverError): boolean;
  /** Does this error only say that an earlier one has aborted the transaction? */
  echoes?(error: DriverError): boolean;
  /** Does this error leave open whether the statement was carried out? */
  losesAnswer(error: DriverError): boolean;
}

/** What is known of an error of a database driver. */
export interface DriverError {
  readonly code?: unknown;
  readonly message?: string;
}
