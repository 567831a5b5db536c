/** Bumping an entity whose own columns did not change: the root of an aggregate when one of its parts did. */
import { helper } from '@mikro-orm/core';
import { managed } from './managed.ts';

/** On what stands for the version in the snapshot that changes are computed from, where no version can equal it. */
const TOUCHED = Symbol.for('mikro-ool:touched');

/** Stands for a version, and knows which. */
interface Mark {
  readonly [TOUCHED]: unknown;
}

type Snapshot = Record<string, unknown>;

/** On a unit of work: the entities that its next flush writes. Another copy of this package may look for it. */
const PENDING = Symbol.for('mikro-ool:pending-touches');

/**
 * Lets the next flush check and bump the version of an entity, whether or not anything else of it changes. In a listener
 * for `beforeFlush` or `onFlush`, that is the flush which is going on.
 *
 * @param entity managed by an EntityManager, with a version that is loaded or claimed
 * @throws {ValidationError} when it is not managed, or its class has no `VersionField`
 * @throws {VersionNotLoaded} when its version is neither loaded nor claimed
 * @see Hibernate's OPTIMISTIC_FORCE_INCREMENT, Rails' `touch`
 */
export function touch(entity: object): void {
  const way = 'Load it first; a new entity has its version anyway.';
  const { uow, version, snapshot } = managed(entity, 'touched', 'update', way);
  // a version that differs from the snapshot's is a change, so MikroORM computes a change set; a refresh or a flush
  // overwrites the mark
  helper(entity).__originalEntityData = asTouched(snapshot, version) as never;
  touchedIn(uow).add(entity);
}

/** @internal The same snapshot, of a touched entity. */
export function asTouched(snapshot: object, version: string): object {
  const mark: Mark = { [TOUCHED]: loadedVersion(snapshot, version) };
  return { ...snapshot, [version]: mark };
}

/** @internal The entities of a unit of work that were touched since its last flush, or before it. */
export function touchedIn(uow: object): Set<object> {
  return ((uow as { [PENDING]?: Set<object> })[PENDING] ??= new Set());
}

/** @internal Was the entity with this snapshot touched? */
export function isTouched(snapshot: unknown, version: string): boolean {
  return isMark((snapshot as Snapshot | undefined)?.[version]);
}

/** @internal The version in a snapshot, also of a touched entity: the one that was loaded, whatever was assigned since. */
export function loadedVersion(snapshot: unknown, version: string): unknown {
  const loaded = (snapshot as Snapshot | undefined)?.[version];
  return isMark(loaded) ? loaded[TOUCHED] : loaded;
}

/** @internal The same snapshot with another version in it; of a touched entity still, if it was. */
export function withLoadedVersion(snapshot: object, version: string, loaded: unknown): object {
  const other = { ...snapshot, [version]: loaded };
  return isTouched(snapshot, version) ? asTouched(other, version) : other;
}

function isMark(value: unknown): value is Mark {
  return typeof value === 'object' && value !== null && TOUCHED in value;
}
