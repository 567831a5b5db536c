/** From the form in which MikroORM compares values back to the values: what an entity had when a snapshot was taken. */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { isOfType } from '@mikro-ool/core';
import { metaOf, restoreSnapshot, snapshotOf } from '../mikro-orm/entity.ts';
import { factoryOf } from '../mikro-orm/flush-state.ts';

/** The columns in which an entity differs from a snapshot of it. */
export function changedSince(em: EntityManager, entity: object, snapshot: Dictionary): string[] {
  const comparator = em.getComparator();
  const now = comparator.prepareEntity(entity);
  return Object.keys(comparator.diffEntities(metaOf(em, entity).class, snapshot as never, now));
}

/**
 * Gives an entity the values of a snapshot again.
 *
 * @param stays columns that keep their value
 */
export function setBack(em: EntityManager, entity: Dictionary, snapshot: Dictionary, stays: ReadonlySet<string>): void {
  const meta = metaOf(em, entity);
  const now = em.getComparator().prepareEntity(entity) as Dictionary;
  const data: Dictionary = {};
  for (const key of changedSince(em, entity, snapshot)) {
    const prop = propOf(meta, key);
    // the snapshot of a reference does not have the name of the class
    if (stays.has(key) || key === meta.root.discriminatorColumn) {
      continue;
    }
    const root = rootOf(meta, prop);
    const columns = root === prop ? [prop] : columnsOf(meta, root);
    const values = columns.map(({ name }) => [name, stays.has(name) ? now[name] : snapshot[name]] as const);
    // what is missing would be left as it is, and what an object has more, too
    if (root.object || values.some(([, value]) => value === undefined)) {
      forget(entity, root.name);
    }
    for (const [i, [name, value]] of values.entries()) {
      data[name] = hydratable(em, columns[i]!, Utils.copy(value));
    }
  }
  if (Utils.hasObjectKeys(data)) {
    const hydrator = em.config.getHydrator(em.getMetadata());
    // a relation that is hydrated puts the primary key into what the entity is compared with, which may name it otherwise
    const known = snapshotOf(entity);
    restoreSnapshot(entity, undefined);
    hydrator.hydrate(entity, meta, data, factoryOf(em), 'full', false, true);
    restoreSnapshot(entity, known);
  }
}

/** Takes a value off an entity without telling what it was related to. */
export function forget(entity: Dictionary, name: string): void {
  delete (helper(entity).__data as Dictionary)[name];
  if (entity[name] !== undefined) {
    delete entity[name];
  }
}

export function propOf(meta: EntityMetadata, name: string): EntityProperty {
  return (meta.properties as Dictionary<EntityProperty>)[name]!;
}

/** The property of the entity itself that a column is a part of, when it is one of an embedded object. */
export function rootOf(meta: EntityMetadata, prop: EntityProperty): EntityProperty {
  return prop.embedded ? rootOf(meta, propOf(meta, prop.embedded[0])) : prop;
}

function columnsOf(meta: EntityMetadata, root: EntityProperty): EntityProperty[] {
  return meta.comparableProps
    .filter((prop) => prop.kind !== ReferenceKind.EMBEDDED || prop.object)
    .filter((prop) => rootOf(meta, prop) === root);
}

/** Where a driver returns JSON parsed, MikroORM hydrates it as it is; a snapshot has it as text. */
function hydratable(em: EntityManager, { customType }: EntityProperty, value: unknown): unknown {
  if (!customType || !isOfType(customType, 'json') || typeof value !== 'string') {
    return value;
  }
  const platform = em.getPlatform();
  const isParsed = customType.convertToJSValue(value, platform) === value;
  return isParsed ? customType.convertToJSValue(value, platform, { mode: 'hydration', force: true }) : value;
}
