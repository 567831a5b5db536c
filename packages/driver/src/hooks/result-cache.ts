/**
 * What the result cache may hold: rows as they are committed, for others would take them for that, with their version.
 * And a transaction does not read from a cache that it did not ask for, or running it again would never get beyond it.
 */
import type { EntityManager, EntityMetadata } from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { metaOf } from '../mikro-orm/entity.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { isDirty } from './entity-factory.ts';

/** Where a result is to be stored, and what is there now. */
interface Entry {
  readonly key?: string;
  readonly data?: unknown;
}

interface CacheMethods {
  tryCache(entityName: unknown, config: unknown, key: unknown, ...rest: unknown[]): Promise<Entry | undefined>;
  storeCache(config: unknown, entry: Entry | undefined, data: unknown): Promise<void>;
}

/** Of results that were not asked for from the cache, and are not put there. */
const notStored = new WeakSet<Entry>();

/**
 * How an EntityManager reads from the result cache, and stores there. Neither waits any longer than MikroORM's: queries that
 * are started at once are sent in the order of their waiting.
 */
export const caching: Layer<CacheMethods> = (Base) =>
  class extends Base {
    override tryCache(...args: Parameters<CacheMethods['tryCache']>): Promise<Entry | undefined> {
      const em = this as unknown as EntityManager;
      const [entityName, config, key] = args;
      const context = em.getContext(false) as EntityManager;
      const isOurs = context.isInTransaction() && mayHaveVersions(em, entityName, key);
      if (!isOurs) {
        return super.tryCache(...args);
      }
      return config === undefined ? notAsked() : super.tryCache(...args).then(notToStore);
    }

    override storeCache(config: unknown, entry: Entry | undefined, data: unknown): Promise<void> {
      const isLeft = entry && (notStored.has(entry) || hasUnsaved(this as unknown as EntityManager));
      return isLeft ? Promise.resolve() : super.storeCache(config, entry, data);
    }
  };

async function notAsked(): Promise<Entry | undefined> {
  return notToStore({});
}

function notToStore(entry: Entry | undefined): Entry | undefined {
  if (entry) {
    notStored.add(entry);
  }
  return entry;
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
