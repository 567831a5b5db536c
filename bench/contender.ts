/** What a contender of the benchmark does: open a database, load rows, save or remove them. */

/** The tables: a key, a version, and so many other columns. */
export interface Table {
  readonly name: string;
  readonly columns: number;
}

export const NARROW: Table = { name: 'narrow', columns: 3 };
export const WIDE: Table = { name: 'wide', columns: 30 };
export const TABLES = [NARROW, WIDE];

/** Values by column: `c0` text, `c1` integer, `c2` double, `c3` text again, and so on. */
export type Row = { id: number; version: number } & Record<string, string | number>;

const TYPES = ['text', 'integer', 'double'] as const;

export function typeOf(column: number): (typeof TYPES)[number] {
  return TYPES[column % TYPES.length]!;
}

export function columnNames({ columns }: Table): string[] {
  return Array.from({ length: columns }, (_, i) => `c${i}`);
}

/** A value that no row has had before. */
export function valueOf(column: number, seed: number): string | number {
  const values = { text: `Text ${seed} of "c${column}"`, integer: seed % 2_000_000_000, double: seed + 0.5 };
  return values[typeOf(column)];
}

/** Which database a benchmark runs on. */
export type Server = { readonly kind: 'sqlite' } | { readonly kind: 'postgresql'; readonly url: string };

/** Rows in memory, as the contender holds them. */
export interface Loaded {
  readonly rows: Row[];
  /** Writes what was assigned to `rows` since. */
  update(): Promise<void>;
  remove(): Promise<void>;
}

export interface Session {
  load(table: Table, ids: readonly number[]): Promise<Loaded>;
  /** Any SQL, on a connection of the contender. */
  execute(sql: string): Promise<void>;
  close(): Promise<void>;
  /** What only MikroORM has. */
  readonly orm?: Orm;
}

export interface Orm {
  /** Makes these rows in memory; returns what writes them. */
  create(table: Table, rows: readonly Row[]): () => Promise<void>;
  /** A transaction in which nothing is done. */
  emptyTransaction(): Promise<void>;
  fork(): void;
}

export interface Contender {
  readonly name: string;
  /** Opens a session; undefined where the contender does not speak this database. */
  open(server: Server): Promise<Session> | undefined;
}

/** Assigns new values: the same columns to all rows, or other ones to each. */
export function change(rows: readonly Row[], seed: number, columns: (row: number) => readonly number[]): void {
  rows.forEach((row, i) => {
    for (const column of columns(i)) {
      row[`c${column}`] = valueOf(column, seed + i);
    }
  });
}

export const FIRST_THREE = () => [0, 1, 2];

/** Seven patterns of changed columns. */
export const MIXED = (row: number) => [0, 1, 2].filter((column) => ((row % 7) + 1) & (1 << column));
