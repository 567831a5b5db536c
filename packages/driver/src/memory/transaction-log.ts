/** What becomes of the flushes of a transaction: which ones it carries, whether it may go on, and how its end fails. */
import type { EntityManager, UnitOfWork } from '@mikro-orm/core';
import { asLostRace, asUnknown, publish } from '../errors.ts';
import { isFlushing, whenIdle } from '../mikro-orm/flush-state.ts';
import type { Dialect, DriverError } from '../write/dialects/dialect.ts';
import type { Send } from '../mikro-orm/transaction-watch.ts';
import { discard } from './discard.ts';
import { Turns } from './turns.ts';
import { Undo } from './undo.ts';

/** Which flushes a transaction carries: taken back by its ROLLBACK, handed on by the release of a savepoint. */
export class TransactionLog {
  readonly #dialect: Dialect | undefined;
  readonly #undos = new WeakMap<object, Undo[]>();
  readonly #parents = new WeakMap<object, object>();
  readonly #versioned = new WeakSet<Undo>();
  readonly #aborted = new WeakMap<object, unknown>();
  readonly #suspects = new WeakMap<object, unknown>();
  readonly #turns = new Turns();
  /** Transactions and savepoints that were committed, released or rolled back. */
  readonly #over = new WeakSet<object>();
  /** Transactions that the database has ended, … */
  readonly #ended = new WeakMap<object, unknown>();
  /** … and those in which rows with a version were written: the others are none of our business. */
  readonly #carryVersions = new WeakSet<object>();

  constructor(dialect: Dialect | undefined) {
    this.#dialect = dialect;
  }

  began(transaction: object, parent: object | undefined): void {
    if (parent) {
      this.#parents.set(transaction, parent);
    }
  }

  /**
   * Flushes in a transaction.
   *
   * @throws when it is over by then: what is sent would be outside of it
   */
  flush(transaction: object, uow: UnitOfWork, flush: () => Promise<void>): Promise<void> {
    return this.#turns.take(this.#rootOf(transaction), uow, async () => {
      if (this.#isOver(transaction)) {
        throw new Error('The transaction of this flush was over before it could write. Nothing was written.');
      }
      await flush();
    });
  }

  /** A savepoint is about to begin in a transaction. */
  beginning(transaction: object): Promise<void> {
    return this.#turns.idle(this.#rootOf(transaction));
  }

  /** A transaction or savepoint is about to end. */
  async ending(transaction: object): Promise<void> {
    await this.#turns.idle(this.#rootOf(transaction));
    this.#over.add(transaction);
  }

  #isOver(transaction: object): boolean {
    const parent = this.#parents.get(transaction);
    return this.#over.has(transaction) || (parent !== undefined && this.#isOver(parent));
  }

  carries(transaction: object | undefined, undo: Undo, versioned: boolean): void {
    if (versioned) {
      this.#versioned.add(undo);
    }
    if (transaction) {
      this.#add(transaction, [undo]);
      if (versioned) {
        this.#carryVersions.add(this.#rootOf(transaction));
      }
    }
  }

  /**
   * A statement of a transaction has failed. When that has ended the transaction, the rest must not be committed one by
   * one: it goes into one that cannot be committed.
   */
  async statementFailed(transaction: object, error: unknown, send: Send): Promise<void> {
    if (!this.#dialect?.endsTransaction?.((error ?? {}) as DriverError)) {
      this.#suspects.set(transaction, error);
      return;
    }
    this.#ended.set(transaction, this.#ended.get(transaction) ?? asLostRace(error, this.#dialect));
    for (const sql of ['rollback', 'begin']) {
      await send(sql).catch(() => {});
    }
  }

  /** The EntityManager inside a transaction is about to hand what it has of these rows to the one outside. */
  copies(inside: EntityManager, outside: EntityManager): void {
    const known = outside.getUnitOfWork(false).getIdentityMap();
    const pairs = [...inside.getUnitOfWork(false).getIdentityMap()].map(
      (one) => [one, known.getByEntity(one)] as const,
    );
    const replaced = pairs.filter(([one, other]) => other && other !== one).map(([, other]) => other as object);
    const undo = new Undo(outside);
    undo.copying(replaced);
    this.carries(inside.getTransactionContext<object>(), undo, false);
  }

  /** The database aborted the transaction during a flush. */
  aborted(transaction: object, error: unknown): void {
    this.#aborted.set(transaction, error);
  }

  /** The same, with all transactions around it. */
  ended(transaction: object, error: unknown): void {
    this.#ended.set(this.#rootOf(transaction), error);
    this.#carryVersions.add(this.#rootOf(transaction));
  }

  /** A flush failed in the transaction, whose statement may have aborted it. */
  suspect(transaction: object, error: unknown): void {
    this.#suspects.set(transaction, error);
  }

  /**
   * Throws when the transaction is aborted: there are databases where what is sent now would be outside of it.
   *
   * @param versioned rows with a version are about to be written
   */
  going(transaction: object, versioned = false): void {
    if (this.#aborted.has(transaction)) {
      throw this.#aborted.get(transaction);
    }
    const root = this.#rootOf(transaction);
    if (versioned) {
      this.#carryVersions.add(root);
    }
    if (this.#ended.has(root) && this.#carryVersions.has(root)) {
      throw publish(this.#ended.get(root));
    }
  }

  /** PostgreSQL answers the COMMIT of an aborted transaction with a silent ROLLBACK, so where one may be, we ask first. */
  async committing(transaction: object, isAlive: () => Promise<unknown>): Promise<void> {
    this.going(transaction);
    if (this.#suspects.has(transaction) && this.#carryVersions.has(this.#rootOf(transaction))) {
      const error = this.#suspects.get(transaction);
      await isAlive().catch(() => {
        throw error;
      });
    }
  }

  /** COMMIT, or the release of a savepoint: then the transaction around it carries the flushes. */
  committed(transaction: object): void {
    const parent = this.#parents.get(transaction);
    const undos = this.#take(transaction);
    if (parent) {
      this.#add(parent, undos);
    }
  }

  /**
   * What was to be rolled back may still be there, though not in memory: so nothing may be committed of the transaction,
   * or of the one around a savepoint.
   */
  rollbackFailed(transaction: object, error: unknown): void {
    const open = this.#parents.get(transaction) ?? transaction;
    if (!this.#aborted.has(open) && !this.#ended.has(this.#rootOf(open))) {
      this.aborted(open, asLostRace(error, this.#dialect));
    }
  }

  /** ROLLBACK: takes back in memory what the flushes of the transaction did, the last one first. */
  rolledBack(transaction: object): void {
    const undos = this.#take(transaction);
    while (undos.length > 0) {
      const last = undos.at(-1)!;
      // flushes that had succeeded are discarded together, because the oldest state of a row counts
      const together = last.succeeded
        ? undos.splice(undos.findLastIndex((undo) => !undo.succeeded) + 1)
        : undos.splice(-1);
      const { uow } = together.find((undo) => isFlushing(undo.uow)) ?? last;
      whenIdle(uow, () => (last.succeeded ? discard(together) : last.restore()));
    }
  }

  /** COMMIT may lose a race too, or its answer. */
  commitFailed(transaction: object, error: unknown, wasSent: boolean): unknown {
    const wroteVersions = this.#carriedBy(transaction).some((undo) => this.#versioned.has(undo));
    const failure = wroteVersions && wasSent ? asUnknown(error, this.#dialect) : error;
    return publish(wroteVersions ? asLostRace(failure, this.#dialect) : error);
  }

  #rootOf(transaction: object): object {
    const parent = this.#parents.get(transaction);
    return parent ? this.#rootOf(parent) : transaction;
  }

  #carriedBy(transaction: object): Undo[] {
    return this.#undos.get(transaction) ?? [];
  }

  #add(transaction: object, undos: Undo[]): void {
    this.#undos.set(transaction, [...this.#carriedBy(transaction), ...undos]);
  }

  #take(transaction: object): Undo[] {
    const undos = this.#carriedBy(transaction);
    this.#undos.delete(transaction);
    return undos;
  }
}
