/** One try to commit something, and what is written down of it for the checker, at once. */
import type { Kind, Outcome, Recorder, Seen, Write } from './history.ts';
import { labelOf, outcomeOf } from './outcome.ts';

/** A row as the journal has it: its balance is a number of lines, or whatever else its kind has. */
export interface Known {
  readonly id: number;
  readonly incarnation: number;
  readonly version: number;
  readonly balance: number;
}

function seen({ id, incarnation, version, balance }: Known): Seen {
  return [id, incarnation, version, balance];
}

/** At most one transaction comes of it. */
export class Attempt {
  readonly id: string;
  readonly #recorder: Recorder;
  readonly #read: Map<number, number>;
  #writes: Write[] = [];
  #intended = false;

  /** @param before an attempt that has failed, and whose entities this one goes on with */
  constructor(id: string, recorder: Recorder, before?: Attempt) {
    this.id = id;
    this.#recorder = recorder;
    this.#read = new Map(before ? before.#read : []);
  }

  /** Rows that were just read. Those that this attempt itself has written are not committed, so they are left out. */
  saw(rows: readonly Known[]): void {
    const read = rows.filter(({ id }) => !this.#writes.some(({ account }) => account === id));
    read.forEach(({ id, version }) => this.#read.set(id, version));
    this.#recorder.record({ type: 'read', attempt: this.id, rows: read.map(seen) });
  }

  /** Rows that were read, are not written, and must stay what they are until this is committed. */
  restsOn(rows: readonly Known[]): void {
    this.#recorder.record({ type: 'rests', attempt: this.id, rows: rows.map(seen) });
  }

  /** @param written what the row has now; where the flush is still to come, what it is going to have */
  wrote(kind: Kind, row: Omit<Known, 'version'>, written: number | null): Write & { attempt: string } {
    const { id, incarnation, balance } = row;
    // written twice by one transaction: the second time is based on the first
    const own = this.#writes.findLast((write) => write.account === id)?.written;
    const read = kind === 'create' ? null : (own ?? this.#read.get(id)!);
    const write = { account: id, incarnation, kind, read, written, balance };
    this.#writes.push(write);
    return { attempt: this.id, ...write };
  }

  mark(): number {
    return this.#writes.length;
  }

  /** What was written since was rolled back. */
  backTo(mark: number): void {
    this.#writes.length = mark;
  }

  /** From here on, everything may be committed at any moment. */
  intend(): void {
    this.#intended = true;
    this.#recorder.record({ type: 'intent', attempt: this.id, writes: this.#writes });
  }

  end(error: unknown, strict: boolean): Outcome {
    const outcome = error === undefined ? 'success' : outcomeOf(error, this.#intended, strict);
    const label = error === undefined ? undefined : labelOf(error);
    this.#recorder.record({ type: 'end', attempt: this.id, outcome, error: label });
    return outcome;
  }
}
