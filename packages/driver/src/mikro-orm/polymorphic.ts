/**
 * Polymorphic relations, which a snapshot has as the class and the key of what they refer to. What MikroORM puts there when
 * it reads is another thing: the row that was joined, or the key alone where the other side of a 1:1 was read first. The next
 * flush would take that for a change, write it once more, and bump the version.
 */
import {
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  type MetadataStorage,
  PolymorphicRef,
  QueryHelper,
  Reference,
  ReferenceKind,
  Utils,
} from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { ofAllClasses } from './all-classes.ts';
import { isToOne, restoreSnapshot, snapshotOf } from './entity.ts';

interface Polymorphic {
  /** The relations that are columns of the class, … */
  readonly own: readonly EntityProperty[];
  /** … and those of which another class has the columns. */
  readonly inverse: readonly EntityProperty[];
}

/** Those of the classes that have any, next to a version. */
const polymorphicOf = ofAllClasses((metadata): ReadonlyMap<unknown, Polymorphic> => {
  const found = [...metadata].map((meta): [unknown, Polymorphic] => {
    const relations = meta.relations as EntityProperty[];
    const own = versionOf(meta) ? relations.filter((prop) => prop.polymorphic && isToOne(prop) && !prop.mappedBy) : [];
    const inverse = relations.filter(({ kind, mappedBy, targetMeta }) => {
      // what a relation has of the other class may be older than its version
      const target = kind === ReferenceKind.ONE_TO_ONE && mappedBy ? metadata.find(targetMeta!.class) : undefined;
      const owner = target?.properties[mappedBy as never] as EntityProperty | undefined;
      return owner?.polymorphic && versionOf(target as never);
    });
    return [meta.class, { own, inverse }];
  });
  return new Map(found.filter(([, { own, inverse }]) => own.length + inverse.length > 0));
});

/** Something was read into an entity: its snapshot, and those next to it, have what is compared with them. */
export function settlePolymorphic(em: EntityManager, entity: Dictionary): void {
  const all = polymorphicOf(em.getMetadata() as MetadataStorage);
  const found = all.size > 0 ? all.get(entity.constructor) : undefined;
  if (!found) {
    return;
  }
  settleOwn(em, entity, found.own);
  for (const { name } of found.inverse) {
    const other = Reference.unwrapReference(entity[name] as object) as Dictionary | undefined;
    const owner = other && Utils.isEntity(other) ? all.get(other.constructor) : undefined;
    if (owner) {
      settleOwn(em, other!, owner.own);
    }
  }
}

function settleOwn(em: EntityManager, entity: Dictionary, own: readonly EntityProperty[]): void {
  const snapshot = snapshotOf(entity) as Dictionary | undefined;
  const wrong = own.filter(({ name }) => snapshot?.[name] != null && !isRef(snapshot[name]));
  if (wrong.length === 0) {
    return;
  }
  const now = em.getComparator().prepareEntity(entity) as Dictionary;
  const right = wrong.map((prop) => [prop.name, refOf(em, prop, snapshot![prop.name], now[prop.name])] as const);
  restoreSnapshot(entity, { ...snapshot, ...Object.fromEntries(right) });
}

/** MikroORM may be there more than once, each with a class of its own. */
function isRef(value: unknown): value is PolymorphicRef {
  return typeof (value as PolymorphicRef).toTuple === 'function';
}

/** @param now what the entity refers to; a key alone was put there along with it */
function refOf(em: EntityManager, { discriminatorMap }: EntityProperty, read: unknown, now: unknown): unknown {
  const target = (read as object).constructor;
  const meta = typeof read === 'object' ? em.getMetadata().find(target as never) : undefined;
  if (!meta) {
    return now;
  }
  const discriminator = QueryHelper.findDiscriminatorValue(discriminatorMap as never, target as never)!;
  const key: unknown = Utils.getPrimaryKeyValues(read as never, meta as never, true);
  const isSame = isRef(now) && now.discriminator === discriminator && Utils.equals(now.id, key);
  return isSame ? now : new PolymorphicRef(discriminator, key);
}
