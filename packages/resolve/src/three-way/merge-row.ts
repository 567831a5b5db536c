/** One row: reads what is there now, puts mine on top, and says what is left to decide. It conflicts until it is settled. */
import { helper } from '@mikro-orm/core';
import { orphanStacksOf } from '../managed.ts';
import type { Deleted, Rebased } from '../rebased.ts';
import { deletedByOthers, hasChanges, removedByMe, removedOf } from './deletions.ts';
import { mergeCollection } from './merge-collection.ts';
import { PropertyMerge } from './merge-properties.ts';
import { type Row, collectionsOf } from './row.ts';
import { type Base, baseOf, initialize, readTheirs } from './sides.ts';

export class RowMerge {
  /** It is to be forgotten: both have removed it, … */
  isGone = false;
  /** … or only they have, and nothing of mine is in it. */
  ghost: Deleted | undefined;
  readonly #row: Row;
  /** Parts of aggregates, which are merged by themselves. */
  readonly #parts: ReadonlyMap<object, unknown>;
  /** Of one of these: what it belongs to, but for the root. */
  readonly #above: readonly object[] | undefined;
  /** The version of mine, … */
  readonly #stale: unknown;
  /** … and the one of theirs. */
  #found: unknown;
  /** The snapshot that mine was made to, … */
  #base: object | undefined;
  /** … and the one that it is made to once it is merged. */
  #merged: object | undefined;
  readonly #undos: (() => void)[] = [];

  constructor(
    row: Row,
    { parts, above }: { parts: ReadonlyMap<object, unknown>; above?: readonly object[] | undefined },
  ) {
    [this.#row, this.#parts, this.#above] = [row, parts, above];
    this.#stale = row.version && row.entity[row.version];
  }

  get entity(): object {
    return this.#row.entity;
  }

  async run(result: Rebased): Promise<void> {
    const { em, entity, version } = this.#row;
    const orphans = this.#orphans();
    const removed = removedOf(em, [...(this.#above ?? []), entity]);
    // of a part that is a reference, the version of the root says no more than that what was assigned has no known base
    if (!this.#above) {
      await initialize(this.#row);
    }
    const base = baseOf(this.#row);
    const reader = em.fork({ keepTransactionContext: true });
    const theirs = await readTheirs(this.#row, base, reader);
    if (!theirs) {
      this.#rowIsGone(base, removed !== undefined, result);
      return;
    }
    const properties = new PropertyMerge(this.#row, base, theirs);
    result.clashes.push(...properties.run());
    [this.#base, this.#merged, this.#found] = [base.snapshot, properties.snapshot, version && theirs[version]];
    this.#undos.push(() => properties.undo());
    // the version of the root says nothing about which of its parts they have changed
    let isChanged = !this.#above || properties.isChangedByOthers;
    for (const [prop, collection] of collectionsOf(this.#row)) {
      const from = { reader, entity: theirs };
      const merged = await mergeCollection(this.#row, prop, collection, from, this.#parts);
      this.#undos.push(merged.undo);
      isChanged ||= merged.isChangedByOthers;
    }
    // a relation that others have moved on leaves no orphan of ours
    this.#forgetOrphansBut(orphans);
    if (removed && isChanged && result.removed.every((one) => one.entity !== removed)) {
      result.removed.push(removedByMe(em, removed));
    }
  }

  /** Removed by both is what both wanted, and of a part that only they have touched nobody loses anything. */
  #rowIsGone(base: Base, isRemoved: boolean, result: Rebased): void {
    const isOfTheirs = this.#above !== undefined && !hasChanges(this.#row);
    this.isGone = isRemoved || isOfTheirs;
    const deleted = deletedByOthers(this.#row, base);
    if (!this.isGone) {
      result.deleted.push(deleted);
    } else if (!isRemoved) {
      this.ghost = deleted;
    }
  }

  /** Up to now, any flush would have conflicted. */
  settle(): void {
    if (this.#isMerged()) {
      this.#set(this.#merged!, this.#found);
    }
  }

  /** Whatever was merged already: it conflicts again. */
  undo(): void {
    if (this.#isMerged()) {
      const orphans = this.#orphans();
      this.#undos.toReversed().forEach((undo) => undo());
      this.#forgetOrphansBut(orphans);
      this.#set(this.#base!, this.#stale);
    }
  }

  /** And neither flushed since, nor read again. A flush that has failed meanwhile has put back what it had begun with. */
  #isMerged(): boolean {
    const snapshot: unknown = helper(this.#row.entity).__originalEntityData;
    return this.#merged !== undefined && (snapshot === this.#merged || snapshot === this.#base);
  }

  #set(snapshot: object, found: unknown): void {
    const { entity, version } = this.#row;
    helper(entity).__originalEntityData = snapshot as never;
    if (version) {
      entity[version] = found;
    }
  }

  #orphans(): Set<object> {
    return new Set(orphanStacksOf(this.#row.em).flatMap((stack) => [...stack]));
  }

  #forgetOrphansBut(known: ReadonlySet<object>): void {
    for (const stack of orphanStacksOf(this.#row.em)) {
      stack.forEach((orphan) => known.has(orphan) || stack.delete(orphan));
    }
  }
}
