/**
 * What a flush is going to do, looked at before it sends anything: which version each row must have, in which order rows
 * are written, what is only compared, and whether it needs a transaction. Here blind writes are refused.
 */
import { ChangeSetType, type EntityManager, type EntityMetadata, Utils } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { type Operation, versionOf } from '@mikro-ool/core';
import { ownVersionOf, versionTable } from '../discovery.ts';
import { type AnyChangeSet, type ChangeSetGroups, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import { checkGiven } from '../versions.ts';
import type { CheckedRow, LockedRow } from '../write/batch.ts';
import { dialectOf } from '../write/dialects/index.ts';
import { uncoveredAmong, updatesOf } from '../covers/exclude.ts';
import { classAlone } from './alone.ts';
import { changedElsewhere, isClaim, takeBackStamps } from './claims.ts';
import { checkedRow, classesInDoubt, expectedVersion, lockedRow } from './expected.ts';
import { inKeyOrder } from './key-order.ts';
import type { Roots } from './climb.ts';
import { NO_ROOTS } from './roots.ts';

/** A row that may be of another class than its entity, one with a version. */
export interface UnsureRow {
  readonly changeSet: AnyChangeSet;
  readonly below: EntityMetadata;
  readonly operation: Operation;
}

export interface Plan {
  /** Rows whose version was assigned, and nothing else: they are only compared. */
  readonly claims: readonly CheckedRow[];
  /** The rows that are written while claims hold. */
  readonly beside: readonly LockedRow[];
  readonly unsure: readonly UnsureRow[];
  /** Entities of which only columns change that the version does not cover. */
  readonly uncovered: ReadonlySet<object>;
  /** Rows with a version that are deleted, in order. */
  readonly deletes: readonly AnyChangeSet[];
  /** Rows of a table, of which JavaScript does not know how the database sorts their keys. */
  readonly unsorted: readonly AnyChangeSet[][];
  /** A row with a version is written or compared. */
  readonly versioned: boolean;
  /** A row with a version that is there is written or compared. */
  readonly changes: boolean;
  /** Something is written, … */
  readonly writes: boolean;
  /** … and more than one row, so that part of them could stay. */
  readonly several: boolean;
  /** It is nothing but one statement on the table of this class, and nobody can see a transaction around it. */
  readonly alone?: EntityMetadata;
}

/** Of a flush that failed before it could be planned. */
export const NO_PLAN: Plan = {
  claims: [],
  beside: [],
  unsure: [],
  uncovered: new Set(),
  deletes: [],
  unsorted: [],
  versioned: false,
  changes: false,
  writes: false,
  several: false,
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
 * @param verified entities whose version is to be compared, whatever changes
 * @param roots entities whose version is to be bumped, whatever changes
 * @throws {VersionNotLoaded} when the version of a row is not known
 * @throws {InvalidVersion} when it is no version
 */
export function planFlush(
  em: EntityManager,
  driver: AbstractSqlDriver,
  groups: ChangeSetGroups,
  verified: ReadonlySet<object> = new Set(),
  roots: Roots = NO_ROOTS,
): Plan {
  const plan = {
    uncovered: uncoveredAmong(updatesOf(groups), roots.size > 0 ? new Set([...verified, ...roots.keys()]) : verified),
    claims: [] as CheckedRow[],
    unsure: [] as UnsureRow[],
    deletes: [] as AnyChangeSet[],
    unsorted: [] as AnyChangeSet[][],
  };
  const dialect = dialectOf(driver.getPlatform());
  let versioned = false;
  let changes = false;
  let rows = 0;
  const written: AnyChangeSet[][] = [];
  for (const sets of groups[ChangeSetType.CREATE].values()) {
    rows += sets.length;
    written.push(sets);
    sets.forEach((changeSet) => (versioned = checkInitial(changeSet) || versioned));
  }
  const elsewhere = changedElsewhere(groups);
  roots.forEach((_, root) => elsewhere.add(root));
  for (const [type, operation] of WRITES) {
    for (const [id, sets] of groups[type]) {
      changes ||= sets.some((set) => versionOf(set.meta));
      const rest = operation === 'update' ? planUpdates(em, sets, elsewhere, plan) : planDeletes(em, sets);
      // rows without a version come as MikroORM would write them
      const { sorted: ordered, isKnown } = isVersioned(em, sets)
        ? inKeyOrder(rest, dialect)
        : { sorted: rest, isKnown: true };
      if (operation === 'delete') {
        plan.deletes.push(...ordered.filter((set) => versionOf(set.meta)));
      }
      if (!isKnown) {
        plan.unsorted.push(ordered);
      }
      plan.unsure.push(...unsureAmong(em, sets, operation));
      groups[type].set(id, ordered);
      written.push(ordered);
      // joined-table inheritance: one DELETE for the table with the version, and one for the rest
      const split = operation === 'delete' && ordered.some(({ meta }) => versionTable(meta) !== meta.root);
      rows += split ? 2 * ordered.length : ordered.length;
    }
  }
  const uow = em.getUnitOfWork(false);
  const followUps = [...uow.getExtraUpdates()];
  for (const [entity, keys] of followUps) {
    changes = checkFollowUp(em, entity, keys) || changes;
  }
  const further = followUps.length + uow.getCollectionUpdates().length;
  const isPlain = further + plan.claims.length + plan.unsure.length === 0;
  const groupsOfRows = written.filter((sets) => sets.length > 0);
  const alone = isPlain ? classAlone(em, driver, groupsOfRows, plan.uncovered) : undefined;
  const total = rows + further;
  const beside = plan.claims.length > 0 ? groupsOfRows.flat().filter(isThere).map(lockedRow) : [];
  return { ...plan, beside, versioned: versioned || changes, changes, writes: total > 0, several: total > 1, alone };
}

/** A row with a version that the flush finds in its table. */
function isThere({ type, meta }: AnyChangeSet): boolean {
  return type !== ChangeSetType.CREATE && versionOf(meta) !== undefined;
}

/** Returns what is written; a claim without another change is only compared. */
function planUpdates(
  em: EntityManager,
  sets: AnyChangeSet[],
  elsewhere: Set<object>,
  { claims, uncovered }: { claims: CheckedRow[]; uncovered: ReadonlySet<object> },
): AnyChangeSet[] {
  if (!isVersioned(em, sets)) {
    return sets; // as MikroORM would
  }
  // joined tables: MikroORM has a change set of the table with the version, whichever table changes
  const isIdle = ({ entity, payload }: AnyChangeSet) => uncovered.has(entity) && Object.keys(payload).length === 0;
  const compared = new Set(sets.filter((set) => isClaim(set, elsewhere)));
  for (const changeSet of sets) {
    if (compared.has(changeSet)) {
      claims.push(checkedRow(changeSet, 'check'));
      takeBackStamps(em, changeSet);
    } else if (versionOf(changeSet.meta) && !uncovered.has(changeSet.entity)) {
      expectedVersion(changeSet.entity, changeSet.meta, 'update', changeSet.payload);
    }
  }
  return compared.size + uncovered.size > 0 ? sets.filter((set) => !compared.has(set) && !isIdle(set)) : sets;
}

function planDeletes(em: EntityManager, sets: AnyChangeSet[]): AnyChangeSet[] {
  if (!isVersioned(em, sets)) {
    return sets;
  }
  for (const changeSet of sets.filter((set) => versionOf(set.meta))) {
    const { entity, meta } = changeSet;
    // a removed row is found by the key that it has, whatever was assigned since
    changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
    expectedVersion(entity, meta, 'delete');
  }
  return sets;
}

/** Is there a version among these rows of one table? In joined tables it may be in another one. */
function isVersioned(em: EntityManager, sets: AnyChangeSet[]): boolean {
  return sets.some(
    ({ entity, meta }) => versionOf(meta) ?? (meta.inheritanceType === 'tpt' && versionOf(metaOf(em, entity))),
  );
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
  if (version) {
    checkGiven(meta, (entity as Record<string, unknown>)[version.name], entity);
  }
  return version !== undefined;
}

/** An update that MikroORM carries out later in the flush, for a row that exists already. Returns whether it has a version. */
function checkFollowUp(em: EntityManager, entity: object, keys: string | string[]): boolean {
  const meta = metaOf(em, entity);
  const isVersioned = snapshotOf(entity) !== undefined && versionOf(meta) !== undefined;
  if (isVersioned) {
    expectedVersion(entity, meta, 'update', Object.fromEntries(Utils.asArray(keys).map((key) => [key, undefined])));
  }
  return isVersioned;
}
