/**
 * After a conflict: puts unsaved changes on top of what is in the database now.
 *
 *   const { clashes } = await rebase(em, error);   // a ConcurrentUpdate
 *   for (const clash of clashes) clash.takeTheirs();   // or ask the user
 *   await em.flush();
 *
 * A three-way merge, property by property: base is what the changes were made to (MikroORM's snapshot), mine is what is in
 * memory, theirs what is in the database. It compares the way a flush does. Afterwards the snapshot and the version are
 * theirs, so a flush writes what is mine, and conflicts with whoever comes third.
 */
import { type EntityManager, ValidationError } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { forget } from './managed.ts';
import type { Rebased } from './rebased.ts';
import { mergeRows } from './three-way/merge-rows.ts';

/**
 * Loads what is in the database and puts unsaved changes on top. Then `em.flush()` works, unless somebody was faster
 * again. Where both have changed a property, mine stays and the clash is reported; what both changed to the same is none.
 *
 * @param em the EntityManager whose flush failed
 * @param stale the error, for all the rows that it lists, or one entity
 * @returns what is left to decide
 * @throws {ValidationError} when the error lists no rows, and for an entity that is not managed or has no version
 * @see Berenson et al. on lost updates; EF Core's "Resolving concurrency conflicts"; diff3
 */
export function rebase(em: EntityManager, stale: ConcurrentUpdate): Promise<Rebased>;
export function rebase<Entity extends object>(em: EntityManager, stale: Entity): Promise<Rebased<Entity>>;
export async function rebase(em: EntityManager, stale: object): Promise<Rebased> {
  if (stale instanceof ConcurrentUpdate && stale.conflicts.length === 0) {
    throw new ValidationError(
      'There is nothing to rebase: the database itself aborted the transaction, and no row is known to be stale. ' +
        'Run the whole transaction again, for instance by retryOnConflict().',
    );
  }
  const entities = stale instanceof ConcurrentUpdate ? stale.conflicts.map(({ entity }) => entity) : [stale];
  const context = em.getContext();
  const { rebased, gone, settle } = await mergeRows(context, new Set(entities));
  settle();
  gone.forEach((entity) => forget(context, entity));
  return rebased;
}
