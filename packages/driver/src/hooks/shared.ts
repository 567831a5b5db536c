/**
 * Entities that several EntityManagers have, as that of a transaction has those of the one around it. What one of them is
 * writing MikroORM leaves out of the flush of another one, without a word: its changes would count as written.
 */
import { type Dictionary, type EntityManager, helper } from '@mikro-orm/core';
import { Refusal, versionOf } from '@mikro-ool/core';
import { collectionsOf } from '../memory/entity-state.ts';
import { type AnyChangeSet, metaOf, tablesOf } from '../mikro-orm/entity.ts';
import { type FlushState, flushesBeside } from '../mikro-orm/flush-state.ts';
import { isManyToMany, rawColumns, touchesOf, unsentOf } from './in-flight.ts';

/**
 * Refuses a flush that would leave out changes. (Waiting for the other flush is no way out: it may be waiting for a lock, or
 * for the connection, of the transaction that this one is in.)
 *
 * @throws {Refusal} when an entity with a version has changes that neither flush writes
 */
export function refuseLeftOut(state: FlushState): void {
  const others = flushesBeside(state);
  if (others.length === 0) {
    return;
  }
  const { em } = state;
  const elsewhere = writtenElsewhere(em);
  const written = elsewhere.length > 0 ? writersOf(others) : undefined;
  for (const entity of elsewhere) {
    const found = written!.get(entity);
    const left = found && leftOut(state, found.writer, found.set);
    if (left) {
      throw new Refusal(
        `${metaOf(em, entity).className} ${helper(entity).getSerializedPrimaryKey()} is being written by a flush of another ` +
          `EntityManager that has it too, like the one around a transaction; ${left} would be written by neither. Await ` +
          'that flush before this one; nothing was written by this one.',
        entity,
      );
    }
  }
}

/** Entities with a version that somebody is writing, and this flush is not. */
function writtenElsewhere(em: EntityManager): object[] {
  const uow = em.getUnitOfWork(false);
  const written: object[] = [];
  for (const entities of [uow.getIdentityMap(), uow.getPersistStack()]) {
    for (const entity of entities as Iterable<object>) {
      if (helper(entity).__processing && versionOf(metaOf(em, entity))) {
        written.push(entity);
      }
    }
  }
  // those of this flush, too
  const own = new Set<object>(written.length > 0 ? uow.getChangeSets().map(({ entity }) => entity) : []);
  return written.filter((entity) => !own.has(entity));
}

/** What flushes write, by entity. */
function writersOf(flushes: readonly FlushState[]): ReadonlyMap<object, { writer: FlushState; set: AnyChangeSet }> {
  const all = flushes.flatMap((writer) => {
    const sets = writer.em.getUnitOfWork(false).getChangeSets() as AnyChangeSet[];
    return sets.map((set) => [set.entity as object, { writer, set }] as const);
  });
  return new Map(all);
}

/** What is not in the flush that writes an entity. */
function leftOut({ em }: FlushState, writer: FlushState, set: AnyChangeSet): string | undefined {
  const { entity } = set;
  if (em.getUnitOfWork(false).getRemoveStack().has(entity)) {
    return set.type.startsWith('delete') ? undefined : 'its removal';
  }
  const names = [...unsentColumns(em, writer, set), ...unsentCollections(writer, entity)];
  if (names.length > 0) {
    return `its change of ${names.join(', ')}`;
  }
  if (touchesOf(entity)?.has(entity)) {
    return 'its touch()';
  }
  return isClaimed(em, writer, set) ? 'its version' : undefined;
}

function unsentColumns(em: EntityManager, writer: FlushState, set: AnyChangeSet): string[] {
  const now = em.getComparator().prepareEntity(set.entity) as Dictionary;
  const payload = Object.assign({}, ...tablesOf(set).map((one) => one.payload)) as Dictionary;
  // what the database fills in of a new row is not in what is sent
  const isSent = (name: string) => set.type !== 'create' || name in payload;
  return unsentOf(writer, { ...set, payload } as AnyChangeSet, now, rawColumns(set) ?? []).filter(isSent);
}

function unsentCollections(writer: FlushState, entity: object): string[] {
  const sent = new Set<unknown>(writer.em.getUnitOfWork(false).getCollectionUpdates());
  const dirty = collectionsOf(entity).filter((one) => isManyToMany(one) && one.isDirty() && !sent.has(one));
  return dirty.map(({ property }) => property.name);
}

/** Has a version been assigned that the flush knows nothing of? */
function isClaimed(
  em: EntityManager,
  { flush }: FlushState,
  { entity, originalEntity, payload }: AnyChangeSet,
): boolean {
  const { name } = versionOf(metaOf(em, entity))!;
  const version = (entity as Dictionary)[name] as unknown;
  const known = [originalEntity, payload].map((values) => (values as Dictionary | undefined)?.[name]);
  return originalEntity !== undefined && ![...known, flush?.updates.movedTo(entity)].includes(version);
}
