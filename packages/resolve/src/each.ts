/**
 * Rows that are independent of each other, an edit-many screen or an import: who is not stale is saved, who is stale is named.
 *
 *   const { saved, conflicts } = await flushEach(em);
 *
 * It is a flush like any other, which waits for its turn: when the last listener has run, what it would write is known,
 * and nothing was sent yet. There, what depends on other rows is refused, and stale rows are looked for. The flush is then
 * done again as if those had not changed, and once more without those that became stale in between.
 */
import { type ChangeSet, ChangeSetType, type Dictionary, type EntityManager, helper } from '@mikro-orm/core';
import { type Conflict, ConcurrentUpdate, Refusal, isTouched, touchedIn, versionOf } from '@mikro-ool/core';
import { isVerified, metaOf } from './managed.ts';
import { findStale } from './stale.ts';
import { type Turn, flushAs } from './turn.ts';

/** What became of the changed rows. */
export interface FlushedEach {
  /** The entities whose changes are committed. */
  readonly saved: readonly object[];
  /** The stale rows; their entities have their changes, unsaved. */
  readonly conflicts: readonly Conflict[];
}

/**
 * Commits the changes of all rows that are not stale, in one flush. The others keep theirs, unsaved, and are named.
 * Listeners run again for each attempt; what they change of rows with a version is saved along.
 *
 * @param em the EntityManager with the unsaved changes; they are updates of rows with a version, and nothing else
 * @returns the entities that were saved, and the conflicts
 * @throws {ValidationError} before any SQL: in an open transaction, for new and removed entities, changed collections, rows
 *   that have to be written after others, and changed entities without a version, also when a listener of the flush has
 *   added them: of these, some would be written without the others
 * @throws {ConcurrentUpdate} when the database itself aborted the transaction, and when a verified row, or the root of a
 *   changed part, is not what it was; nothing is saved then
 * @see RFC 4918, 207 Multi-Status
 */
export async function flushEach(em: EntityManager): Promise<FlushedEach> {
  const context = em.getContext();
  const each = new Each(context);
  await each.run();
  return { saved: each.saved, conflicts: each.conflicts };
}

class Each implements Turn {
  readonly em: EntityManager;
  readonly conflicts: Conflict[] = [];
  saved: object[] = [];
  readonly #losers = new Set<object>();
  #hasLooked = false;
  #hidden: Hidden | undefined;

  constructor(em: EntityManager) {
    this.em = em;
  }

  async run(): Promise<void> {
    for (let again = true; again;) {
      try {
        await flushAs(this);
        again = false;
      } catch (error) {
        this.#sitOut(error);
      } finally {
        this.#hidden?.show();
        this.#hidden?.keepTouches();
      }
    }
  }

  /** @throws what is no stale row of its own */
  #sitOut(error: unknown): void {
    const stale = error instanceof ConcurrentUpdate ? error.conflicts : [];
    // who writes a part of an aggregate depends on its root
    const isNeeded = ({ entity, parts }: Conflict) => parts || isVerified(this.em, entity) || this.#losers.has(entity);
    if (stale.length === 0 || stale.some(isNeeded)) {
      throw error;
    }
    this.conflicts.push(...stale);
    stale.forEach(({ entity }) => this.#losers.add(entity));
  }

  /** Its turn has come. */
  begins(): void {
    if (this.em.isInTransaction()) {
      throw new Refusal(
        'flushEach() was called in an open transaction, where it cannot commit. Call it outside of it.',
      );
    }
    this.#hidden = new Hidden(this.em, this.#losers);
  }

  /** All listeners have run, and nothing was sent. */
  async isPlanned(): Promise<void> {
    const uow = this.em.getUnitOfWork(false);
    const sets = uow.getChangeSets();
    this.#hidden!.show();
    uow
      .getCollectionUpdates()
      .forEach(({ owner, property }) => refuse(owner, `has changes in its collection ${property.name}`));
    sets.forEach((set) => this.#checkKind(set));
    for (const [entity] of uow.getExtraUpdates()) {
      refuse(entity, 'has to be written after another row');
    }
    if (!this.#hasLooked) {
      this.#hasLooked = true;
      const stale = await findStale(this.em, sets);
      if (stale.length > 0) {
        // ends this attempt as the database would
        throw new ConcurrentUpdate(stale);
      }
    }
    this.saved = sets.map(({ entity }) => entity);
  }

  #checkKind({ entity, type }: ChangeSet<object>): void {
    if (type === ChangeSetType.CREATE) {
      refuse(entity, 'is new');
    } else if (type === ChangeSetType.DELETE || type === ChangeSetType.DELETE_EARLY) {
      refuse(entity, 'is to be removed');
    } else if (type !== ChangeSetType.UPDATE) {
      refuse(entity, 'has to be written before another row');
    } else if (!versionOf(metaOf(this.em, entity))) {
      refuse(entity, 'has changed and has no VersionField');
    } else if (this.#losers.has(entity)) {
      refuse(entity, 'is stale and was changed again by a listener of the flush');
    }
  }
}

function refuse(entity: object, what: string): never {
  throw new Refusal(
    `${helper(entity).__meta.className} ${what}, and flushEach() saves changed rows with a version only, each ` +
      `independent of the others; nothing was written. Use em.flush(), or flush that apart from the rest.`,
    entity,
  );
}

/**
 * Entities that a flush takes for unchanged, from its `beforeFlush` to its `onFlush`. A change set cannot be taken back:
 * MikroORM only adds to them, and listeners would see those that are not written. So they are not computed, and that goes
 * by the snapshot alone.
 */
class Hidden {
  readonly #em: EntityManager;
  readonly #snapshots = new Map<object, readonly [snapshot: object, standIn: object]>();

  constructor(em: EntityManager, entities: ReadonlySet<object>) {
    this.#em = em;
    for (const entity of entities) {
      const wrapped = helper(entity);
      const snapshot = wrapped.__originalEntityData;
      const { discriminatorColumn } = wrapped.__meta.root;
      if (snapshot) {
        const standIn = em.getComparator().prepareEntity(entity) as Dictionary;
        if (discriminatorColumn && !wrapped.__initialized) {
          // MikroORM compares a reference without it
          delete standIn[discriminatorColumn];
        }
        wrapped.__originalEntityData = standIn as never;
        this.#snapshots.set(entity, [snapshot, standIn]);
      }
    }
  }

  /** What has got another snapshot meanwhile, because it was read again, keeps that. */
  show(): void {
    for (const [entity, [snapshot, standIn]] of this.#snapshots) {
      if (helper(entity).__originalEntityData === standIn) {
        helper(entity).__originalEntityData = snapshot as never;
      }
      // or it would be written by this flush all the same
      touchedIn(this.#em.getUnitOfWork(false)).delete(entity);
    }
  }

  /** They are for a later flush. */
  keepTouches(): void {
    for (const entity of this.#snapshots.keys()) {
      if (isTouched(helper(entity).__originalEntityData, versionOf(metaOf(this.#em, entity))!.name)) {
        touchedIn(this.#em.getUnitOfWork(false)).add(entity);
      }
    }
  }
}
