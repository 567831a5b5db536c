/** What workers do: every way in which an application may write rows, and the journal beside it. */
import { type EntityManager, type InferEntity, IsolationLevel } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { retryOnConflict } from '@mikro-ool/resolve';
import { Attempt } from './attempt.ts';
import { type Change, changeLines, goOffCall, moveStock, moveStockRaw } from './covers.ts';
import type { Outcome, Recorder } from './history.ts';
import { Account, Journal, type Lock, type Plan } from './model.ts';
import { DEADLOCK, SERIALISATION, isStrict, labelOf, outcomeOf } from './outcome.ts';
import type { Chance } from './random.ts';
import { idsOf } from './rows.ts';

type AccountEntity = InferEntity<typeof Account>;
type JournalEntity = InferEntity<typeof Journal>;

/** The work itself takes its transaction back. */
class ChangedMind extends Error {
  constructor() {
    super('changed its mind');
    this.name = 'ChangedMind';
  }
}

/** Changes the balances of accounts. Returns the accounts whose balance is another one now. */
function changedBy(accounts: readonly AccountEntity[], change: () => void): AccountEntity[] {
  const before = accounts.map(({ balance }) => balance);
  change();
  return accounts.filter(({ balance }, i) => balance !== before[i]);
}

export interface Tally {
  success: number;
  conflicts: number;
  failure: number;
  unknown: number;
  deadlocks: number;
  serialisationFailures: number;
}

function newTally(): Tally {
  return { success: 0, conflicts: 0, failure: 0, unknown: 0, deadlocks: 0, serialisationFailures: 0 };
}

export function sumOf(tallies: Iterable<Tally>): Tally {
  const sum = newTally();
  for (const tally of tallies) {
    for (const key of Object.keys(sum) as (keyof Tally)[]) {
      sum[key] += tally[key];
    }
  }
  return sum;
}

/** One after the other, chosen by chance. */
export class Work {
  readonly tally = newTally();
  readonly #fork: () => EntityManager;
  readonly #lock: Lock;
  readonly #strict: boolean;
  readonly #chance: Chance;
  readonly #recorder: Recorder;
  readonly #name: string;
  #attempts = 0;

  readonly #kinds: readonly (readonly [number, () => Promise<void>])[] = [
    [20, () => this.#transaction()],
    [8, () => this.#beginAndCommit()],
    [14, () => this.#nested()],
    [20, () => this.#flush()],
    [10, () => this.#retried()],
    [5, () => this.#close()],
    [6, () => this.#open()],
    [4, () => this.#replace()],
    [8, () => this.#solo()],
    [5, () => this.#crosswise()],
    [10, () => this.#covered(changeLines)],
    [8, () => this.#covered(goOffCall)],
    [6, () => this.#covered(moveStock)],
    [6, () => this.#raw()],
  ];

  constructor(
    name: string,
    fork: () => EntityManager,
    { database, lock }: Pick<Plan, 'database' | 'lock'>,
    chance: Chance,
    recorder: Recorder,
  ) {
    this.#name = name;
    this.#fork = fork;
    this.#lock = lock;
    this.#strict = isStrict(database, lock);
    this.#chance = chance;
    this.#recorder = recorder;
  }

  /** Does something. Returns what went wrong, if it did. */
  async next(): Promise<unknown> {
    const total = this.#kinds.reduce((sum, [weight]) => sum + weight, 0);
    let ticket = this.#chance.below(total);
    const [, run] = this.#kinds.find(([weight]) => (ticket -= weight) < 0)!;
    try {
      await run();
      return undefined;
    } catch (error) {
      return error;
    }
  }

  #attempt(before?: Attempt): Attempt {
    return new Attempt(`${this.#name}-${++this.#attempts}`, this.#recorder, before);
  }

  #end(attempt: Attempt, error?: unknown, strict = this.#strict): Outcome {
    const outcome = attempt.end(error, strict);
    const isConflict = error instanceof ConcurrentUpdate || (error as Error)?.name === 'OptimisticLockError';
    this.tally[isConflict ? 'conflicts' : outcome]++;
    const label = labelOf(error ?? new Error());
    this.tally.deadlocks += DEADLOCK.test(label) ? 1 : 0;
    this.tally.serialisationFailures += SERIALISATION.test(label) ? 1 : 0;
    return outcome;
  }

  /** Runs work that ends with a commit, and records how it ended. */
  async #once(work: (attempt: Attempt) => Promise<void>, strict = this.#strict): Promise<void> {
    const attempt = this.#attempt();
    try {
      await work(attempt);
    } catch (error) {
      this.#end(attempt, error, strict);
      throw error;
    }
    this.#end(attempt);
  }

  #isolation(): { isolationLevel?: IsolationLevel } {
    const dice = this.#chance.below(10);
    return {
      isolationLevel:
        dice < 6
          ? IsolationLevel.READ_COMMITTED
          : dice < 8
            ? IsolationLevel.REPEATABLE_READ
            : IsolationLevel.SERIALIZABLE,
    };
  }

  #ids(n: number): number[] {
    return this.#chance.shuffle(idsOf('account')).slice(0, n);
  }

  #some(): number[] {
    return this.#ids(this.#chance.percent(70) ? this.#chance.between(2, 6) : this.#chance.between(7, 25));
  }

  /** Moves money between loaded accounts. Returns those whose balance is another one now. */
  #move(accounts: readonly AccountEntity[]): AccountEntity[] {
    return changedBy(accounts, () => {
      for (let i = 1; i < accounts.length; i++) {
        const amount = this.#chance.between(1, 50);
        accounts[i - 1]!.balance -= amount;
        accounts[i]!.balance += amount;
      }
    });
  }

  async #load(em: EntityManager, attempt: Attempt, ids: readonly number[]): Promise<AccountEntity[]> {
    const accounts = await em.find(Account, { id: { $in: [...ids] } });
    attempt.saw(accounts);
    return this.#chance.shuffle(accounts);
  }

  /** Load, change, flush, and the journal of it. */
  async #transfer(em: EntityManager, attempt: Attempt, ids: readonly number[]): Promise<void> {
    await this.#save(em, attempt, await this.#load(em, attempt, ids));
  }

  async #save(em: EntityManager, attempt: Attempt, loaded: readonly AccountEntity[]): Promise<void> {
    const changed = this.#move(loaded);
    await em.flush();
    const journal = changed.map((account) => attempt.wrote('update', account, account.version));
    if (journal.length > 0) {
      await em.insertMany(Journal, journal);
    }
  }

  async #transaction(): Promise<void> {
    await this.#once((attempt) =>
      this.#fork().transactional(async (em) => {
        await this.#transfer(em, attempt, this.#some());
        attempt.intend();
      }, this.#isolation()),
    );
  }

  async #beginAndCommit(): Promise<void> {
    const em = this.#fork();
    if (this.#lock !== 'version-true' && this.#chance.percent(30)) {
      await this.#changedMind(em);
    }
    await this.#once(async (attempt) => {
      await em.begin(this.#isolation());
      try {
        await this.#transfer(em, attempt, this.#some());
        attempt.intend();
        await em.commit();
      } catch (error) {
        // of a connection that is gone
        await em.rollback().catch(() => {});
        throw error;
      }
    });
  }

  /** Rolled back after its flush: nothing of it is pending in the EntityManager, which goes on. */
  async #changedMind(em: EntityManager): Promise<void> {
    const rolledBack = this.#once(async (attempt) => {
      await em.begin(this.#isolation());
      try {
        await this.#transfer(em, attempt, this.#some());
      } finally {
        // of a connection that is gone
        await em.rollback().catch(() => {});
      }
      throw new ChangedMind();
    });
    await rolledBack.catch((error: unknown) => {
      if (!(error instanceof ChangedMind)) {
        throw error;
      }
    });
  }

  /** A part that may be rolled back, on purpose or by a conflict, and a transaction that goes on. */
  async #nested(): Promise<void> {
    const ids = this.#ids(12);
    const [outer, inner, after] = [ids.slice(0, 3), ids.slice(3, 9), ids.slice(9)];
    await this.#once((attempt) =>
      this.#fork().transactional(async (em) => {
        // a flush in the same transaction, whose conflict is caught, or a transaction inside, which may have entities of its own
        const isPlain = this.#chance.percent(50);
        const known = isPlain || this.#chance.percent(50) ? await this.#load(em, attempt, inner) : [];
        await this.#transfer(em, attempt, outer);
        const mark = attempt.mark();
        try {
          await (isPlain ? this.#save(em, attempt, known) : this.#inside(em, attempt, inner));
        } catch (error) {
          const isStale = error instanceof ConcurrentUpdate && error.conflicts.length > 0;
          if (!isStale && !(error instanceof ChangedMind)) {
            throw error; // the transaction is aborted
          }
          attempt.backTo(mark);
          // what a flush did not write is still there, as unsaved changes; what it did write is discarded
          const isDiscarded = this.#lock !== 'version-true' && error instanceof ChangedMind;
          for (const account of isDiscarded ? [] : known) {
            if (!(await em.refresh(account))) {
              throw new ChangedMind();
            }
          }
          attempt.saw(known);
        }
        await this.#transfer(em, attempt, after);
        attempt.intend();
      }, this.#isolation()),
    );
  }

  async #inside(em: EntityManager, attempt: Attempt, ids: readonly number[]): Promise<void> {
    await em.transactional(async (nested) => {
      await this.#transfer(nested, attempt, ids);
      if (this.#chance.percent(30)) {
        throw new ChangedMind();
      }
    });
  }

  /** A plain flush, journal included, and the same EntityManager again after it failed. */
  async #flush(): Promise<void> {
    const em = this.#fork();
    let attempt = this.#attempt();
    try {
      const loaded = await this.#load(em, attempt, this.#some());
      const before = new Map(loaded.map((account) => [account, account.balance]));
      const changed = this.#move(loaded);
      const deltas = new Map(changed.map((account) => [account, account.balance - before.get(account)!]));
      const lines = new Map<AccountEntity, JournalEntity>();
      for (const account of changed) {
        lines.set(account, em.create(Journal, attempt.wrote('update', account, account.version + 1)));
      }
      for (let left = 3; ; left--) {
        attempt.intend();
        try {
          await em.flush();
          break;
        } catch (error) {
          if (left === 0 || this.#lock === 'version-true' || outcomeOf(error, true, this.#strict) === 'unknown') {
            throw error;
          }
          this.#end(attempt, error);
          attempt = this.#attempt(attempt);
          const stale = error instanceof ConcurrentUpdate ? error.conflicts.map(({ entity }) => entity) : [];
          for (const account of stale as AccountEntity[]) {
            if (!(await em.refresh(account))) {
              throw new ChangedMind();
            }
          }
          attempt.saw(changed.filter((account) => stale.includes(account)));
          this.#again(attempt, stale as AccountEntity[], deltas, lines);
        }
      }
    } catch (error) {
      this.#end(attempt, error);
      throw error;
    }
    this.#end(attempt);
  }

  /** Puts the changes on top of what was read again; the others are still pending. */
  #again(
    attempt: Attempt,
    stale: readonly AccountEntity[],
    deltas: ReadonlyMap<AccountEntity, number>,
    lines: ReadonlyMap<AccountEntity, JournalEntity>,
  ): void {
    for (const [account, line] of lines) {
      if (stale.includes(account)) {
        account.balance += deltas.get(account)!;
      }
      Object.assign(line, attempt.wrote('update', account, account.version + 1));
    }
  }

  async #retried(): Promise<void> {
    const ids = this.#some();
    await this.#retry((em, attempt) => this.#transfer(em, attempt, ids));
  }

  async #retry(carryOut: (em: EntityManager, attempt: Attempt) => Promise<void>, verifyReads = false): Promise<void> {
    let attempt: Attempt | undefined;
    const work = async (em: EntityManager) => {
      if (attempt) {
        this.#end(attempt, new ConcurrentUpdate([]));
      }
      attempt = this.#attempt();
      await carryOut(em, attempt);
      attempt.intend();
    };
    try {
      await (this.#lock !== 'version-true'
        ? retryOnConflict(this.#fork(), work, { attempts: 4, verifyReads, ...this.#isolation() })
        : this.#fork().transactional(work, this.#isolation()));
    } catch (error) {
      this.#end(attempt ?? this.#attempt(), error);
      throw error;
    }
    this.#end(attempt!);
  }

  /** Deletes an account, whose balance goes to another one. */
  async #close(): Promise<void> {
    await this.#once((attempt) =>
      this.#fork().transactional(async (em) => {
        const [closed, heir, ...others] = await this.#load(em, attempt, this.#ids(this.#chance.between(3, 8)));
        if (!closed || !heir) {
          return;
        }
        const { id, incarnation, balance } = closed;
        const changed = changedBy([heir, ...others], () => {
          heir.balance += balance;
          this.#move(others);
        });
        em.remove(closed);
        await em.flush();
        await em.insertMany(Journal, [
          attempt.wrote('delete', { id, incarnation, balance: 0 }, null),
          ...changed.map((account) => attempt.wrote('update', account, account.version)),
        ]);
        attempt.intend();
      }, this.#isolation()),
    );
  }

  /** Creates an account that was deleted once, with the next version, so that readers of the old one are told apart. */
  async #open(): Promise<void> {
    await this.#once((attempt) =>
      this.#fork().transactional(
        async (em) => {
          const ids = this.#ids(16);
          const [giver, ...others] = await this.#load(em, attempt, ids);
          const id = ids.find((id) => id !== giver?.id && !others.some((account) => account.id === id));
          if (!giver || id === undefined) {
            return;
          }
          const last = await this.#lastOf(em, id);
          if (!last) {
            throw new ChangedMind(); // it was closed and opened again while we were looking
          }
          const balance = this.#chance.between(1, 500);
          const { incarnation, read } = last;
          const opened = em.create(Account, { id, incarnation: incarnation + 1, version: read! + 1, balance });
          giver.balance -= balance;
          await em.flush();
          // nobody else can open or close it now, but somebody may have done both since we looked
          if ((await this.#lastOf(em, id))?.incarnation !== incarnation) {
            throw new ChangedMind();
          }
          await em.insertMany(Journal, [
            attempt.wrote('create', opened, opened.version),
            attempt.wrote('update', giver, giver.version),
          ]);
          attempt.intend();
        },
        { isolationLevel: IsolationLevel.READ_COMMITTED },
      ),
    );
  }

  /** How the last incarnation of an account has ended. */
  #lastOf(em: EntityManager, account: number): Promise<JournalEntity | null> {
    return em.findOne(
      Journal,
      { account, kind: 'delete' },
      { orderBy: { incarnation: 'desc' }, disableIdentityMap: true },
    );
  }

  /** Deletes an account and creates it again in one transaction. */
  async #replace(): Promise<void> {
    await this.#once((attempt) =>
      this.#fork().transactional(async (em) => {
        const [old] = await this.#load(em, attempt, this.#ids(3));
        if (!old) {
          return;
        }
        const { id, incarnation, version, balance } = old;
        em.remove(old);
        await em.flush();
        const deleted = attempt.wrote('delete', { id, incarnation, balance: 0 }, null);
        const fresh = em.create(Account, { id, incarnation: incarnation + 1, version: version + 1, balance });
        await em.flush();
        await em.insertMany(Journal, [deleted, attempt.wrote('create', fresh, fresh.version)]);
        attempt.intend();
      }, this.#isolation()),
    );
  }

  /** One row, one statement, no transaction around it. */
  async #solo(): Promise<void> {
    const em = this.#fork();
    await this.#once(async (attempt) => {
      const [account] = await this.#load(em, attempt, this.#ids(1));
      if (account) {
        account.solo = attempt.id;
        attempt.wrote('update', account, account.version + 1);
        attempt.intend();
        await em.flush();
      }
    });
  }

  /** Two flushes in one transaction, in any order of a few rows: deadlocks that no order inside a flush prevents. */
  async #crosswise(): Promise<void> {
    await this.#once((attempt) =>
      this.#fork().transactional(async (em) => {
        const [first, second] = this.#chance.shuffle([
          [1, 2],
          [3, 4],
        ]);
        await this.#transfer(em, attempt, first!);
        await this.#transfer(em, attempt, second!);
        attempt.intend();
      }, this.#isolation()),
    );
  }

  /** What a version is told to cover, in a transaction, in a flush of its own, or tried again. */
  async #covered(change: Change): Promise<void> {
    const isDeclared = this.#lock === 'mikro-ool';
    const carryOut = async (em: EntityManager, attempt: Attempt, verifies: boolean) => {
      const changed = await change(em, attempt, this.#chance, verifies);
      await em.flush();
      const lines = changed.map(({ row, balance }) => {
        return attempt.wrote('update', { id: row.id, incarnation: 1, balance }, row.version);
      });
      if (lines.length > 0) {
        await em.insertMany(Journal, lines);
      }
    };
    const ways = [
      () =>
        this.#once((attempt) =>
          this.#fork().transactional(async (em) => {
            await carryOut(em, attempt, isDeclared);
            attempt.intend();
          }, this.#isolation()),
        ),
      () =>
        this.#once(async (attempt) => {
          const em = this.#fork();
          for (const { row, balance } of await change(em, attempt, this.#chance, isDeclared)) {
            em.create(Journal, attempt.wrote('update', { id: row.id, incarnation: 1, balance }, row.version + 1));
          }
          attempt.intend();
          await em.flush();
        }),
      () => this.#retry((em, attempt) => carryOut(em, attempt, isDeclared)),
      // all that was loaded is verified, so nothing is by itself
      () => this.#retry((em, attempt) => carryOut(em, attempt, false), isDeclared),
    ];
    await this.#chance.pick(ways)();
  }

  /** Past the ORM: nobody checks anything, no version is written along, and a lost answer is an error like any other. */
  async #raw(): Promise<void> {
    await this.#once(
      (attempt) => this.#fork().transactional((em) => moveStockRaw(em, attempt, this.#chance), this.#isolation()),
      false,
    );
  }
}
