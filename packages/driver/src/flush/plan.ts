/**
 * What a flush is going to do, looked at before it sends anything: which version each row must have, in which order rows
 * are written, what is only compared, and whether it needs a transaction. Here blind writes are refused.
 */
import { ChangeSetType, type EntityManager, type EntityMetadata, EventType } from '@mikro-orm/core';
import { type Operation, versionOf } from '@mikro-ool/core';
import { ownVersionOf, versionTable } from '../discovery.ts';
import { type AnyChangeSet, type ChangeSetGroups, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import type { VersionedRow } from '../write/batch.ts';
import type { Dialect } from '../write/dialects/index.ts';
import { changedElsewhere, isClaim, takeBackStamps } from './claims.ts';
import { classesInDoubt, expectedVersion, rowOf } from './expected.ts';
import { inKeyOrder } from './key-order.ts';

/** A row that may be of another class than its entity, one with a version. */
export interface UnsureRow {
  readonly changeSet: AnyChangeSet;
  readonly below: EntityMetadata;
  readonly operation: Operation;
}

export interface Plan {
  /** Rows whose version was assigned, and nothing else: they are only compared. */
  readonly claims: readonly VersionedRow[];
  readonly unsure: readonly UnsureRow[];
  /** Rows with a version that are deleted, in order. */
  readonly deletes: readonly AnyChangeSet[];
  /** A row with a version is written or compared. */
  readonly versioned: boolean;
  /** More than one row is written, so that part of them could stay. */
  readonly several: boolean;
  /** Nothing but one statement, and nobody can see whether there is a transaction around it. */
  readonly isOneStatement: boolean;
}

/** Of a flush that failed before it could be planned. */
export const NO_PLAN: Plan = {
  claims: [],
  unsure: [],
  deletes: [],
  versioned: false,
  several: false,
  isOneStatement: false,
};

const WRITES = [
  [ChangeSetType.UPDATE, 'update'],
  [ChangeSetType.UPDATE_EARLY, 'update'],
  [ChangeSetType.DELETE, 'delete'],
  [ChangeSetType.DELETE_EARLY, 'delete'],
] as const;

/**
 * Looks at the change sets of a flush, and puts them into the order in which they are written.
 *
 * @throws {VersionNotLoaded} when the version of a row is not known
 * @throws {InvalidVersion} when it is no version
 */
export function planFlush(em: EntityManager, dialect: Dialect | undefined, groups: ChangeSetGroups): Plan {
  const plan = { claims: [] as VersionedRow[], unsure: [] as UnsureRow[], deletes: [] as AnyChangeSet[] };
  let versioned = false;
  let rows = 0;
  let last: AnyChangeSet | undefined;
  for (const sets of groups[ChangeSetType.CREATE].values()) {
    rows += sets.length;
    sets.forEach((changeSet) => (versioned = checkInitial(changeSet) || versioned));
  }
  const elsewhere = changedElsewhere(groups);
  for (const [type, operation] of WRITES) {
    for (const [id, sets] of groups[type]) {
      versioned ||= sets.some((set) => versionOf(set.meta));
      const written =
        operation === 'update' ? planUpdates(em, sets, elsewhere, plan.claims) : planDeletes(sets, plan.deletes);
      plan.unsure.push(...unsureAmong(em, sets, operation));
      groups[type].set(id, written);
      // joined-table inheritance: one DELETE for the table with the version, and one for the rest
      const split = operation === 'delete' && written.some(({ meta }) => versionTable(meta) !== meta.root);
      rows += split ? 2 * written.length : written.length;
      last = written.at(-1) ?? last;
    }
  }
  const uow = em.getUnitOfWork(false);
  for (const [entity] of uow.getExtraUpdates()) {
    rows++;
    versioned = checkFollowUp(em, entity) || versioned;
  }
  rows += uow.getCollectionUpdates().length;
  const isPlain = plan.claims.length + plan.unsure.length === 0;
  const isOneStatement = rows === 1 && last !== undefined && isPlain && isAlone(em, dialect, last);
  return { ...plan, versioned, several: rows > 1, isOneStatement };
}

/** Returns what is written, in order; a claim without another change is only compared. */
function planUpdates(
  em: EntityManager,
  sets: AnyChangeSet[],
  elsewhere: Set<object>,
  claims: VersionedRow[],
): AnyChangeSet[] {
  const compared = new Set(sets.filter((set) => isClaim(set, elsewhere)));
  for (const changeSet of sets) {
    if (compared.has(changeSet)) {
      claims.push(rowOf(changeSet, 'check'));
      takeBackStamps(em, changeSet);
    } else if (versionOf(changeSet.meta)) {
      expectedVersion(changeSet.entity, changeSet.meta, 'update');
    }
  }
  return inKeyOrder(compared.size > 0 ? sets.filter((set) => !compared.has(set)) : sets);
}

function planDeletes(sets: AnyChangeSet[], deletes: AnyChangeSet[]): AnyChangeSet[] {
  const versioned = sets.filter((set) => versionOf(set.meta));
  for (const changeSet of versioned) {
    const { entity, meta } = changeSet;
    // a removed row is found by the key that it has, whatever was assigned since
    changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
    expectedVersion(entity, meta, 'delete');
  }
  deletes.push(...inKeyOrder(versioned));
  return inKeyOrder(sets);
}

function unsureAmong(em: EntityManager, sets: AnyChangeSet[], operation: Operation): UnsureRow[] {
  const inherited = sets[0]!.meta.root.inheritanceType ? sets : [];
  return inherited.flatMap((changeSet) =>
    classesInDoubt(em, changeSet.entity).map((below) => ({ changeSet, below, operation })),
  );
}

/** A version that a new row is given. Returns whether its table has one. */
export function checkInitial({ entity, meta }: AnyChangeSet): boolean {
  const version = ownVersionOf(meta);
  if (version && (entity as Record<string, unknown>)[version.name] != null) {
    expectedVersion(entity, meta, 'update');
  }
  return version !== undefined;
}

/** An update that MikroORM carries out later in the flush, for a row that exists already. Returns whether it has a version. */
function checkFollowUp(em: EntityManager, entity: object): boolean {
  const meta = metaOf(em, entity);
  const isVersioned = snapshotOf(entity) !== undefined && versionOf(meta) !== undefined;
  if (isVersioned) {
    expectedVersion(entity, meta, 'update');
  }
  return isVersioned;
}

const UPDATE_EVENTS = [EventType.beforeUpdate, EventType.afterUpdate];
const DELETE_EVENTS = [EventType.beforeDelete, EventType.afterDelete];
const TRANSACTION_EVENTS = Object.values(EventType).filter((event) => event.includes('Transaction'));

/** Nothing is read in the same transaction, nothing can fail after the only row was written, and nobody watches. */
function isAlone(em: EntityManager, dialect: Dialect | undefined, { meta, type }: AnyChangeSet): boolean {
  const events = em.getEventManager();
  const watched = type.startsWith('update') ? UPDATE_EVENTS : DELETE_EVENTS;
  return (
    dialect?.autocommits === true &&
    ownVersionOf(meta) !== undefined &&
    meta.inheritanceType !== 'tpt' &&
    em.getTransactionSessionContext() === undefined &&
    !watched.some((event) => events.hasListeners(event, meta)) &&
    ![...events.getSubscribers()].some((subscriber) => TRANSACTION_EVENTS.some((event) => event in subscriber))
  );
}
