/**
 * What a flush is going to do, looked at before it sends anything: which version each row must have, in which order rows
 * are written, what is only compared, and whether it needs a transaction. Here blind writes are refused.
 */
import { ChangeSetType, type EntityManager, type EntityMetadata, Utils } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { type Operation, versionOf } from '@mikro-ool/core';
import { ownVersionOf, versionTable } from '../discovery.ts';
import { type AnyChangeSet, type ChangeSetGroups, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import type { VersionedRow } from '../write/batch.ts';
import { classAlone } from './alone.ts';
import { changedElsewhere, isClaim, takeBackStamps } from './claims.ts';
import { checkGiven, classesInDoubt, expectedVersion, rowOf } from './expected.ts';
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
  /** It is nothing but one statement on the table of this class, and nobody can see a transaction around it. */
  readonly alone?: EntityMetadata;
}

/** Of a flush that failed before it could be planned. */
export const NO_PLAN: Plan = {
  claims: [],
  unsure: [],
  deletes: [],
  versioned: false,
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
 * @throws {VersionNotLoaded} when the version of a row is not known
 * @throws {InvalidVersion} when it is no version
 */
export function planFlush(em: EntityManager, driver: AbstractSqlDriver, groups: ChangeSetGroups): Plan {
  const plan = { claims: [] as VersionedRow[], unsure: [] as UnsureRow[], deletes: [] as AnyChangeSet[] };
  let versioned = false;
  let rows = 0;
  const written: AnyChangeSet[][] = [];
  for (const sets of groups[ChangeSetType.CREATE].values()) {
    rows += sets.length;
    written.push(sets);
    sets.forEach((changeSet) => (versioned = checkInitial(changeSet) || versioned));
  }
  const elsewhere = changedElsewhere(groups);
  for (const [type, operation] of WRITES) {
    for (const [id, sets] of groups[type]) {
      versioned ||= sets.some((set) => versionOf(set.meta));
      const ordered =
        operation === 'update' ? planUpdates(em, sets, elsewhere, plan.claims) : planDeletes(em, sets, plan.deletes);
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
  for (const [entity, changed] of followUps) {
    versioned = checkFollowUp(em, entity, Utils.asArray<string>(changed)) || versioned;
  }
  const further = followUps.length + uow.getCollectionUpdates().length;
  const isPlain = further + plan.claims.length + plan.unsure.length === 0;
  const groupsOfRows = written.filter((sets) => sets.length > 0);
  const alone = isPlain ? classAlone(em, driver, groupsOfRows) : undefined;
  return { ...plan, versioned, several: rows + further > 1, alone };
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
      expectedVersion(changeSet.entity, changeSet.meta, 'update', Object.keys(changeSet.payload));
    }
  }
  return inOrder(em, compared.size > 0 ? sets.filter((set) => !compared.has(set)) : sets);
}

function planDeletes(em: EntityManager, sets: AnyChangeSet[], deletes: AnyChangeSet[]): AnyChangeSet[] {
  const versioned = sets.filter((set) => versionOf(set.meta));
  for (const changeSet of versioned) {
    const { entity, meta } = changeSet;
    // a removed row is found by the key that it has, whatever was assigned since
    changeSet.originalEntity ??= snapshotOf(entity) as AnyChangeSet['originalEntity'];
    expectedVersion(entity, meta, 'delete');
  }
  deletes.push(...inKeyOrder(versioned));
  return inOrder(em, sets);
}

/** Rows of one table in key order, when there is a version among them; in joined tables it may be in another one. */
function inOrder(em: EntityManager, sets: AnyChangeSet[]): AnyChangeSet[] {
  const isVersioned = ({ entity, meta }: AnyChangeSet) =>
    versionOf(meta) ?? (meta.inheritanceType === 'tpt' && versionOf(metaOf(em, entity)));
  return sets.some(isVersioned) ? inKeyOrder(sets) : sets;
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
function checkFollowUp(em: EntityManager, entity: object, changed: readonly string[]): boolean {
  const meta = metaOf(em, entity);
  const isVersioned = snapshotOf(entity) !== undefined && versionOf(meta) !== undefined;
  if (isVersioned) {
    expectedVersion(entity, meta, 'update', changed);
  }
  return isVersioned;
}
