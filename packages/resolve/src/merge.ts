/**
 * Flush, and merge when somebody else was faster:
 *
 *   await mergeOnConflict(em);   // throws a MergeConflict only where both have changed the same property
 *   await mergeOnConflict(em, { resolve: (clash) => clash.takeTheirs() });
 *
 * Every round is a flush that checks the version which the merge has read, so nothing is overwritten unread.
 */
import { type EntityManager, helper } from '@mikro-orm/core';
import { type Conflict, ConcurrentUpdate, hasPrecondition, isTouched, verifiedIn, versionOf } from '@mikro-ool/core';
import { type Clash, type Deleted, type Rebased, type Removed, mergeRows } from './rebase.ts';
import { metaOf } from './stale.ts';

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
 * again, until nobody is faster. The entities then hold theirs and mine.
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
 * @throws whatever `resolve` throws; the rows are then as stale as before
 * @see `rebase()`, which does one round and decides nothing
 */
export async function mergeOnConflict(em: EntityManager, { resolve }: MergeOptions = {}): Promise<void> {
  const seen = new Map<object, number | null>();
  for (;;) {
    const stale = await flush(em);
    if (!stale) {
      return;
    }
    if (stale.conflicts.length === 0 || stale.conflicts.some((conflict) => !isMergeable(em, conflict))) {
      throw stale;
    }
    // what is as it was in the last round is kept back by something that no merge changes, and so will the next one be
    if (stale.conflicts.some(({ entity, actual }) => seen.get(entity) === actual)) {
      throw stale;
    }
    stale.conflicts.forEach(({ entity, actual }) => seen.set(entity, actual));
    await merge(em, stale, resolve);
  }
}

/** Returns the conflict, if there is one. */
async function flush(em: EntityManager): Promise<ConcurrentUpdate | undefined> {
  try {
    await em.flush();
    return undefined;
  } catch (error) {
    if (error instanceof ConcurrentUpdate) {
      return error;
    }
    throw error;
  }
}

/**
 * A decision that rests on a row, or on the parts of an aggregate, is not made again by merging the columns of it; nor does a
 * client that has named a version want its change on top of a later one.
 */
function isMergeable(em: EntityManager, { entity, operation, expected }: Conflict): boolean {
  const version = versionOf(metaOf(em, entity));
  const isDecision =
    isTouched(helper(entity).__originalEntityData, version!.name) ||
    verifiedIn(em.getContext().getUnitOfWork(false))?.has(entity);
  return operation !== 'check' && !isDecision && !hasPrecondition(entity, expected);
}

async function merge(em: EntityManager, stale: ConcurrentUpdate, resolve: MergeOptions['resolve']): Promise<void> {
  const { rebased, stayStale } = await mergeRows(em, stale);
  const { clashes, deleted, removed } = rebased;
  try {
    if (deleted.length > 0 || removed.length > 0 || (clashes.length > 0 && !resolve)) {
      throw new MergeConflict(stale.conflicts, rebased);
    }
    for (const clash of clashes) {
      await resolve!(clash);
    }
  } catch (error) {
    stayStale();
    throw error;
  }
}
