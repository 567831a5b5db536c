/**
 * Flush, and merge when somebody else was faster:
 *
 *   await mergeOnConflict(em);   // throws a MergeConflict only where both have changed the same property
 *   await mergeOnConflict(em, { resolve: (clash) => clash.takeTheirs() });
 *
 * Every round is a flush that checks the version which the merge has read, so nothing is overwritten unread.
 */
import { type EntityManager, helper } from '@mikro-orm/core';
import { type Conflict, ConcurrentUpdate, hasPrecondition, isTouched, versionOf } from '@mikro-ool/core';
import { forget, isVerified, managedBy, metaOf } from './managed.ts';
import type { Clash, Deleted, Rebased, Removed } from './rebased.ts';
import { type Merged, mergeRows } from './three-way/merge-rows.ts';
import { betweenFlushes, flushAs } from './turn.ts';

export interface MergeOptions {
  /**
   * Settles a property that both have changed: `clash.takeTheirs()`, or another value on the entity; mine stays when it
   * does nothing. Called again when somebody changes the property once more before the flush.
   */
  readonly resolve?: (clash: Clash) => void | Promise<void>;
}

/** What somebody has to decide on. Nothing was written, and the rows are as stale as before, so that a flush conflicts. */
export class MergeConflict extends ConcurrentUpdate implements Rebased {
  // reachable, but neither printed nor serialised: they are about columns
  readonly #rebased: Rebased;

  /**
   * @param conflicts the stale rows
   * @param rebased what could not be merged
   */
  constructor(conflicts: readonly Conflict[], rebased: Rebased) {
    super(conflicts);
    this.name = 'MergeConflict';
    this.#rebased = rebased;
  }

  /** Properties that both have changed, to different values. */
  get clashes(): Clash[] {
    return this.#rebased.clashes;
  }

  /** What others have removed, and was changed here. */
  get deleted(): Deleted[] {
    return this.#rebased.deleted;
  }

  /** What others have changed, and was removed here. */
  get removed(): Removed[] {
    return this.#rebased.removed;
  }
}

/**
 * Flushes; what others have changed meanwhile is merged with the unsaved changes where it does not overlap, and flushed
 * again, until nobody is faster. The entities then hold theirs and mine. When it throws, they are as before: as stale, with
 * the same unsaved changes, and nothing is decided. No flush of the EntityManager runs while it merges or `resolve` decides;
 * to wait for its turn, it calls the `beforeFlush` listeners once more.
 *
 * A version that `ifMatch()` of @mikro-ool/http took from a tag is never merged into a later one. One that was merely
 * assigned, from a body or a form, cannot be told from the loaded one when it equals that: `verify(entity)`, too, and a
 * rival's change is a conflict.
 *
 * @param em the EntityManager with the unsaved changes
 * @param options what to do with a property that both have changed
 * @throws {MergeConflict} where both have changed a property and there is no `resolve`, and where one side has removed what
 *   the other has changed
 * @throws {ConcurrentUpdate} what no merge of properties can settle: a row of which it was only said that it must not
 *   change (`verify()`, `touch()`, a claim) or whose version a client has named, one that the database keeps as it is, a
 *   transaction that was aborted
 * @throws whatever `resolve` throws
 * @throws {ValidationError} in a listener of a flush, and when `resolve` flushes or merges the same EntityManager
 * @see `rebase()`, which does one round and decides nothing
 */
export async function mergeOnConflict(em: EntityManager, { resolve }: MergeOptions = {}): Promise<void> {
  const rounds = new Rounds(em.getContext(), resolve);
  try {
    for (let stale = await conflictOf(em.flush()); stale; stale = await conflictOf(rounds.flush())) {
      rounds.check(stale);
      await rounds.merge(stale.conflicts);
    }
  } catch (error) {
    await rounds.takeBack();
    throw error;
  }
}

/** The one that ends a flush, if there is one. */
async function conflictOf(flush: Promise<void>): Promise<ConcurrentUpdate | undefined> {
  try {
    await flush;
    return undefined;
  } catch (error) {
    if (error instanceof ConcurrentUpdate) {
      return error;
    }
    throw error;
  }
}

class Rounds {
  readonly #em: EntityManager;
  readonly #resolve: MergeOptions['resolve'];
  /** The last conflict, by entity. */
  readonly #seen = new Map<object, Conflict>();
  /** What both have removed. */
  readonly #gone = new Set<object>();
  readonly #merged: Merged[] = [];

  constructor(em: EntityManager, resolve: MergeOptions['resolve']) {
    this.#em = em;
    this.#resolve = resolve;
  }

  /** @throws what cannot be merged */
  check(stale: ConcurrentUpdate): void {
    const { conflicts } = stale;
    // what is as it was in the last round is kept back by something that no merge changes, and so will the next one be
    const isStuck = conflicts.some(({ entity, expected, actual }) => {
      const last = this.#seen.get(entity);
      return last?.expected === expected && last.actual === actual;
    });
    if (isStuck || conflicts.length === 0 || !conflicts.every((one) => isMergeable(this.#em, one))) {
      throw stale;
    }
    conflicts.forEach((conflict) => this.#seen.set(conflict.entity, conflict));
  }

  /** A flush meanwhile would write what is not decided. */
  async merge(conflicts: readonly Conflict[]): Promise<void> {
    await betweenFlushes(this.#em, async () => {
      try {
        await this.#merge(conflicts);
      } catch (error) {
        this.#undo();
        throw error;
      }
    });
  }

  async #merge(conflicts: readonly Conflict[]): Promise<void> {
    const managed = managedBy(this.#em);
    // another merge may have found that both have removed it
    const entities = conflicts.map(({ entity }) => entity).filter((entity) => managed.has(entity));
    const merged = await mergeRows(this.#em, new Set(entities));
    this.#merged.push(merged);
    const { clashes, deleted, removed } = merged.rebased;
    if (deleted.length > 0 || removed.length > 0 || (clashes.length > 0 && !this.#resolve)) {
      throw new MergeConflict(conflicts, merged.rebased);
    }
    for (const clash of clashes) {
      await this.#resolve!(clash);
    }
    merged.settle();
    merged.gone.forEach((entity) => this.#gone.add(entity));
  }

  /** A flush that fails remembers again what it was to forget. */
  flush(): Promise<void> {
    return flushAs({ em: this.#em, begins: () => this.#gone.forEach((entity) => forget(this.#em, entity)) });
  }

  async takeBack(): Promise<void> {
    if (this.#merged.length > 0) {
      await betweenFlushes(this.#em, async () => this.#undo());
    }
  }

  #undo(): void {
    const last = this.#merged.splice(0).toReversed();
    last.forEach((merged) => merged.undo());
  }
}

/**
 * A decision that rests on a row, or on the parts of an aggregate, is not made again by merging the columns of it; nor does a
 * client that has named a version want its change on top of a later one.
 */
function isMergeable(em: EntityManager, { entity, operation, expected }: Conflict): boolean {
  const version = versionOf(metaOf(em, entity));
  const isDecision = isTouched(helper(entity).__originalEntityData, version!.name) || isVerified(em, entity);
  return operation !== 'check' && !isDecision && !hasPrecondition(entity, expected);
}
