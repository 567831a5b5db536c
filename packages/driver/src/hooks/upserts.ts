/**
 * What an upsert hands back when it may have written nothing, because it ignores a row that exists or has a condition on
 * it: MikroORM leaves the values that were given in the entity, and of the row itself has the version or nothing.
 */
import { type Dictionary, type EntityManager, type EntityMetadata, FlushMode, Utils, helper } from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import type { Layer } from '../mikro-orm/layers.ts';
import { mayWriteNothing, withOutcome } from '../set-based/upserts.ts';
import { isDirty, isKnown } from './entity-factory.ts';

interface Upserting {
  upsert(entityName: unknown, data?: unknown, options?: Dictionary): Promise<object | object[]>;
  upsertMany(entityName: unknown, data?: unknown, options?: Dictionary): Promise<object | object[]>;
}

/** `em.upsert()` and `em.upsertMany()`: what was not written is read. */
export const upserting: Layer<Upserting> = (Base) =>
  class extends Base {
    override upsert(entityName: unknown, data?: unknown, options: Dictionary = {}): Promise<object | object[]> {
      const upsert = (more: Dictionary) => super.upsert(entityName, data, more);
      return reading(this as unknown as EntityManager, options, upsert);
    }

    override upsertMany(entityName: unknown, data?: unknown, options: Dictionary = {}): Promise<object | object[]> {
      const upsert = (more: Dictionary) => super.upsertMany(entityName, data, more);
      return reading(this as unknown as EntityManager, options, upsert);
    }
  };

async function reading(
  em: EntityManager,
  options: Dictionary,
  upsert: (options: Dictionary) => Promise<object | object[]>,
): Promise<object | object[]> {
  if (!mayWriteNothing(options)) {
    return upsert(options);
  }
  const { asking, outcome } = withOutcome(options);
  const upserted = await upsert(asking);
  if (outcome.isUnwritten) {
    await readBack(em.getContext(false) as EntityManager, Utils.asArray(upserted), options);
  }
  return upserted;
}

/** Reads the rows of these entities. One that is not found has no version any more, so that nothing is written over it. */
async function readBack(em: EntityManager, upserted: object[], options: Dictionary): Promise<void> {
  const first = upserted[0]!;
  const meta: EntityMetadata = metaOf(em, first);
  const version = versionOf(meta)?.name;
  // those that were managed before are assigned to by MikroORM, and not sent
  const entities = (upserted as Dictionary[]).filter((entity) => !isDirty(em, entity));
  if (!version || entities.length === 0) {
    return;
  }
  for (const entity of entities) {
    entity[version] = undefined;
    restoreSnapshot(entity, { ...(snapshotOf(entity) as Dictionary), [version]: undefined });
  }
  const lazy = meta.props.filter((prop) => prop.lazy && entities.some((entity) => isKnown(entity, prop)));
  const keys = entities.map((entity) => helper(entity).getPrimaryKey());
  await em.find(
    meta.class,
    { [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: keys } } as never,
    {
      refresh: true,
      filters: false,
      connectionType: 'write',
      cache: false,
      flushMode: FlushMode.COMMIT,
      populate: lazy.map((prop) => prop.name) as never,
      schema: options.schema,
      // MikroORM takes an `undefined` for one that is given
      ...(options.ctx && { ctx: options.ctx }),
    } as never,
  );
}
