/** What `touch()` and `verify()` ask of an entity before they take it. */
import { type EntityClass, type EntityMetadata, type UnitOfWork, helper } from '@mikro-orm/core';
import { type Operation, Refusal, VersionNotLoaded } from './concurrent-update.ts';
import { versionOf } from './version-field.ts';

/** An entity that is managed, and whose version is known. */
interface Managed {
  readonly uow: UnitOfWork;
  /** The name of the property. */
  readonly version: string;
  /** What its changes are compared with. */
  readonly snapshot: object;
}

/**
 * @param done what happens to it, for the message
 * @param operation what its version would be taken for
 * @param way out for one that is not managed
 */
export function managed(entity: object, done: string, operation: Operation, way: string): Managed {
  const wrapped = helper(entity);
  const em = wrapped?.__em;
  const snapshot: object | undefined = wrapped?.__originalEntityData;
  if (!em || !snapshot || !wrapped.__managed) {
    const name = wrapped?.__meta.className ?? entity.constructor.name;
    throw new Refusal(`${name} cannot be ${done}, because it is not managed. ${way}`, entity);
  }
  // what stands on the entity may be the metadata of another ORM in this process
  const meta = em.getMetadata().get(entity.constructor as EntityClass<object>) as unknown as EntityMetadata;
  const { className } = meta;
  const version = versionOf(meta)?.name;
  if (!version) {
    throw new Refusal(`${className} cannot be ${done}, because it has no VersionField. Add one.`, entity);
  }
  if ((entity as Record<string, unknown>)[version] == null) {
    throw new VersionNotLoaded(entity, className, version, operation);
  }
  return { uow: em.getUnitOfWork(false), version, snapshot };
}
