/**
 * What a flush is going to do, looked at before it sends anything: which version each row must have, in which order
 * rows are written, what is only compared, and whether it needs a transaction. Here blind writes are refused.
 */
import { ChangeSetType, type Dictionary, type EntityManager, type EntityMetadata } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { tableClasses, versionTable } from '../discovery.ts';
import {
  type AnyChangeSet,
  type ChangeSetGroups,
  laterOf,
  metaOf,
  snapshotOf,
  updatesOf,
} from '../mikro-orm/entity.ts';
import { isUnsavedPart } from '../mikro-orm/outside.ts';
import type { CheckedRow, LockedRow } from '../write/batch.ts';
import { dialectOf } from '../write/dialects/index.ts';
import type { Roots } from '../covers/aggregate/climb.ts';
import { NO_ROOTS } from '../covers/aggregate/roots.ts';
import { changedElsewhere, isClaim, takeBackStamps } from '../covers/claims.ts';
import { isUncoveredLater, uncoveredAmong } from '../covers/exclude.ts';
import { loneClassOf } from './alone.ts';
import { type UnsureRow, checkedRow, expectedVersion, lockedRow, unsureAmong, validateInitial } from './expected.ts';
import { inKeyOrder } from '../order/keys.ts';

export interface Plan {
  /** Rows that are only compared: nothing but their version was assigned, or nothing at all and they are verified. */
  readonly claims: readonly CheckedRow[];
  /** The rows that are written while claims hold. */
  readonly beside: readonly LockedRow[];
  readonly unsure: readonly UnsureRow[];
  /** Entities of which only columns change that the version does not cover. */
  readonly uncovered: ReadonlySet<object>;
  /** Rows with a version that are deleted, in order. */
  readonly deletes: readonly AnyChangeSet[];
  /** What MikroORM would delete, but was never saved. */
  readonly unsaved: readonly object[];
  /** Rows of a table, of which JavaScript does not know how the database sorts their keys. */
  readonly unsorted: readonly AnyChangeSet[][];
  /** A row with a version is written or compared. */
  readonly versioned: boolean;
  /** The table has a row already that is to be written or compared, with its version. */
  readonly meetsExisting: boolean;
  /** The tables in which rows are written. */
  readonly tables: readonly EntityMetadata[];
  /** Something is written, … */
  readonly writes: boolean;
  /** … and more than one row, so that a part of it could stay. */
  readonly hasSeveralRows: boolean;
  /** It is nothing but one statement on the table of this class, and nobody can see a transaction around it. */
  readonly loneClass?: EntityMetadata;
}

/** Of a flush in which no version is concerned, or that failed before it could be planned. */
export const NO_PLAN: Plan = {
  claims: [],
  beside: [],
  unsure: [],
  uncovered: new Set(),
  deletes: [],
  unsaved: [],
  unsorted: [],
  versioned: false,
  meetsExisting: false,
  tables: [],
  writes: false,
  hasSeveralRows: false,
};

const WRITES = [
  [ChangeSetType.UPDATE, 'update'],
  [ChangeSetType.UPDATE_EARLY, 'update'],
  [ChangeSetType.DELETE, 'delete'],
  [ChangeSetType.DELETE_EARLY, 'delete'],
] as const;

/** A plan while tables are added to it. */
interface Draft {
  readonly uncovered: ReadonlySet<object>;
  readonly claims: CheckedRow[];
  readonly unsure: UnsureRow[];
  readonly deletes: AnyChangeSet[];
  readonly unsaved: object[];
  readonly unsorted: AnyChangeSet[][];
  /** What is written, a table after the other. */
  readonly written: AnyChangeSet[][];
  rows: number;
  versioned: boolean;
  meetsExisting: boolean;
}

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
  const plain = verified.size + roots.size === 0 ? planOfPlain(em, groups) : undefined;
  if (plain) {
    return plain;
  }
  const compared = roots.size > 0 ? new Set([...verified, ...roots.keys()]) : verified;
  const draft: Draft = {
    uncovered: uncoveredAmong(em, updatesOf(groups), compared),
    claims: [],
    unsure: [],
    deletes: [],
    unsaved: [],
    unsorted: [],
    written: [],
    rows: 0,
    versioned: false,
    meetsExisting: false,
  };
  for (const sets of groups[ChangeSetType.CREATE].values()) {
    planInserts(sets, draft);
  }
  const elsewhere = changedElsewhere(groups);
  roots.forEach((_, root) => elsewhere.add(root));
  for (const [type, operation] of WRITES) {
    for (const [id, sets] of groups[type]) {
      groups[type].set(id, planChanges(em, driver, sets, operation, elsewhere, draft));
    }
  }
  return completed(em, driver, draft, planFollowUps(em, draft));
}

/** Where no class has a version, nor can one that extends it, everything is MikroORM's business alone. */
function planOfPlain(em: EntityManager, groups: ChangeSetGroups): Plan | undefined {
  const uow = em.getUnitOfWork(false);
  let rows = uow.getCollectionUpdates().length;
  for (const group of Object.values(groups)) {
    for (const sets of group.values()) {
      const { meta } = sets[0]!;
      if (meta.root.inheritanceType || versionOf(meta)) {
        return undefined;
      }
      rows += sets.length;
    }
  }
  if (uow.getExtraUpdates().size > 0) {
    return undefined;
  }
  return { ...NO_PLAN, writes: rows > 0, hasSeveralRows: rows > 1 };
}

function completed(em: EntityManager, driver: AbstractSqlDriver, draft: Draft, followUps: number): Plan {
  const { written: groups, rows, ...plan } = draft;
  const { claims, unsure, uncovered, versioned, meetsExisting } = plan;
  const written = groups.filter((sets) => sets.length > 0);
  const isPlain = followUps + claims.length + unsure.length === 0;
  const total = rows + followUps;
  return {
    ...plan,
    beside: claims.length > 0 ? written.flat().filter(isThere).map(lockedRow) : [],
    versioned: versioned || meetsExisting,
    tables: written.flatMap(([set]) => tableClasses(set!.meta)),
    writes: total > 0,
    hasSeveralRows: total > 1,
    loneClass: isPlain ? loneClassOf(em, driver, written, uncovered) : undefined,
  };
}

/** A row with a version that the flush finds in its table. */
function isThere({ type, meta }: AnyChangeSet): boolean {
  return type !== ChangeSetType.CREATE && versionOf(meta) !== undefined;
}

function planInserts(sets: AnyChangeSet[], draft: Draft): void {
  draft.rows += sets.length;
  draft.written.push(sets);
  sets.forEach((changeSet) => (draft.versioned = validateInitial(changeSet) || draft.versioned));
}

/** Plans what is updated or deleted in one table. Returns it in the order in which it is written. */
function planChanges(
  em: EntityManager,
  driver: AbstractSqlDriver,
  sets: AnyChangeSet[],
  operation: 'update' | 'delete',
  elsewhere: Set<object>,
  draft: Draft,
): AnyChangeSet[] {
  draft.meetsExisting ||= sets.some((set) => versionOf(set.meta));
  const rest = operation === 'update' ? planUpdates(em, sets, elsewhere, draft) : planDeletes(em, sets, draft);
  // rows without a version come as MikroORM would write them
  const { sorted, isKnown } = areVersioned(em, sets)
    ? inKeyOrder(rest, dialectOf(driver.getPlatform()))
    : { sorted: rest, isKnown: true };
  if (operation === 'delete') {
    draft.deletes.push(...sorted.filter((set) => versionOf(set.meta)));
  }
  if (!isKnown) {
    draft.unsorted.push(sorted);
  }
  draft.unsure.push(...unsureAmong(em, sets, operation));
  draft.written.push(sorted);
  // joined-table inheritance: one DELETE for the table with the version, and one for the rest
  const isSplit = operation === 'delete' && sorted.some(({ meta }) => versionTable(meta) !== meta.root);
  draft.rows += isSplit ? 2 * sorted.length : sorted.length;
  return sorted;
}

/** What MikroORM writes behind the rows: links, and keys of rows that were not there yet. Returns how many. */
function planFollowUps(em: EntityManager, draft: Draft): number {
  const uow = em.getUnitOfWork(false);
  const followUps = [...uow.getExtraUpdates()];
  for (const followUp of followUps) {
    draft.meetsExisting = checkFollowUp(em, followUp[0], laterOf(followUp)) || draft.meetsExisting;
  }
  return followUps.length + uow.getCollectionUpdates().length;
}

/** Returns what is written; a claim without another change is only compared. */
function planUpdates(
  em: EntityManager,
  sets: AnyChangeSet[],
  elsewhere: Set<object>,
  { claims, uncovered }: Draft,
): AnyChangeSet[] {
  if (!areVersioned(em, sets)) {
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

function planDeletes(em: EntityManager, sets: AnyChangeSet[], { unsaved }: Draft): AnyChangeSet[] {
  if (!areVersioned(em, sets)) {
    return sets;
  }
  // what was never saved has no version, and no row
  const isUnsaved = (set: AnyChangeSet) => versionOf(set.meta) !== undefined && isUnsavedPart(em, set);
  const saved = sets.filter((set) => !isUnsaved(set));
  unsaved.push(...sets.filter(isUnsaved).map(({ entity }) => entity));
  for (const changeSet of saved.filter((set) => versionOf(set.meta))) {
    const { entity, meta } = changeSet;
    // a removed row is found by the key that it has, whatever was assigned since
    changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
    expectedVersion(entity, meta, 'delete');
  }
  return saved;
}

/** Is there a version among these rows of one table? In joined tables it may be in another one. */
function areVersioned(em: EntityManager, sets: AnyChangeSet[]): boolean {
  return sets.some(
    ({ entity, meta }) => versionOf(meta) ?? (meta.inheritanceType === 'tpt' && versionOf(metaOf(em, entity))),
  );
}

/**
 * An update that MikroORM carries out later in the flush, for a row that exists already. Returns whether it has a
 * version.
 */
function checkFollowUp(em: EntityManager, entity: object, later: Dictionary): boolean {
  const meta = metaOf(em, entity);
  const isVersioned = snapshotOf(entity) !== undefined && versionOf(meta) !== undefined;
  if (isVersioned && !isUncoveredLater(em, entity, later)) {
    expectedVersion(entity, meta, 'update', later);
  }
  return isVersioned;
}
