/**
 * The rows that a flush deletes, and what a cascade may take along: a row that is already gone is a conflict, unless an
 * earlier DELETE of this very flush has taken it, after it was found as expected.
 */
import { type EntityManager, type EntityMetadata, ReferenceKind, type Transaction, Utils } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { tableClasses, versionTable } from '../discovery.ts';
import type { AnyChangeSet, PersistOptions } from '../mikro-orm/entity.ts';
import { type CheckedRow, keyOf } from '../write/batch.ts';
import { deleteRow, deleteRows } from '../write/delete.ts';
import { specialTablesOf } from '../write/special-tables.ts';
import type { Sending } from './alone.ts';
import { cascades } from '../write/cascades.ts';
import { compare, compareAfter, compareBefore } from './checks.ts';
import {
  StaleRows,
  currentVersions,
  describeAlone,
  describeBatch,
  describeConflict,
  describeOne,
  findRows,
} from './conflicts.ts';
import { checkedRow } from './expected.ts';
import { areOneDelete, canBatch, rowsPerDelete } from '../write/one-statement.ts';

export class Deletes {
  readonly #em: EntityManager;
  readonly #driver: AbstractSqlDriver;
  readonly #sending: Sending;
  /** Rows with a version that are still to be deleted. */
  readonly #pending = new Set<AnyChangeSet>();
  /** Rows that were found as expected, and that a cascade may have deleted since. */
  readonly #cascaded = new Set<AnyChangeSet>();

  constructor(em: EntityManager, driver: AbstractSqlDriver, sending: Sending) {
    this.#em = em;
    this.#driver = driver;
    this.#sending = sending;
  }

  /** Rows with a version that the flush is going to delete. */
  willDelete(changeSets: readonly AnyChangeSet[]): void {
    changeSets.forEach((changeSet) => this.#pending.add(changeSet));
  }

  /** The primary keys of rows of this table that the flush is going to delete with a check of their version. */
  pendingKeys(meta: EntityMetadata): unknown[] {
    return [...this.#pending].filter((set) => set.meta.root === meta.root).map(keyOf);
  }

  /**
   * Checks what such deletes may take along: MikroORM deletes rows by a condition, too, orphans of collections that are
   * not loaded.
   */
  async checkBeforeOrphans(ctx: Transaction | undefined): Promise<void> {
    const collections = this.#em.getUnitOfWork(false).getCollectionUpdates();
    const classes = collections
      .filter((collection) => !collection.getSnapshot())
      .map((collection) => collection.property)
      .filter(({ kind, orphanRemoval }) => kind === ReferenceKind.ONE_TO_MANY && orphanRemoval)
      .map(({ targetMeta }) => targetMeta as EntityMetadata);
    for (const orphans of classes) {
      await this.#checkCascade((meta) => meta.root === orphans.root || cascades(this.#driver, orphans, meta), ctx);
    }
  }

  /** Rows of one class are about to be deleted: checks what a cascade may take along with them. */
  async checkBefore(changeSets: AnyChangeSet[], ctx: Transaction | undefined): Promise<void> {
    const [{ meta: from, schema }] = changeSets as [AnyChangeSet];
    const together =
      changeSets.length === 1 ||
      (changeSets.every((set) => versionOf(set.meta) && set.schema === schema) &&
        areOneDelete(this.#driver, changeSets));
    // one statement sees all of its rows before a cascade takes any
    if (together) {
      changeSets.forEach((changeSet) => this.#pending.delete(changeSet));
    }
    await this.#checkCascade((meta) => cascades(this.#driver, from, meta), ctx);
    changeSets.forEach((changeSet) => this.#pending.delete(changeSet));
  }

  /** Before rows of a class are deleted: those that a cascade may take along are looked at while they are there. */
  async #checkCascade(isReached: (meta: EntityMetadata) => boolean, ctx: Transaction | undefined): Promise<void> {
    const exposed = [...this.#pending].filter((set) => !this.#cascaded.has(set) && isReached(set.meta));
    const rows = exposed.map((changeSet) => checkedRow(changeSet, 'delete'));
    await compare(this.#driver, rows, 'delete', () => 'update', ctx);
    exposed.forEach((changeSet) => this.#cascaded.add(changeSet));
  }

  /** Deletes rows with a version, which are of one table. */
  async write(changeSets: AnyChangeSet[], options: PersistOptions): Promise<void> {
    await compareBefore(this.#driver, changeSets, 'delete', options.ctx);
    await this.#writeBelow(changeSets, options);
    const size = rowsPerDelete(this.#driver, changeSets);
    for (let i = 0; i < changeSets.length; i += size) {
      await this.#writeChunk(changeSets.slice(i, i + size), options);
    }
  }

  async #writeChunk(changeSets: AnyChangeSet[], options: PersistOptions): Promise<void> {
    const { meta } = changeSets[0]!;
    const rows = changeSets.map((changeSet) => checkedRow(changeSet, 'delete'));
    if (rows.length > 1 && canBatch(this.#driver, changeSets)) {
      await this.#writeTogether(rows, options);
    } else {
      for (const row of rows) {
        await this.#writeOne(row, options);
      }
    }
    await compareAfter(this.#driver, rows, 'delete', options);
    // Joined-table inheritance: the DELETE of the checked row comes first. One of the root with a subquery on the
    // version would wait for a rival's UPDATE of the other table only in its cascade, after the subquery had passed.
    if (versionTable(meta) !== meta.root) {
      const above = tableClasses(versionTable(meta)).slice(1);
      for (const table of above.filter((one) => !one.tptParent || this.#keepsRows(one))) {
        await this.#deleteIn(table, changeSets, options);
      }
    }
  }

  /**
   * Joined-table inheritance: a cascade takes the rows of tables below the one with the version, and nobody hears whether
   * something there keeps one back. So where something may, they are deleted first, of rows that nobody may change.
   */
  async #writeBelow(changeSets: AnyChangeSet[], options: PersistOptions): Promise<void> {
    const { meta } = changeSets[0]!;
    const tables = tableClasses(meta);
    const below = tables.slice(0, tables.indexOf(versionTable(meta))).filter((table) => this.#keepsRows(table));
    if (below.length > 0) {
      const rows = changeSets.map((changeSet) => checkedRow(changeSet, 'delete'));
      await compare(this.#driver, rows, 'delete', () => 'update', options.ctx);
    }
    for (const table of below) {
      await this.#deleteIn(table, changeSets, options);
    }
  }

  #keepsRows(table: EntityMetadata): boolean {
    return specialTablesOf(this.#driver).isSpecial(table);
  }

  /** Deletes the rows in a table that has not their version. Who is still there was kept back. */
  async #deleteIn(table: EntityMetadata, changeSets: AnyChangeSet[], options: PersistOptions): Promise<void> {
    const keys = { [Utils.getPrimaryKeyHash(table.primaryKeys)]: { $in: changeSets.map(keyOf) } };
    const { affectedRows } = await this.#driver.nativeDelete(table.class, keys as never, options);
    if (affectedRows === changeSets.length) {
      return;
    }
    const find = await findRows(this.#driver, table, changeSets, [], options);
    const kept = changeSets.filter((changeSet) => find(changeSet));
    if (kept.length > 0) {
      const rows = kept.map((changeSet) => checkedRow(changeSet, 'delete'));
      throw new StaleRows(rows, 'delete', options);
    }
  }

  async #writeTogether(rows: CheckedRow[], options: PersistOptions): Promise<void> {
    const left = await this.#withoutCascaded(rows, options);
    if (left.length === 0) {
      return;
    }
    const { meta } = left[0]!.changeSet;
    const affectedRows = await deleteRows(this.#driver, left, options, this.#sending.alone);
    if (affectedRows === 0 && this.#sending.alone) {
      throw await describeAlone(this.#driver, left, 'delete', options);
    }
    // all rows matched or none was deleted; those that the statement's own cascade took may not be counted
    if (affectedRows === 0 || (affectedRows !== left.length && !cascades(this.#driver, meta, meta))) {
      throw await describeBatch(this.#driver, left, 'delete', options, affectedRows);
    }
  }

  async #writeOne(row: CheckedRow, options: PersistOptions): Promise<void> {
    const affectedRows = await deleteRow(this.#driver, row, options, this.#sending.alone);
    if (affectedRows === 1) {
      return;
    }
    if (this.#sending.alone) {
      throw await describeAlone(this.#driver, [row], 'delete', options);
    }
    if (!this.#mayBeGone(row)) {
      throw await describeOne(this.#driver, row, 'delete', options);
    }
    const conflict = await describeConflict(this.#driver, [row], 'delete', options);
    if (conflict.conflicts[0]!.actual !== null) {
      throw conflict;
    }
  }

  /** The rows that are left to delete: what a cascade of this very flush has taken along is no conflict. */
  async #withoutCascaded(rows: CheckedRow[], options: PersistOptions): Promise<CheckedRow[]> {
    if (!rows.some((row) => this.#mayBeGone(row))) {
      return rows;
    }
    const actual = await currentVersions(this.#driver, rows, options);
    return rows.filter((row) => !this.#mayBeGone(row) || actual(row) !== null);
  }

  /** Was it found as expected before an earlier DELETE, whose cascade may have taken it along? */
  #mayBeGone({ changeSet }: CheckedRow): boolean {
    return this.#cascaded.has(changeSet);
  }
}
