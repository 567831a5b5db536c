/** What is written, handed to the flush just before MikroORM would write it: its persister passes keys and payloads only. */
import { ChangeSetType, type Dictionary, type EntityManager, isRaw } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { findRows } from '../flush/conflicts.ts';
import type { Flush } from '../flush/flush.ts';
import type { AnyChangeSet, PersistOptions } from './entity.ts';
import type { FlushState } from './flush-state.ts';

/** The parts of the persister that are overridden or called; private in MikroORM's types. */
export interface PersisterMethods {
  executeInserts(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeUpdates(sets: AnyChangeSet[], batched: boolean, options?: PersistOptions, withSchema?: boolean): Promise<void>;
  executeDeletes(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void>;
  prepareOptions(meta: AnyChangeSet['meta'], options?: PersistOptions, more?: PersistOptions): PersistOptions;
  processProperties(changeSet: AnyChangeSet): void;
  checkConcurrencyKeys(meta: AnyChangeSet['meta'], changeSet: AnyChangeSet, where: Dictionary): void;
  mapReturnedValues(entity: object, payload: object, row: Dictionary, meta: AnyChangeSet['meta']): void;
  reloadVersionValues(meta: AnyChangeSet['meta'], sets: AnyChangeSet[], options?: PersistOptions): Promise<void>;
}

/** Hooks the persister of an EntityManager. */
export function hookPersister(
  em: EntityManager,
  persister: PersisterMethods,
  state: FlushState,
  begin: () => Flush,
): void {
  const { executeInserts, executeUpdates, executeDeletes, reloadVersionValues } = persister;
  // Without RETURNING, MikroORM reads back what the database computed, and the version, which we know.
  persister.reloadVersionValues = async (meta, sets, options) => {
    if (!versionOf(meta)) {
      return reloadVersionValues.call(persister, meta, sets, options);
    }
    const rest = await readBack(em, meta, sets, persister.prepareOptions(meta, options));
    if (rest.length > 0) {
      const withoutVersion = Object.create(meta, { ownsVersionProperty: { value: () => false } });
      await reloadVersionValues.call(persister, withoutVersion, rest, options);
    }
  };
  // em.insert() and em.insertMany() with entities come here too, without a flush.
  persister.executeInserts = async (sets, options, withSchema) => {
    if (!withSchema) {
      withOwnMetadata(em, sets);
      (state.flush ?? begin()).updates.inserting(sets);
    }
    await executeInserts.call(persister, sets, options, withSchema);
    state.flush?.sent();
  };
  persister.executeUpdates = async (sets, batched, options, withSchema) => {
    const { flush } = state;
    if (!flush || !withSchema) {
      const before = flush?.updates.before(sets) ?? [];
      if (before.length > 0) {
        await persister.executeUpdates(before, false, options);
      }
      return executeUpdates.call(persister, sets, batched, options, withSchema);
    }
    if (!sets.some(isVersioned)) {
      await executeUpdates.call(persister, sets, batched, options, true);
      flush.sent();
      return;
    }
    const { batch, single, plain, uncountedBatch, uncountedSingle } = flush.updates.divide(sets);
    if (plain.length > 0) {
      await executeUpdates.call(persister, plain, batched, options, true);
    }
    const inOneTable = [batch, single, uncountedBatch, uncountedSingle].filter((some) => some.length > 0);
    if (inOneTable.length > 1 && uncountedBatch.length + uncountedSingle.length > 0) {
      const { meta } = sets[0]!;
      await flush.updates.lockAll(sets, persister.prepareOptions(meta, options));
    }
    for (const together of [batch, uncountedBatch].filter((some) => some.length > 0)) {
      await writeBatch(persister, flush, together, batched, options);
    }
    for (const changeSet of [...single, ...uncountedSingle]) {
      await writeOne(persister, flush, changeSet, options);
    }
    flush.sent();
  };
  // The persister passes keys only, and the check needs to know whose they are.
  persister.executeDeletes = async (sets, options, withSchema) => {
    const { flush } = state;
    if (!flush || !withSchema) {
      await flush?.deletes.before(sets, options?.ctx);
      return executeDeletes.call(persister, sets, options, withSchema);
    }
    const checked = sets.filter(isVersioned);
    const rest = checked.length > 0 ? sets.filter((set) => !isVersioned(set)) : sets;
    if (rest.length > 0) {
      await executeDeletes.call(persister, rest, options, withSchema);
    }
    if (checked.length > 0) {
      await flush.deletes.write(checked, persister.prepareOptions(checked[0]!.meta, options));
    }
    flush.sent();
  };
}

function isVersioned({ meta }: AnyChangeSet): boolean {
  return versionOf(meta) !== undefined;
}

/**
 * Reads back what the database computed in changed rows: MikroORM finds them by the text of their keys, and fails where the
 * database spells one otherwise. Returns those that are left to MikroORM: new rows, and those whose key changes.
 */
async function readBack(
  em: EntityManager,
  meta: AnyChangeSet['meta'],
  sets: AnyChangeSet[],
  options: PersistOptions,
): Promise<AnyChangeSet[]> {
  const driver = em.getDriver() as AbstractSqlDriver;
  const generated = meta.props.filter((prop) => prop.generated && !prop.primary).map((prop) => prop.name as string);
  if (driver.getPlatform().usesReturningStatement() || generated.length === 0) {
    return sets;
  }
  const hasOwnKey = ({ type, payload }: AnyChangeSet) =>
    type === ChangeSetType.UPDATE && !meta.primaryKeys.some((key) => key in payload);
  const isExpression = ({ payload }: AnyChangeSet) => Object.values(payload).some((value) => isRaw(value as object));
  const known = sets.filter((set) => hasOwnKey(set) && !isExpression(set));
  if (known.length > 0) {
    // a mixed batch of single-table inheritance shares one table
    const find = await findRows(driver, meta.root.discriminatorColumn ? meta.root : meta, known, generated, options);
    const hydrator = em.config.getHydrator(em.getMetadata());
    for (const set of known) {
      const found = find(set);
      const row = Object.fromEntries(
        generated.flatMap((name) => (found && name in found ? [[name, found[name]]] : [])),
      );
      hydrator.hydrate(set.entity, set.meta, row as never, em.getEntityFactory(), 'full', false, true);
      Object.assign(set.payload, row);
    }
  }
  return sets.filter((set) => !known.includes(set));
}

/** What MikroORM's own batch does around its statement. */
async function writeBatch(
  persister: PersisterMethods,
  flush: Flush,
  sets: AnyChangeSet[],
  batched: boolean,
  options?: PersistOptions,
): Promise<void> {
  const { meta } = sets[0]!;
  sets.forEach((set) => persister.processProperties(set));
  const returned = await flush.updates.writeBatch(sets, batched, persister.prepareOptions(meta, options));
  returned.forEach((row, set) => persister.mapReturnedValues(set.entity, set.payload, row, set.meta));
  await persister.reloadVersionValues(meta, sets, options);
  sets.forEach((set) => (set.persisted = true));
}

/** The same for one row. */
async function writeOne(
  persister: PersisterMethods,
  flush: Flush,
  set: AnyChangeSet,
  options?: PersistOptions,
): Promise<void> {
  const { entity, meta, payload } = set;
  persister.processProperties(set);
  const compared = (where: Dictionary) => persister.checkConcurrencyKeys(meta, set, where);
  const own = persister.prepareOptions(meta, options, { convertCustomTypes: false });
  const row = await flush.updates.writeOne(set, compared, own);
  if (row) {
    persister.mapReturnedValues(entity, payload, row, meta);
  }
  await persister.reloadVersionValues(meta, [set], options);
  set.persisted = true;
}

/** @see metaOf; change sets of removed and of inherited classes take what stands on the entity. */
export function withOwnMetadata(em: EntityManager, sets: Iterable<AnyChangeSet>): void {
  const metadata = em.getMetadata();
  for (const changeSet of sets) {
    changeSet.meta = metadata.get(changeSet.meta.class);
    changeSet.rootMeta = changeSet.meta.root;
    if (changeSet.tptChangeSets) {
      withOwnMetadata(em, changeSet.tptChangeSets);
    }
  }
}
