/** What becomes of the flushes of a transaction: which ones it carries, whether it may go on, and how its end fails. */
import type { EntityManager, UnitOfWork } from '@mikro-orm/core';
import { asLostRace, asUnknown, publish } from '../errors.ts';
import { isFlushing, whenIdle } from '../mikro-orm/flush-state.ts';
import type { Dialect, DriverError } from '../write/dialects/dialect.ts';
import { StateOn } from '../mikro-orm/layers.ts';
import type { Send } from '../mikro-orm/transaction-watch.ts';
import { discard } from './discard.ts';
import { Turns } from './turns.ts';
import { Undo } from './undo.ts';

interface Failure {
  readonly error: unknown;
}

/** What is known of a transaction or a savepoint. */
interface Carried {
  /** The transaction around a savepoint. */
  readonly parent?: Carried;
  /** Its flushes, in order. */
  undos: Undo[];
  /** It was committed, released or rolled back. */
  isOver: boolean;
  /** A statement of it failed, or a flush, which may have aborted it. */
  suspect?: Failure;
  /** The database has aborted it. */
  aborted?: Failure;
  /** Of the outermost one: the database has ended it, … */
  ended?: Failure;
  /** … and rows of a class with a version were written in it, in whatever way: the others are none of our business. */
  carriesVersions: boolean;
  /** Of the outermost one, when something was flushed in it. */
  turns?: Turns;
}

/** Which flushes a transaction carries: taken back by its ROLLBACK, handed on by the release of a savepoint. */
export class TransactionLog {
  readonly #dialect: Dialect | undefined;
  readonly #transactions = new StateOn<Carried>();

  constructor(dialect: Dialect | undefined) {
    this.#dialect = dialect;
  }

  began(transaction: object, around: object | undefined): void {
    const parent = around && this.#of(around);
    this.#transactions.give(transaction, { parent, undos: [], isOver: false, carriesVersions: false });
  }

  /**
   * Flushes in a transaction.
   *
   * @throws when it is over by then: what is sent would be outside of it
   */
  flush(transaction: object, uow: UnitOfWork, flush: () => Promise<void>): Promise<void> {
    const carried = this.#of(transaction);
    const root = rootOf(carried);
    root.turns ??= new Turns();
    return root.turns.take(uow, async () => {
      if (isOver(carried)) {
        throw new Error('The transaction of this flush was over before it could write. Nothing was written.');
      }
      await flush();
    });
  }

  /** A savepoint is about to begin in a transaction. Returns what to wait for, if anything. */
  beginning(transaction: object): Promise<void> | undefined {
    return rootOf(this.#of(transaction)).turns?.idle();
  }

  /** A transaction or savepoint is about to end. */
  async ending(transaction: object): Promise<void> {
    const carried = this.#of(transaction);
    const { turns } = rootOf(carried);
    if (turns) {
      await turns.idle();
    }
    carried.isOver = true;
  }

  carries(transaction: object | undefined, undo: Undo, versioned: boolean): void {
    undo.isVersioned ||= versioned;
    if (transaction) {
      const carried = this.#of(transaction);
      carried.undos.push(undo);
      rootOf(carried).carriesVersions ||= versioned;
    }
  }

  /** Rows of a class with a version are about to be written in a transaction, by something else than a flush. */
  writing(transaction: object): void {
    rootOf(this.#of(transaction)).carriesVersions = true;
  }

  /**
   * A statement of a transaction has failed. When that has ended the transaction, the rest must not be committed one by
   * one: it goes into one that cannot be committed.
   */
  async statementFailed(transaction: object, error: unknown, send: Send): Promise<void> {
    const carried = this.#of(transaction);
    if (!this.#dialect?.endsTransaction?.((error ?? {}) as DriverError)) {
      this.suspect(transaction, error);
      return;
    }
    carried.ended ??= { error: asLostRace(error, this.#dialect) };
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
    this.#of(transaction).aborted = { error };
  }

  /** The same, with all transactions around it. */
  ended(transaction: object, error: unknown): void {
    const root = rootOf(this.#of(transaction));
    root.ended = { error };
    root.carriesVersions = true;
  }

  /** A flush or a statement failed in the transaction, which may have aborted it. */
  suspect(transaction: object, error: unknown): void {
    if (!this.#dialect?.echoes?.((error ?? {}) as DriverError)) {
      this.#of(transaction).suspect = { error };
    }
  }

  /**
   * Throws when the transaction is aborted: there are databases where what is sent now would be outside of it.
   *
   * @param versioned rows with a version are about to be written
   */
  going(transaction: object, versioned = false): void {
    const carried = this.#of(transaction);
    if (carried.aborted) {
      throw carried.aborted.error;
    }
    const root = rootOf(carried);
    root.carriesVersions ||= versioned;
    if (root.ended && root.carriesVersions) {
      throw publish(root.ended.error);
    }
  }

  /**
   * PostgreSQL answers the COMMIT of an aborted transaction with a silent ROLLBACK, so where one may be, we ask first.
   * Returns what to wait for, if anything.
   */
  committing(transaction: object, isAlive: () => Promise<unknown>): Promise<unknown> | undefined {
    this.going(transaction);
    const carried = this.#of(transaction);
    const { suspect } = carried;
    if (!suspect || !rootOf(carried).carriesVersions) {
      return undefined;
    }
    return isAlive().catch(() => {
      throw suspect.error;
    });
  }

  /** COMMIT, or the release of a savepoint: then the transaction around it carries the flushes. */
  committed(transaction: object): void {
    const { parent } = this.#of(transaction);
    const undos = this.#take(transaction);
    parent?.undos.push(...undos);
  }

  /**
   * What was to be rolled back may still be there, though not in memory: so nothing may be committed of the transaction,
   * or of the one around a savepoint.
   */
  rollbackFailed(transaction: object, error: unknown): void {
    const carried = this.#of(transaction);
    const open = carried.parent ?? carried;
    if (!open.aborted && !rootOf(open).ended) {
      open.aborted = { error: asLostRace(error, this.#dialect) };
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

  /** Have its flushes written rows with a version? */
  hasVersions(transaction: object): boolean {
    return this.#of(transaction).undos.some((undo) => undo.isVersioned);
  }

  /** COMMIT may lose a race too, or its answer. */
  commitFailed(transaction: object, error: unknown, wasSent: boolean): unknown {
    const wroteVersions = this.hasVersions(transaction);
    const failure = wroteVersions && wasSent ? asUnknown(error, this.#dialect) : error;
    return publish(wroteVersions ? asLostRace(failure, this.#dialect) : error);
  }

  #take(transaction: object): Undo[] {
    const carried = this.#of(transaction);
    const { undos } = carried;
    carried.undos = [];
    return undos;
  }

  /** One that somebody else has begun is known from its first use on. */
  #of(transaction: object): Carried {
    if (!this.#transactions.has(transaction)) {
      this.began(transaction, undefined);
    }
    return this.#transactions.of(transaction);
  }
}

function rootOf(carried: Carried): Carried {
  return carried.parent ? rootOf(carried.parent) : carried;
}

function isOver({ isOver: is, parent }: Carried): boolean {
  return is || (parent !== undefined && isOver(parent));
}
