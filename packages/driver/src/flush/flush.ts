/**
 * The life of one flush: planned when its change sets are final, written in a transaction or as a single statement, and
 * taken back in memory when it fails. What it writes stands in updates.ts and deletes.ts.
 */
import type { EntityManager, Transaction, UnitOfWork } from '@mikro-orm/core';
import type { AbstractSqlConnection, AbstractSqlDriver } from '@mikro-orm/sql';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { asLostRace, asUnknown, publish } from '../errors.ts';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { Undo } from '../memory/undo.ts';
import type { ChangeSetGroups } from '../mikro-orm/entity.ts';
import { type Dialect, type DriverError, dialectOf } from '../write/dialects/index.ts';
import { type Relations, relationsOf } from '../write/relations.ts';
import { neverAlone } from './alone.ts';
import { checkClaims, checkClasses } from './checks.ts';
import { NothingWritten, StaleRows, describeConflict } from './conflicts.ts';
import { Deletes } from './deletes.ts';
import { needsDatabaseOrder, sortInDatabase } from './key-order.ts';
import { type Plan, NO_PLAN, planFlush } from './plan.ts';
import type { Roots } from './climb.ts';
import { Updates } from './updates.ts';

export class Flush {
  readonly updates: Updates;
  readonly deletes: Deletes;
  readonly #em: EntityManager;
  readonly #driver: AbstractSqlDriver;
  readonly #log: TransactionLog;
  readonly #relations: Relations;
  readonly #dialect: Dialect | undefined;
  readonly #undo: Undo;
  #plan: Plan = NO_PLAN;
  /** The undo knows the change sets. */
  #remembered = false;
  /** Its transaction or savepoint has begun: from here on the log of transactions knows what to take back. */
  #begun = false;
  /** A statement was carried out, … */
  #sent = false;
  /** … and all of them were. */
  #written = false;
  /** The transaction around the flush, … */
  #around?: Transaction;
  /** … and whether a savepoint of the flush's own protects it. */
  #hasSavepoint = false;
  /** Its one statement has no transaction around it. */
  #alone = false;
  /** The statement that is sent is a COMMIT as well. */
  #autocommits = false;

  constructor(em: EntityManager, driver: AbstractSqlDriver, log: TransactionLog) {
    this.#em = em;
    this.#driver = driver;
    this.#log = log;
    this.#relations = relationsOf(driver);
    this.#dialect = dialectOf(driver.getPlatform());
    this.#undo = new Undo(em);
    this.updates = new Updates(driver, this.#undo);
    this.deletes = new Deletes(em, driver);
  }

  /** A single statement is a transaction by itself: BEGIN and COMMIT would be two round trips for nothing. */
  async isOneStatement(): Promise<boolean> {
    const { alone, changes } = this.#plan;
    if (!alone || !changes) {
      return alone !== undefined;
    }
    await this.#relations.ask();
    return this.#relations.isPlain(alone.root);
  }

  /**
   * Sends the one statement without a transaction. Where it could not write, it is sent again in one.
   *
   * @param alone writes without a transaction
   * @param together opens a transaction and writes
   */
  async withoutTransaction<Result>(alone: () => Promise<Result>, together: () => Promise<Result>): Promise<Result> {
    this.#setAlone(true);
    try {
      return await alone();
    } catch (error) {
      if (!(error instanceof NothingWritten)) {
        throw error;
      }
    }
    this.#setAlone(false);
    const result = await together();
    // a trigger, or a session that does not autocommit: the next time it is not tried
    neverAlone.add(this.#plan.alone!);
    return result;
  }

  #setAlone(alone: boolean): void {
    this.#alone = alone;
    this.updates.alone = alone;
    this.deletes.alone = alone;
  }

  /** Rows with a version are written or compared. */
  get isVersioned(): boolean {
    return this.#plan.versioned;
  }

  /** Change sets are no longer looked at: what is touched now is for the next flush. */
  get isPlanned(): boolean {
    return this.#remembered;
  }

  /** Change sets are final (all `onFlush` listeners ran), and no SQL was sent yet. */
  plan(groups: ChangeSetGroups, verified?: ReadonlySet<object>, roots?: Roots): void {
    this.#undo.remember(groups);
    this.#remembered = true;
    this.#plan = planFlush(this.#em, this.#driver, groups, verified, roots);
    this.updates.uncovered = this.#plan.uncovered;
    this.deletes.expect(this.#plan.deletes);
  }

  /**
   * Writes everything.
   *
   * @param write sends the statements in the transaction it is given
   * @param ctx the transaction that the flush has been given: its own, or the one around it
   */
  persist(write: (ctx?: Transaction) => Promise<void>, ctx?: Transaction): Promise<void> {
    // MikroORM opens none when transactions are disabled
    const ownTransaction = ctx !== undefined && !this.#em.isInTransaction();
    const persist = () => this.#persist(write, ctx, ownTransaction);
    return ctx && !ownTransaction ? this.#log.flush(ctx, this.#em.getUnitOfWork(false), persist) : persist();
  }

  async #persist(
    write: (ctx?: Transaction) => Promise<void>,
    ctx: Transaction | undefined,
    ownTransaction: boolean,
  ): Promise<void> {
    if (ctx) {
      this.#log.going(ctx, this.#plan.versioned);
    }
    this.#around = ownTransaction ? undefined : ctx;
    const { several, versioned, claims, writes } = this.#plan;
    const isMore = several || (writes && claims.length > 0 && !ctx);
    if (this.#alone || !isMore || !versioned || ownTransaction) {
      return this.#run(write, ctx);
    }
    // In the transaction around the flush a savepoint: catching the conflict and committing must not commit half of it.
    const connection = this.#driver.getConnection('write') as AbstractSqlConnection;
    const sessionContext = this.#em.getTransactionSessionContext();
    const runInside = (tx: Transaction) => {
      this.#hasSavepoint = true;
      return this.#run(write, tx);
    };
    await connection.transactional(runInside, { ctx, sessionContext, loggerContext: { id: this.#em._id } as never });
    if (ctx) {
      this.#em.setTransactionContext(ctx);
    }
  }

  async #run(write: (ctx?: Transaction) => Promise<void>, ctx: Transaction | undefined): Promise<void> {
    const { claims, beside, unsure, unsorted, changes, writes, several, versioned } = this.#plan;
    this.#begun = true;
    this.#log.carries(ctx, this.#undo, versioned);
    if (changes && !this.#alone) {
      await this.#relations.ask(ctx);
    }
    await checkClasses(this.#driver, unsure, ctx);
    await checkClaims(this.#driver, claims, beside, writes || this.#around !== undefined, ctx);
    for (const sets of unsorted.filter((one) => needsDatabaseOrder(this.#driver, one))) {
      await sortInDatabase(this.#driver, sets, ctx);
    }
    await this.deletes.beforeOrphans(ctx);
    this.#autocommits = ctx === undefined && (this.#alone || !several);
    await write(ctx);
    this.#written = true;
    this.#undo.done();
  }

  /** A statement was carried out; listeners may still fail. */
  sent(): void {
    this.#sent = true;
  }

  /** An entity is about to leave an identity map, because this flush deleted its row. */
  removing(uow: UnitOfWork, entity: object): void {
    this.#undo.removing(uow, entity);
  }

  /** Whatever becomes of the transaction around it, nothing of this flush is pending. */
  succeeded(): void {
    this.#undo.succeeded = true;
  }

  /** The flush failed, its COMMIT included. Returns what to throw, and what to restore when MikroORM has tidied up. */
  async failed(failure: unknown): Promise<{ error: unknown; undo?: Undo }> {
    const { several, versioned } = this.#plan;
    if (!this.#remembered) {
      this.#undo.remember();
    }
    if (!this.#written) {
      this.#undo.done();
    }
    const error = failure instanceof StaleRows ? await this.#describe(failure).catch((reason) => reason) : failure;
    const cause = this.#autocommits && versioned ? asUnknown(error, this.#dialect) : error;
    const lost = versioned ? asLostRace(cause, this.#dialect) : error;
    this.#tellTransaction(error, lost);
    const isLogged = several && this.#begun && !this.#alone;
    // the log of transactions tells whether rows stay; a statement that failed has changed none
    return { error: publish(lost), undo: isLogged || this.#sent ? undefined : this.#undo };
  }

  /** The transaction around the flush may be aborted, or over. */
  #tellTransaction(error: unknown, lost: unknown): void {
    if (!this.#around) {
      return;
    }
    if (this.#dialect?.endsTransaction?.((error ?? {}) as DriverError)) {
      this.#log.ended(this.#around, lost);
    } else if (lost !== error && !this.#hasSavepoint) {
      this.#log.aborted(this.#around, lost);
    } else if (!this.#hasSavepoint && this.#plan.versioned && !(error instanceof ConcurrentUpdate)) {
      this.#log.suspect(this.#around, error);
    }
  }

  /** What the flush wrote is rolled back by now. */
  #describe({ rows, operation, options }: StaleRows): Promise<ConcurrentUpdate> {
    const ctx = this.#em.getTransactionContext<Transaction>();
    return describeConflict(this.#driver, rows, operation, { ...options, ctx });
  }
}
