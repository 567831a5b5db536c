/** The other two sides of a merge, as entities of their own: what is compared are snapshots, what users see are values. */
import { type Dictionary, type EntityManager, FlushMode, LockMode, helper } from '@mikro-orm/core';
import { isOfType, readsSnapshots } from '@mikro-ool/core';
import type { Row } from './row.ts';

/** What mine was made to. */
export interface Base {
  /** MikroORM's; its version may be the mark of touch(). */
  readonly snapshot: Dictionary;
  readonly entity: Dictionary;
}

/**
 * Whoever reads a stale row wants what is there: not on a replica, not in a cache, not hidden by a filter, without a flush
 * before. Where a transaction reads from a snapshot, only a lock shows what a write would see; the flush writes the row.
 */
export function currentOptions(em: EntityManager) {
  const lockMode = em.isInTransaction() && readsSnapshots(em.getPlatform()) ? LockMode.PESSIMISTIC_WRITE : undefined;
  return { filters: false, connectionType: 'write', cache: false, flushMode: FlushMode.COMMIT, lockMode } as const;
}

/** Reads a reference, of which nothing is known: what is there goes around what was assigned, where init() would replace it. */
export async function initialize({ em, entity, meta }: Row): Promise<void> {
  const wrapped = helper(entity);
  if (!wrapped.__initialized) {
    const options = { ...currentOptions(em), schema: wrapped.__schema };
    await em.findOne(meta.class, wrapped.getPrimaryKey() as never, options);
  }
}

export function baseOf(row: Row): Base {
  const snapshot = helper(row.entity).__originalEntityData as Dictionary;
  return { snapshot, entity: entityOf(row, snapshot) };
}

/** The entity that a snapshot was taken of. */
export function entityOf({ em, entity, meta, version }: Row, snapshot: Dictionary): Dictionary {
  const data: Dictionary = { ...snapshot, ...(version && { [version]: undefined }) };
  const platform = em.getPlatform();
  for (const { name, customType } of platform.convertsJsonAutomatically() ? meta.comparableProps : []) {
    // it is text in a snapshot all the same
    if (customType && isOfType(customType, 'json') && data[name] != null) {
      data[name] = customType.convertToJSValue(data[name], platform, { mode: 'hydration', force: true });
    }
  }
  const options = { merge: true, refresh: true, convertCustomTypes: true, schema: helper(entity).__schema };
  return em
    .fork()
    .getEntityFactory()
    .create(meta.class, data as never, options as never);
}

/** What is in the database now, unless the row is gone. */
export async function readTheirs(row: Row, base: Base, reader: EntityManager): Promise<Dictionary | null> {
  const { em, entity, meta } = row;
  const lazy = meta.props.filter(({ name, lazy }) => lazy && (name in base.snapshot || entity[name] !== undefined));
  const populate = lazy.map(({ name }) => name) as never;
  const key = helper(base.entity).getPrimaryKey() as never;
  const options = { ...currentOptions(em), schema: helper(entity).__schema, populate };
  return reader.findOne(meta.class, key, options);
}

/** By its name in a snapshot. */
export function isLoaded({ entity }: Row, { snapshot }: Base, name: string): boolean {
  return name in snapshot || helper(entity).__loadedProperties.has(name);
}
