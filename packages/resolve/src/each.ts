/**
 * Rows that are independent of each other, an edit-many screen or an import: who is not stale is saved, who is stale is named.
 *
 *   const { saved, conflicts } = await flushEach(em);
 *
 * Stale rows are looked for by one SELECT per class and sat out; the flush checks all others, so a row that becomes stale
 * in between is found by the flush, which then is done again without it.
 */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  FlushMode,
  Reference,
  Utils,
  helper,
} from '@mikro-orm/core';
import { type Conflict, ConcurrentUpdate, Refusal, type VersionField, isTouched, versionOf } from '@mikro-ool/core';

/** What became of the changed rows. */
export interface FlushedEach {
  /** The entities whose changes are committed. */
  readonly saved: readonly object[];
  /** The stale rows; their entities are as they were, unsaved. */
  readonly conflicts: readonly Conflict[];
}

/**
 * Commits the changes of all rows that are not stale, in one flush. The others stay as they are, unsaved, and are named.
 *
 * @param em the EntityManager with the unsaved changes; they are updates of rows with a version, and nothing else
 * @returns the entities that were saved, and the conflicts
 * @throws {ValidationError} before any SQL: in an open transaction, for new and removed entities, changed collections, and
 *   changed entities without a version, of which some would be written without the others
 * @throws {ConcurrentUpdate} when the database itself aborted the transaction, and when a verified row is not what it was;
 *   nothing is saved then
 * @see RFC 4918, 207 Multi-Status
 */
export async function flushEach(em: EntityManager): Promise<FlushedEach> {
  const context = em.getContext();
  const changed = changedRows(context);
  const left = new Set(changed);
  const conflicts: Conflict[] = [];
  const sitOut = (stale: readonly Conflict[]) => {
    conflicts.push(...stale);
    stale.forEach(({ entity }) => left.delete(entity));
  };
  for (const rows of groupByClass(context, changed).values()) {
    sitOut(await findStale(context, rows));
  }
  while (left.size > 0) {
    const stale = await flushWithout(context, new Set(conflicts.map(({ entity }) => entity)));
    if (stale.length === 0) {
      break;
    }
    sitOut(stale);
  }
  return { saved: [...left], conflicts };
}

/** Flushes as if these had not changed. Returns what turned out to be stale. */
async function flushWithout(em: EntityManager, losers: ReadonlySet<object>): Promise<readonly Conflict[]> {
  const snapshots = [...losers].map((entity) => [helper(entity), helper(entity).__originalEntityData] as const);
  for (const entity of losers) {
    helper(entity).__originalEntityData = em.getComparator().prepareEntity(entity) as never;
  }
  try {
    await em.flush();
    return [];
  } catch (error) {
    const isOfRows = error instanceof ConcurrentUpdate && error.conflicts.length > 0;
    if (!isOfRows || error.conflicts.some(({ entity, operation }) => operation === 'check' || losers.has(entity))) {
      throw error;
    }
    return error.conflicts;
  } finally {
    snapshots.forEach(([wrapped, snapshot]) => (wrapped.__originalEntityData = snapshot));
  }
}

/** The rows that an update would be sent for, when nothing else would be sent. */
function changedRows(em: EntityManager): object[] {
  const uow = em.getUnitOfWork();
  if (em.isInTransaction()) {
    throw new Refusal('flushEach() was called in an open transaction, where it cannot commit. Call it outside of it.');
  }
  for (const entity of [...uow.getRemoveStack(), ...uow.getOrphanRemoveStack()] as object[]) {
    refuse(entity, 'is to be removed');
  }
  for (const entity of uow.getPersistStack() as ReadonlySet<object>) {
    if (!helper(entity).__originalEntityData) {
      refuse(entity, 'is new');
    }
  }
  const changed: object[] = [];
  for (const entity of uow.getIdentityMap() as Iterable<Dictionary>) {
    const meta = metaOf(em, entity);
    meta.relations.forEach(({ name }) => refuseRelation(entity, name));
    if (Object.keys(changesOf(em, entity)).length > 0) {
      changed.push(versionOf(meta) ? entity : refuse(entity, 'has changed and has no VersionField'));
    }
  }
  return changed;
}

function refuseRelation(entity: Dictionary, name: string): void {
  const value: unknown = entity[name];
  if (Utils.isCollection(value)) {
    if (value.isDirty()) {
      refuse(entity, `has changes in its collection ${name}`);
    }
  } else if (Utils.isEntity<object>(value, true)) {
    const target = Reference.unwrapReference(value);
    if (helper(target).__initialized && !helper(target).__managed) {
      refuse(target, 'is new');
    }
  }
}

function refuse(entity: object, what: string): never {
  throw new Refusal(
    `${helper(entity).__meta.className} ${what}, and flushEach() saves changed rows with a version only, each ` +
      `independent of the others; nothing was sent to the database. Use em.flush(), or flush that apart from the rest.`,
    entity,
  );
}

/** What stands on the entity may be the metadata of another ORM in this process. */
function metaOf(em: EntityManager, entity: object): EntityMetadata {
  return em.getMetadata().get(entity.constructor as never) as unknown as EntityMetadata;
}

function changesOf(em: EntityManager, entity: object): Dictionary {
  const snapshot = helper(entity).__originalEntityData;
  const comparator = em.getComparator();
  const diff = (own: Dictionary): Dictionary =>
    comparator.diffEntities(entity.constructor as never, snapshot as never, own as never);
  return snapshot ? diff(comparator.prepareEntity(entity)) : {};
}

function groupByClass(em: EntityManager, entities: readonly object[]): Map<EntityMetadata, Dictionary[]> {
  return Map.groupBy(entities as Dictionary[], (entity) => metaOf(em, entity).root as unknown as EntityMetadata);
}

/** Reads the versions: not on a replica, not in a cache, not hidden by a filter. A row that is not found is for the flush. */
async function findStale(em: EntityManager, entities: readonly Dictionary[]): Promise<readonly Conflict[]> {
  const meta = metaOf(em, entities[0]!).root as unknown as EntityMetadata;
  const version = versionOf(metaOf(em, entities[0]!))!;
  // what the version does not cover is not checked; and what a child class has alone, its root cannot be asked for
  if ((version.customType as VersionField).exclude?.length || !versionOf(meta)) {
    return [];
  }
  const current = { filters: false, connectionType: 'write', cache: false, flushMode: FlushMode.COMMIT } as const;
  const keys = entities.map((entity) => helper(entity).getPrimaryKeys());
  const where = {
    [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: keys.map((key) => (key!.length > 1 ? key : key![0])) },
  };
  const schema = helper(entities[0]!).__schema;
  const options = { ...current, schema, fields: [...meta.primaryKeys, version.name] } as never;
  const found = (await em.fork().find(meta.class, where as never, options)) as Dictionary[];
  const keyOf = (entity: object) => String(helper(entity).getSerializedPrimaryKey());
  const actual = new Map(found.map((row) => [keyOf(row), row[version.name] as number]));
  const stale = entities.filter(
    (entity) => (actual.get(keyOf(entity)) ?? entity[version.name]) !== entity[version.name],
  );
  const conflicts = stale.map((entity): Conflict => {
    const isClaim = Object.keys(changesOf(em, entity)).every((name) => name === version.name);
    const isCheck = isClaim && !isTouched(helper(entity).__originalEntityData, version.name);
    return {
      entity,
      entityName: metaOf(em, entity).className,
      primaryKey: helper(entity).getPrimaryKey(),
      operation: isCheck ? 'check' : 'update',
      expected: entity[version.name] as number,
      actual: actual.get(keyOf(entity))!,
    };
  });
  // its conflicts neither print nor serialise their entities
  return new ConcurrentUpdate(conflicts).conflicts;
}
