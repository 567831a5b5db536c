/**
 * The rows of a conflict, and the parts of the aggregates among them, are merged one after the other:
 *
 *   merge-rows.ts   which rows; all of them may be taken back
 *   merge-row.ts    one row: reads both other sides, has its properties and collections merged, or says that it is gone
 *   merge-properties.ts, merge-collection.ts, deletions.ts    what each of these means
 *   sides.ts, parts.ts, units.ts, values.ts, row.ts           what they ask
 */
import type { EntityManager } from '@mikro-orm/core';
import { managedBy } from '../managed.ts';
import type { Rebased } from '../rebased.ts';
import { withHolders } from './deletions.ts';
import { RowMerge } from './merge-row.ts';
import { partsOf } from './parts.ts';
import { partRow, staleRow } from './row.ts';

/** Merged rows, which conflict as before until it is settled: a flush in between must not overwrite theirs. */
export interface Merged {
  readonly rebased: Rebased;
  /** What both have removed; it is to be forgotten. */
  readonly gone: readonly object[];
  /** Gives them the version of theirs. */
  settle(): void;
  /** Makes the rows as stale again as they were, with the same unsaved changes. What was assigned since stays. */
  undo(): void;
}

/** The same as `rebase()`, and may be taken back. */
export async function mergeRows(em: EntityManager, entities: ReadonlySet<object>): Promise<Merged> {
  const rebased: Rebased = { clashes: [], deleted: [], removed: [] };
  const managed = managedBy(em);
  const rows = [...entities].map((entity) => staleRow(em, entity, managed));
  const parts = partsOf(em, entities);
  const merges = rows.map((row) => new RowMerge(row, { parts }));
  const settle = () => merges.forEach((merge) => merge.settle());
  const undo = () => merges.toReversed().forEach((merge) => merge.undo());
  try {
    for (const merge of merges) {
      await merge.run(rebased);
    }
    // a collection that was read again may have brought others along
    for (const [part, above] of new Map([...parts, ...partsOf(em, entities)])) {
      if (!entities.has(part)) {
        const merge = new RowMerge(partRow(em, part), { parts, above });
        merges.push(merge);
        await merge.run(rebased);
      }
    }
  } catch (error) {
    // a read has failed, and nobody sees the clashes: the next flush must not overwrite what they are about
    undo();
    throw error;
  }
  const { deleted, needed } = withHolders(
    em,
    rebased.deleted,
    new Map(merges.map((merge) => [merge.entity, merge.ghost])),
  );
  const gone = merges.filter(({ isGone, entity }) => isGone && !needed.has(entity)).map(({ entity }) => entity);
  return { rebased: { ...rebased, deleted }, gone, settle, undo };
}
