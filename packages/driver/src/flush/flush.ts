/**
 * The life of one flush: planned when its change sets are final, written in a transaction or as a single statement, and
 * taken back in memory when it fails. What it writes stands in updates.ts and deletes.ts.
 */
import type { EntityManager, Transaction, UnitOfWork } from '@mikro-orm/core';
import type { AbstractSqlConnection, AbstractSqlDriver } from '@mikro-orm/sql';
import { ConcurrentUpdate } from '@mikro-ool/core';
import type { Roots } from '../covers/aggregate/climb.ts';
import { asLostRace, asUnknown, publish } from '../errors.ts';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { Undo } from '../memory/undo.ts';
import type { ChangeSetGroups } from '../mikro-orm/entity.ts';
import type { Verified } from '../mikro-orm/verified.ts';
import { type Dialect, type DriverError, dialectOf } from '../write/dialects/index.ts';
import { type SpecialTables, specialTablesOf } from '../write/special-tables.ts';
import { type Sending, neverAlone } from './alone.ts';
import { checkClaims, checkClasses } from './checks.ts';
import { NothingWritten, StaleRows, describeConflict } from './conflicts.ts';
import { Deletes } from './deletes.ts';
import { needsDatabaseOrder, sortInDatabase } from '../order/keys.ts';
import { type Plan, NO_PLAN, planFlush } from './plan.ts';
import { Updates } from './updates.ts';

export class Flush {
  readonly updates: Updates;
  readonly deletes: Deletes;
  readonly #em: EntityManager;
  readonly #driver: AbstractSqlDriver;
  readonly #log: TransactionLog;
  readonly #tables: SpecialTables;
  readonly #dialect: Dialect | undefined;
  readonly #undo: Undo;
  #plan: Plan = NO_PLAN;
  /**
   * `planning`: the undo knows the change sets. `begun`: its transaction or savepoint is open, and the log of
   * transactions knows what to take back. `written`: all statements were carried out.
   */
  #stage: 'new' | 'planning' | 'begun' | 'written' = 'new';
  /** A statement on rows was carried out. */
  #sent = false;
  /** The transaction around the flush, … */
  #around?: Transaction;
  /** … and whether a savepoint of the flush's own protects it. */
  #hasSavepoint = false;
  readonly #sending: Sending = { alone: false };
  /** The statement that is sent is a COMMIT as well. */
  #autocommits = false;

  constructor(em: EntityManager, driver: AbstractSqlDriver, log: TransactionLog) {
    this.#em = em;
    this.#driver = driver;
    this.#log = log;
    this.#tables = specialTablesOf(driver);
    this.#dialect = dialectOf(driver.getPlatform());
    this.#undo = new Undo(em);
    this.updates = new Updates(driver, this.#undo, this.#sending);
    this.deletes = new Deletes(em, driver, this.#sending);
  }

  /** A single statement is a transaction by itself: BEGIN and COMMIT would be two round trips for nothing. */
  async isOneStatement(): Promise<boolean> {
    const { loneClass, meetsExisting } = this.#plan;
    if (meetsExisting) {
      // not in a transaction: on SQLite, one that has read does not wait for whoever is writing
      await this.#tables.ask();
    }
    return loneClass !== undefined && (!meetsExisting || this.#tables.isPlain(loneClass.root));
  }

  /**
   * Sends the one statement without a transaction. Where it could not write, it is sent again in one.
   *
   * @param alone writes without a transaction
   * @param together opens a transaction and writes
   */
  async withoutTransaction<Result>(alone: () => Promise<Result>, together: () => Promise<Result>): Promise<Result> {
    this.#sending.alone = true;
    try {
      return await alone();
    } catch (error) {
      if (!(error instanceof NothingWritten)) {
        throw error;
      }
    }
    this.#sending.alone = false;
    const result = await together();
    // a trigger, or a session that does not autocommit: the next time it is not tried
    neverAlone.add(this.#plan.loneClass!);
    return result;
  }

  /** Rows with a version are written or compared. */
  get isVersioned(): boolean {
    return this.#plan.versioned;
  }

  /** What it writes. */
  get classNames(): string[] {
    const sets = this.#em.getUnitOfWork(false).getChangeSets();
    return [...new Set(sets.map(({ meta }) => meta.className))];
  }

  /** Change sets are no longer looked at: what is touched now is for the next flush. */
  get isPlanned(): boolean {
    return this.#stage !== 'new';
  }

  /** Change sets are final (all `onFlush` listeners ran), and no SQL was sent yet. */
  plan(groups: ChangeSetGroups, verified: Verified = new Map(), roots?: Roots): void {
    this.#undo.remember(groups, verified);
    this.#stage = 'planning';
    this.#plan = planFlush(this.#em, this.#driver, groups, new Set(verified.keys()), roots);
    this.updates.uncovered = this.#plan.uncovered;
    this.deletes.willDelete(this.#plan.deletes);
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
    const protectedly = () => this.#protect(write, ctx, ownTransaction);
    return ctx && !ownTransaction ? this.#log.flush(ctx, this.#em.getUnitOfWork(false), protectedly) : protectedly();
  }

  /** Sees to it that all of the flush is written, or nothing. */
  async #protect(
    write: (ctx?: Transaction) => Promise<void>,
    ctx: Transaction | undefined,
    ownTransaction: boolean,
  ): Promise<void> {
    if (ctx) {
      this.#log.going(ctx, this.#plan.versioned);
    }
    this.#around = ownTransaction ? undefined : ctx;
    if (this.#sending.alone || !this.#plan.versioned || ownTransaction || !(await this.#isDivisible(ctx))) {
      return this.#carryOut(write, ctx);
    }
    // In the transaction around the flush it is a savepoint: who catches the conflict and commits must not commit half
    // of it. Where there is none, as MikroORM is told to open none, it is a transaction.
    const connection = this.#driver.getConnection('write') as AbstractSqlConnection;
    const sessionContext = this.#em.getTransactionSessionContext();
    const runInside = (tx: Transaction) => {
      this.#hasSavepoint = true;
      return this.#carryOut(write, tx);
    };
    await connection.transactional(runInside, { ctx, sessionContext, loggerContext: { id: this.#em._id } as never });
    if (ctx) {
      // MikroORM has left the savepoint there, which is over
      this.#em.setTransactionContext(ctx);
    }
  }

  /**
   * Could a part of it stay? One of several rows, or what a rule or trigger has written in place of the only one; and what
   * was compared must hold until what rests on it is committed.
   */
  async #isDivisible(ctx: Transaction | undefined): Promise<boolean> {
    const { hasSeveralRows, claims, writes, meetsExisting, tables } = this.#plan;
    if (hasSeveralRows || (writes && claims.length > 0 && !ctx)) {
      return true;
    }
    if (!writes || !meetsExisting) {
      return false;
    }
    await this.#tables.ask(ctx);
    return !tables.every((table) => this.#tables.isPlain(table));
  }

  /** Writes, in the transaction or savepoint that is open by now, if any. */
  async #carryOut(write: (ctx?: Transaction) => Promise<void>, ctx: Transaction | undefined): Promise<void> {
    const { versioned, unsure, hasSeveralRows } = this.#plan;
    this.#stage = 'begun';
    this.#log.carries(ctx, this.#undo, versioned);
    if (versioned || unsure.length > 0) {
      await this.#prepare(ctx);
    }
    this.#autocommits = ctx === undefined && (this.#sending.alone || !hasSeveralRows);
    await write(ctx);
    // as MikroORM does after a DELETE, or it would be removed again by every flush
    this.#plan.unsaved.forEach((entity) => this.#em.getUnitOfWork(false).unsetIdentity(entity));
    this.#stage = 'written';
    this.#undo.done();
  }

  /** Compares what no statement does, and sorts. */
  async #prepare(ctx: Transaction | undefined): Promise<void> {
    const { claims, beside, unsure, unsorted, meetsExisting, writes } = this.#plan;
    if (meetsExisting && !this.#sending.alone) {
      await this.#tables.ask(ctx);
    }
    await checkClasses(this.#driver, unsure, ctx);
    await checkClaims(this.#driver, claims, beside, writes || this.#around !== undefined, ctx);
    for (const sets of unsorted.filter((one) => needsDatabaseOrder(this.#driver, one))) {
      await sortInDatabase(this.#driver, sets, ctx);
    }
    await this.deletes.checkBeforeOrphans(ctx);
  }

  /** A statement was carried out; listeners may still fail. */
  sent(): void {
    this.#sent = true;
  }

  /** Its transaction is not its own, and may roll back when the flush has long succeeded. */
  get isInside(): boolean {
    // MikroORM's EntityManager is in a transaction also while the flush is in its own
    return this.#hasBegun ? this.#around !== undefined : this.#em.isInTransaction();
  }

  /** An entity is about to leave an identity map, because this flush deleted its row. */
  removing(uow: UnitOfWork, entity: object): void {
    this.#undo.removing(uow, entity, this.isInside);
  }

  /** Whatever becomes of the transaction around it, nothing of this flush is pending. */
  succeeded(): void {
    this.#undo.succeeded = true;
  }

  /** The flush failed, its COMMIT included. Returns what to throw, and what to restore when MikroORM has tidied up. */
  async failed(failure: unknown): Promise<{ error: unknown; undo?: Undo }> {
    const { hasSeveralRows, versioned } = this.#plan;
    const hasOwn = hasSeveralRows || this.#hasSavepoint;
    if (this.#stage === 'new') {
      this.#undo.remember();
    }
    if (this.#stage !== 'written') {
      this.#undo.done();
    }
    const error = failure instanceof StaleRows ? await this.#describe(failure).catch((reason) => reason) : failure;
    const cause = this.#autocommits && versioned ? asUnknown(error, this.#dialect) : error;
    const lost = versioned ? asLostRace(cause, this.#dialect) : error;
    this.#tellTransaction(error, lost);
    const isLogged = hasOwn && this.#hasBegun && !this.#sending.alone;
    // the log of transactions tells whether rows stay; a statement that failed has changed none
    return { error: publish(lost), undo: isLogged || this.#sent ? undefined : this.#undo };
  }

  get #hasBegun(): boolean {
    return this.#stage === 'begun' || this.#stage === 'written';
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
