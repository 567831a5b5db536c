/**
 * What the result cache may hold: rows as they are committed, for others would take them for that, with their version.
 * And a transaction does not read from a cache that it did not ask for, or running it again would never get beyond it.
 */
import type { EntityManager, EntityMetadata } from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { isDirty } from './entity-factory.ts';
import { metaOf } from './entity.ts';

/** Where a result is to be stored, and what is there now. */
interface Entry {
  readonly key?: string;
  readonly data?: unknown;
}

interface CacheMethods {
  tryCache(entityName: unknown, config: unknown, key: unknown, ...rest: unknown[]): Promise<Entry | undefined>;
  storeCache(config: unknown, entry: Entry | undefined, data: unknown): Promise<void>;
}

/** Hooks how an EntityManager reads from the result cache, and stores there. */
export function hookResultCache(em: EntityManager): void {
  const cache = em as unknown as CacheMethods;
  const { tryCache, storeCache } = cache;
  const notStored = new WeakSet<Entry>();
  cache.tryCache = async (entityName, config, key, ...rest) => {
    const context = em.getContext(false) as EntityManager;
    if (!context.isInTransaction() || !mayHaveVersions(em, entityName, key)) {
      return tryCache.call(em, entityName, config, key, ...rest);
    }
    const entry = config === undefined ? {} : await tryCache.call(em, entityName, config, key, ...rest);
    if (entry) {
      notStored.add(entry);
    }
    return entry;
  };
  cache.storeCache = async (config, entry, data) => {
    if (entry && (notStored.has(entry) || hasUnsaved(em))) {
      return;
    }
    await storeCache.call(em, config, entry, data);
  };
}

/** Does the class have a version, or do the relations that are loaded along? */
function mayHaveVersions(em: EntityManager, entityName: unknown, key: unknown): boolean {
  const meta = em.getMetadata().find(entityName as never) as unknown as EntityMetadata | undefined;
  const options = (key as { populate?: unknown[] }[])[2];
  return Boolean(meta && versionOf(meta)) || Boolean(options?.populate?.length);
}

/** Would a result show unsaved changes of a row with a version? */
function hasUnsaved(em: EntityManager): boolean {
  const context = em.getContext(false) as EntityManager;
  const managed = [...context.getUnitOfWork(false).getIdentityMap()];
  return managed.some((entity) => versionOf(metaOf(context, entity)) && isDirty(context, entity));
}
