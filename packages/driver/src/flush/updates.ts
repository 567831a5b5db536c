/** The rows that a flush inserts and updates: which statement writes them, and the version that they have then. */
import { ChangeSet, ChangeSetType, type Dictionary, type EntityProperty, helper } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { initialVersion, versionOf } from '@mikro-ool/core';
import { changesOnlyUncovered } from '../covers/exclude.ts';
import { isGuarded, ownVersionOf, versionTable } from '../discovery.ts';
import type { Undo } from '../memory/undo.ts';
import { wrote } from '../memory/written.ts';
import { type AnyChangeSet, type PersistOptions, metaOf } from '../mikro-orm/entity.ts';
import { withOutside } from '../mikro-orm/outside.ts';
import { type CheckedRow, type VersionedRow, keyHash, keyHashIn, keyValues } from '../write/batch.ts';
import { dialectOf } from '../write/dialects/index.ts';
import { specialTablesOf } from '../write/special-tables.ts';
import { updateRow, updateRows } from '../write/update.ts';
import type { Sending } from './alone.ts';
import { compareAfter, compareBefore } from './checks.ts';
import {
  StaleRows,
  currentVersions,
  describeAlone,
  describeBatch,
  describeOne,
  findRows,
  refuseExhausted,
} from './conflicts.ts';
import { checkedRow, lockedRow, uncoveredRow, validateInitial } from './expected.ts';
import { canBatch, rowsPerUpdate } from '../write/one-statement.ts';

/** Who writes which of the rows of one table. */
interface Division {
  /** As few statements of ours as possible. */
  readonly batch: AnyChangeSet[];
  /** MikroORM's own statement for a row, with the version added: what a list of values cannot carry, and second bumps. */
  readonly single: AnyChangeSet[];
  /** Both once more, of rows whose version does not cover what changes, or is in another table: they are only counted. */
  readonly uncoveredBatch: AnyChangeSet[];
  readonly uncoveredSingle: AnyChangeSet[];
  /** Rows without a version: MikroORM. */
  readonly plain: AnyChangeSet[];
}

export class Updates {
  readonly #driver: AbstractSqlDriver;
  readonly #undo: Undo;
  readonly #sending: Sending;
  /** Entities of which only columns change that the version does not cover, as planned; listeners may change more. */
  uncovered: ReadonlySet<object> = new Set();
  /** Entities whose version this flush has already moved or set: one flush, one bump, but for guards. */
  readonly #moved = new Map<object, number>();

  /** New entities: what they had before is not a version. */
  readonly #inserted = new Set<object>();

  /** The entities may be handed to an EntityManager around the transaction. */
  readonly #isInside: boolean;

  constructor(driver: AbstractSqlDriver, undo: Undo, sending: Sending) {
    this.#driver = driver;
    this.#undo = undo;
    this.#sending = sending;
    this.#isInside = withOutside(undo.uow).length > 1;
  }

  /** New rows are about to be inserted. */
  inserting(changeSets: AnyChangeSet[]): void {
    for (const changeSet of changeSets) {
      const version = ownVersionOf(changeSet.meta);
      if (!version) {
        continue;
      }
      validateInitial(changeSet);
      const payload = changeSet.payload as Record<string, unknown>;
      // spelled out, because a multi-row INSERT has the same columns for all rows
      payload[version.name] ??= initialVersion(version);
      this.#inserted.add(changeSet.entity);
      this.#move(changeSet.entity, version, payload[version.name] as number);
    }
  }

  /**
   * Joined-table inheritance: the change sets to write before these, because the version is in another table, which
   * nothing else has changed.
   */
  versionsBefore(changeSets: AnyChangeSet[]): AnyChangeSet[] {
    if (changeSets[0]!.meta.inheritanceType !== 'tpt') {
      return [];
    }
    return changeSets
      .filter((set) => versionOf(set.meta) && !ownVersionOf(set.meta) && !this.#moved.has(set.entity))
      .filter((set) => !this.isUncovered(set))
      .map(({ entity, originalEntity, meta }) => {
        const changeSet = new ChangeSet(entity, ChangeSetType.UPDATE, {}, versionTable(meta));
        changeSet.originalEntity = originalEntity;
        return changeSet;
      });
  }

  divide(changeSets: AnyChangeSet[]): Division {
    const uncovered = this.uncovered.size > 0 ? changeSets.filter((set) => this.isUncovered(set)) : [];
    const covered = uncovered.length > 0 ? changeSets.filter((set) => !uncovered.includes(set)) : changeSets;
    const versioned = covered.filter((set) => ownVersionOf(set.meta));
    const others = versioned.length < covered.length ? covered.filter((set) => !ownVersionOf(set.meta)) : [];
    const counted = new Set(others.length > 0 ? this.#countedAmong(others) : []);
    const plain = counted.size > 0 ? others.filter((set) => !counted.has(set)) : others;
    const batch = canBatch(this.#driver, versioned) ? versioned.filter((set) => !this.#moved.has(set.entity)) : [];
    const single = batch.length < versioned.length ? versioned.filter((set) => !batch.includes(set)) : [];
    const unchecked = [...uncovered, ...counted];
    const together = canBatch(this.#driver, unchecked);
    return {
      batch,
      single,
      plain,
      uncoveredBatch: together ? unchecked : [],
      uncoveredSingle: together ? [] : unchecked,
    };
  }

  /**
   * Joined-table inheritance: the rows of a table that have their version in another one. Beside rows without any they
   * take a statement of their own, so there only where something is known that may keep them back.
   */
  #countedAmong(changeSets: AnyChangeSet[]): AnyChangeSet[] {
    const isSpecial = specialTablesOf(this.#driver).isSpecial(changeSets[0]!.meta);
    const hasVersion = ({ entity, meta }: AnyChangeSet) =>
      meta.inheritanceType === 'tpt' && versionOf(metaOf(this.#driver, entity)) !== undefined;
    return isSpecial || changeSets.every(hasVersion)
      ? changeSets.filter((set) => hasVersion(set) && Object.keys(set.payload).length > 0)
      : [];
  }

  /** Does nothing change in this row that its version covers? */
  isUncovered(changeSet: AnyChangeSet): boolean {
    return this.uncovered.has(changeSet.entity) && changesOnlyUncovered(this.#driver, changeSet);
  }

  /**
   * Rows of one table that go into two statements are locked in key order before the first: between the two of them,
   * flushes would wait for each other.
   */
  async lockAll(changeSets: readonly AnyChangeSet[], options: PersistOptions): Promise<void> {
    const rows = changeSets.filter((set) => ownVersionOf(set.meta)).map(lockedRow);
    if (rows.length > 1 && dialectOf(this.#driver.getPlatform())?.locksRows) {
      await currentVersions(this.#driver, rows, options, 'no key update');
    }
  }

  /** Updates rows of one table together. Returns what the database computed, by column. */
  async writeBatch(
    changeSets: AnyChangeSet[],
    batched: boolean,
    options: PersistOptions,
  ): Promise<Map<AnyChangeSet, Dictionary>> {
    const size = batched ? rowsPerUpdate(this.#driver, changeSets) : 1;
    const returned = new Map<AnyChangeSet, Dictionary>();
    const isElsewhere = !ownVersionOf(changeSets[0]!.meta);
    const isUncovered = isElsewhere || this.isUncovered(changeSets[0]!);
    if (!isUncovered) {
      await compareBefore(this.#driver, changeSets, 'update', options.ctx);
    }
    for (let i = 0; i < changeSets.length; i += size) {
      // checked again: listeners may have touched the version during the flush
      const chunk = changeSets.slice(i, i + size);
      const checked = isUncovered ? undefined : chunk.map((set) => checkedRow(set, 'update'));
      const rows: readonly VersionedRow[] = checked ?? chunk.map(uncoveredRow);
      if (checked) {
        await refuseExhausted(this.#driver, checked, options);
      }
      const result = await updateRows(this.#driver, rows, options, this.#sending.alone);
      if (result.affectedRows !== rows.length) {
        if (isElsewhere) {
          throw await this.#keptBack(rows, options);
        }
        throw this.#sending.alone
          ? await describeAlone(this.#driver, rows, 'update', options)
          : await describeBatch(this.#driver, rows, 'update', options, result.affectedRows);
      }
      await this.#matchReturned(rows, result.rows ?? [], returned, options);
      if (checked) {
        await compareAfter(this.#driver, checked, 'update', options);
        this.#written(checked);
      }
    }
    return returned;
  }

  /** Updates a row as MikroORM would, where it still has its version. Returns what the database computed, by column. */
  async writeOne(
    changeSet: AnyChangeSet,
    addConditions: (where: Dictionary) => void,
    options: PersistOptions,
  ): Promise<Dictionary | undefined> {
    const isElsewhere = !ownVersionOf(changeSet.meta);
    if (isElsewhere || this.isUncovered(changeSet)) {
      const row = uncoveredRow(changeSet);
      const result = await updateRow(this.#driver, row, false, addConditions, options);
      if (result.affectedRows !== 1) {
        throw isElsewhere ? this.#stale([row], options) : await describeOne(this.#driver, row, 'update', options);
      }
      return result.row;
    }
    const row = checkedRow(changeSet, 'update');
    const hasMoved = this.#moved.has(changeSet.entity);
    if (!hasMoved || isGuarded(changeSet.meta)) {
      await refuseExhausted(this.#driver, [row], options);
    }
    await compareBefore(this.#driver, [changeSet], 'update', options.ctx);
    const result = await updateRow(this.#driver, row, hasMoved, addConditions, options);
    if (result.affectedRows !== 1) {
      throw await describeOne(this.#driver, row, 'update', options);
    }
    if (!hasMoved) {
      await compareAfter(this.#driver, [row], 'update', options);
    }
    this.#written([row]);
    return result.row;
  }

  /** Some rows were kept back in a table that has no version to tell which: each is written again, to be rolled back. */
  async #keptBack(rows: readonly VersionedRow[], options: PersistOptions): Promise<StaleRows> {
    const kept: VersionedRow[] = [];
    for (const row of rows) {
      const { affectedRows } = await updateRows(this.#driver, [row], options, false);
      if (affectedRows !== 1) {
        kept.push(row);
      }
    }
    return this.#stale(kept.length > 0 ? kept : rows, options);
  }

  /** Rows of a table without the version, as rows of the one that has it, with what was expected there. */
  #stale(rows: readonly VersionedRow[], options: PersistOptions): StaleRows {
    const inVersionTable = rows.map(({ changeSet }): VersionedRow => {
      const { entity, originalEntity } = changeSet;
      const set = new ChangeSet(entity, ChangeSetType.UPDATE, {}, versionTable(metaOf(this.#driver, entity)));
      set.originalEntity = originalEntity;
      if (this.isUncovered(changeSet)) {
        return uncoveredRow(set);
      }
      const moved = this.#moved.get(entity);
      return moved === undefined ? checkedRow(set, 'update') : { kind: 'checked', changeSet: set, expected: moved - 1 };
    });
    return new StaleRows(inVersionTable, 'update', options);
  }

  /** The rows were written: the entities have the new version, until the flush fails after all. */
  #written(rows: readonly CheckedRow[]): void {
    const isMoving = ({ changeSet }: CheckedRow) => !this.#moved.has(changeSet.entity) || isGuarded(changeSet.meta);
    const moving = this.#moved.size > 0 ? rows.filter(isMoving) : rows;
    for (const { changeSet, expected } of moving) {
      const { entity, meta } = changeSet;
      if (this.#isInside) {
        wrote(entity, expected, expected + 1);
      }
      const version = versionOf(meta)!;
      // one that was assigned while the statement was on its way is compared by the next flush
      if ((entity as Record<string, unknown>)[version.name] === expected) {
        this.#move(entity, version, expected + 1);
      } else {
        this.#moved.set(entity, expected + 1);
      }
    }
    this.#undo.moved(
      this.#inserted.size > 0 ? moving.filter((row) => !this.#inserted.has(row.changeSet.entity)) : moving,
    );
  }

  /** Finds the change sets of returned rows, which have the columns of the key. */
  async #matchReturned(
    rows: readonly VersionedRow[],
    found: Dictionary[],
    returned: Map<AnyChangeSet, Dictionary>,
    options: PersistOptions,
  ): Promise<void> {
    const { meta } = rows[0]!.changeSet;
    const platform = this.#driver.getPlatform();
    const keyIn = (row: Dictionary) => keyHashIn(row, meta, platform);
    const byKey = new Map(found.map((row) => [keyIn(this.#driver.mapResult(row, meta)!), row]));
    const rest: AnyChangeSet[] = [];
    for (const { changeSet } of found.length > 0 ? rows : []) {
      const row =
        byKey.get(helper(changeSet.entity).getSerializedPrimaryKey()) ??
        byKey.get(keyHash(keyValues(changeSet), platform));
      if (row) {
        returned.set(changeSet, row);
      } else {
        rest.push(changeSet);
      }
    }
    // spelled otherwise, or converted: the database knows whose they are
    const find = rest.length > 0 ? await findRows(this.#driver, meta, rest, [], options) : undefined;
    for (const changeSet of rest) {
      const known = find!(changeSet);
      const row = known && byKey.get(keyIn(known));
      if (row) {
        returned.set(changeSet, row);
      }
    }
  }

  #move(entity: object, { name }: EntityProperty, version: number): void {
    this.#moved.set(entity, version);
    (entity as Record<string, unknown>)[name] = version;
  }

  /** The version of the row that this flush has written. */
  movedTo(entity: object): number | undefined {
    return this.#moved.get(entity);
  }
}
