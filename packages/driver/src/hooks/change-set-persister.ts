/** What is written, handed to the flush just before MikroORM would write it: its persister passes keys and payloads only. */
import { ChangeSetType, type Dictionary, type EntityManager, isRaw } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versionOf } from '@mikro-ool/core';
import { findRows } from '../flush/conflicts.ts';
import type { Flush } from '../flush/flush.ts';
import { assign } from '../memory/entity-state.ts';
import type { AnyChangeSet, PersistOptions } from '../mikro-orm/entity.ts';
import { stateOf } from '../mikro-orm/flush-state.ts';
import type { Layer } from '../mikro-orm/layers.ts';

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

/** Hands to the flush what the persister is about to write. */
export const persisting: Layer<PersisterMethods> = (Base) =>
  class extends Base {
    /** Without RETURNING, MikroORM reads back what the database computed, and the version, which we know. */
    override async reloadVersionValues(
      meta: AnyChangeSet['meta'],
      sets: AnyChangeSet[],
      options?: PersistOptions,
    ): Promise<void> {
      const version = versionOf(meta);
      if (!version) {
        return super.reloadVersionValues(meta, sets, options);
      }
      const rest = await readBack(stateOf(this).em, meta, sets, this.prepareOptions(meta, options));
      if (rest.length > 0) {
        const withoutVersion = Object.create(meta, { ownsVersionProperty: { value: () => false } });
        await keepingVersions(version.name, rest, () => super.reloadVersionValues(withoutVersion, rest, options));
      }
    }

    /** em.insert() and em.insertMany() with entities come here too, without a flush. */
    override async executeInserts(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void> {
      const { em, flush, begin } = stateOf(this);
      if (!withSchema) {
        withOwnMetadata(em, sets);
        (flush ?? begin()).updates.inserting(sets);
      }
      await super.executeInserts(sets, options, withSchema);
      flush?.sent();
    }

    override async executeUpdates(
      sets: AnyChangeSet[],
      batched: boolean,
      options?: PersistOptions,
      withSchema?: boolean,
    ): Promise<void> {
      const { flush } = stateOf(this);
      if (!flush || !withSchema) {
        const before = flush?.isVersioned ? flush.updates.versionsBefore(sets) : [];
        if (before.length > 0) {
          await this.executeUpdates(before, false, options);
        }
        return super.executeUpdates(sets, batched, options, withSchema);
      }
      const isConcerned = flush.isVersioned || sets.some(hasVersion);
      const { plain, ...versioned } = isConcerned ? flush.updates.divide(sets) : { plain: sets };
      if (plain.length > 0) {
        await super.executeUpdates(plain, batched, options, true);
      }
      if ('batch' in versioned) {
        await writeVersioned(this, flush, sets, versioned, batched, options);
      }
      flush.sent();
    }

    /** The persister passes keys only, and the check needs to know whose they are. */
    override async executeDeletes(sets: AnyChangeSet[], options?: PersistOptions, withSchema?: boolean): Promise<void> {
      const { flush } = stateOf(this);
      if (!flush || !withSchema) {
        await flush?.deletes.checkBefore(sets, options?.ctx);
        return super.executeDeletes(sets, options, withSchema);
      }
      const checked = sets.filter(hasVersion);
      const rest = checked.length > 0 ? sets.filter((set) => !hasVersion(set)) : sets;
      if (rest.length > 0) {
        await super.executeDeletes(rest, options, withSchema);
      }
      if (checked.length > 0) {
        await flush.deletes.write(checked, this.prepareOptions(checked[0]!.meta, options));
      }
      flush.sent();
    }
  };

/** Rows of one table: those that go into one statement, those that do not, and each of these that the version does not cover. */
async function writeVersioned(
  persister: PersisterMethods,
  flush: Flush,
  sets: AnyChangeSet[],
  { batch, single, uncoveredBatch, uncoveredSingle }: Omit<ReturnType<Flush['updates']['divide']>, 'plain'>,
  batched: boolean,
  options?: PersistOptions,
): Promise<void> {
  const inOneTable = [batch, single, uncoveredBatch, uncoveredSingle].filter((some) => some.length > 0);
  if (inOneTable.length > 1 && uncoveredBatch.length + uncoveredSingle.length > 0) {
    const { meta } = sets[0]!;
    await flush.updates.lockAll(sets, persister.prepareOptions(meta, options));
  }
  for (const together of [batch, uncoveredBatch].filter((some) => some.length > 0)) {
    await writeBatch(persister, flush, together, batched, options);
  }
  for (const changeSet of [...single, ...uncoveredSingle]) {
    await writeOne(persister, flush, changeSet, options);
  }
}

function hasVersion({ meta }: AnyChangeSet): boolean {
  return versionOf(meta) !== undefined;
}

/**
 * Reads back what the database computed in changed rows: MikroORM finds them by the text of their keys, and fails where the
 * database spells one otherwise. Returns those that are left to MikroORM: new rows, and those whose key changes.
 */
async function readBack(
  em: EntityManager,
  meta: AnyChangeSet['meta'],
  written: AnyChangeSet[],
  options: PersistOptions,
): Promise<AnyChangeSet[]> {
  const driver = em.getDriver() as AbstractSqlDriver;
  if (driver.getPlatform().usesReturningStatement()) {
    return written[0]!.type === ChangeSetType.CREATE ? written : [];
  }
  const sets = written.map(asUpdate);
  const generated = meta.props.filter((prop) => prop.generated && !prop.primary).map((prop) => prop.name as string);
  if (generated.length === 0) {
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

/** MikroORM reads nothing back for what it writes early; as a root of an aggregate, any row may be. */
function asUpdate(set: AnyChangeSet): AnyChangeSet {
  return set.type === ChangeSetType.UPDATE_EARLY ? Object.create(set, { type: { value: ChangeSetType.UPDATE } }) : set;
}

/**
 * The version comes along with whatever is read. That of a changed row we know, and where only columns changed that it does
 * not cover, what else is in memory may be older than the row.
 */
async function keepingVersions(version: string, sets: AnyChangeSet[], read: () => Promise<void>): Promise<void> {
  const changed = sets.filter(({ type }) => type !== ChangeSetType.CREATE);
  const kept = changed.flatMap(({ entity, payload }) =>
    [entity as Dictionary, payload as Dictionary].map((object) => ({ object, value: object[version] as unknown })),
  );
  await read();
  for (const { object, value } of kept) {
    assign(object, version, value);
  }
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
  let known: AnyChangeSet['meta'] | undefined;
  for (const changeSet of sets) {
    // most of them are of one class
    known = known?.class === changeSet.meta.class ? known : metadata.get(changeSet.meta.class);
    changeSet.meta = known;
    changeSet.rootMeta = known.root;
    if (changeSet.tptChangeSets) {
      withOwnMetadata(em, changeSet.tptChangeSets);
    }
  }
}
