/** What a run leaves behind for the checker: one JSON object a line, written by the workers and read from the database. */
import { openSync, readFileSync, writeSync } from 'node:fs';
import type { RowKind } from './rows.ts';

/** `raw`: past the ORM, where nobody says which version comes of it. */
export type Kind = 'create' | 'update' | 'delete' | 'raw';

/** One version of one row, an account or another one (rows.ts). An account that was deleted and created again is in its next incarnation. */
export interface Write {
  readonly account: number;
  readonly incarnation: number;
  readonly kind: Kind;
  /** The version that the writer had read; null for a new row. */
  readonly read: number | null;
  /** The version that it left behind; null for a deleted row. */
  readonly written: number | null;
  /** What it left behind: a balance, a number of lines, whether a doctor is on call, a quantity. */
  readonly balance: number;
}

/** Row, incarnation, version, balance. */
export type Seen = readonly [account: number, incarnation: number, version: number, balance: number];

/** How an attempt ended, as far as its worker was told. */
export type Outcome = 'success' | 'failure' | 'unknown';

export type HistoryRecord =
  /** From the database, when all is over: what all rows of a kind hold together, … */
  | { readonly type: 'total'; readonly of: RowKind; readonly total: number }
  /** … each row, … */
  | {
      readonly type: 'row';
      readonly account: number;
      readonly incarnation: number;
      readonly version: number;
      readonly balance: number;
    }
  /** … each line of its journal, which was written in the same transaction as the row, … */
  | ({ readonly type: 'journal'; readonly attempt: string } & Write)
  /** … and what another node of a cluster has: all rows, and how many lines. */
  | { readonly type: 'elsewhere'; readonly node: number; readonly rows: readonly Seen[]; readonly lines: number }
  /** From a worker: committed rows that it has read, … */
  | { readonly type: 'read'; readonly attempt: string; readonly rows: readonly Seen[] }
  /** … those of them that its writes rest on, and that it does not write, … */
  | { readonly type: 'rests'; readonly attempt: string; readonly rows: readonly Seen[] }
  /** … what it is about to commit, written down before anything can be committed, … */
  | { readonly type: 'intent'; readonly attempt: string; readonly writes: readonly Write[] }
  /** … and what it was told; missing when the worker was killed. */
  | { readonly type: 'end'; readonly attempt: string; readonly outcome: Outcome; readonly error?: string };

/** Appends to a file at once: a SIGKILL loses nothing that was recorded. */
export class Recorder {
  readonly #file: number;

  constructor(path: string) {
    this.#file = openSync(path, 'a');
  }

  record(record: HistoryRecord): void {
    writeSync(this.#file, `${JSON.stringify(record)}\n`);
  }
}

/** The records of these files, one after the other. */
export function* readHistory(paths: readonly string[]): Generator<HistoryRecord> {
  for (const path of paths) {
    const lines = readFileSync(path, 'utf8').split('\n');
    // what stands behind the last line's end is the line that a killed worker did not finish
    lines.pop();
    for (const line of lines) {
      yield JSON.parse(line) as HistoryRecord;
    }
  }
}
