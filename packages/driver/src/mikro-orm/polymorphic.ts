/**
 * Polymorphic relations, which a snapshot has as the class and the key of what they refer to. What MikroORM puts there when
 * it reads is another thing: the row that was joined, or the key alone where the other side of a 1:1 was read first. The next
 * flush would take that for a change, write it once more, and bump the version.
 */
import {
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  PolymorphicRef,
  QueryHelper,
  Reference,
  ReferenceKind,
  Utils,
} from '@mikro-orm/core';
import { versionOf } from '@mikro-ool/core';
import { metaOf, restoreSnapshot, snapshotOf } from './entity.ts';

interface Polymorphic {
  /** The relations that are columns of the class, … */
  readonly own: readonly EntityProperty[];
  /** … and those of which another class has the columns. */
  readonly inverse: readonly EntityProperty[];
}

const known = new WeakMap<EntityMetadata, Polymorphic>();

function polymorphicOf(meta: EntityMetadata): Polymorphic {
  let found = known.get(meta);
  if (!found) {
    const toOne = (meta.relations as EntityProperty[]).filter(
      ({ kind }) => kind === ReferenceKind.MANY_TO_ONE || kind === ReferenceKind.ONE_TO_ONE,
    );
    const isInverse = ({ mappedBy, targetMeta }: EntityProperty) =>
      (targetMeta?.properties[mappedBy as never] as EntityProperty | undefined)?.polymorphic;
    found = { own: toOne.filter((prop) => prop.polymorphic && !prop.mappedBy), inverse: toOne.filter(isInverse) };
    known.set(meta, found);
  }
  return found;
}

/** Something was read into an entity: its snapshot, and those next to it, have what is compared with them. */
export function settlePolymorphic(em: EntityManager, entity: Dictionary): void {
  const { own, inverse } = polymorphicOf(metaOf(em, entity));
  if (own.length > 0) {
    settleOwn(em, entity, own);
  }
  for (const { name } of inverse) {
    const other = Reference.unwrapReference(entity[name] as object) as Dictionary | undefined;
    if (Utils.isEntity(other)) {
      settleOwn(em, other, polymorphicOf(metaOf(em, other)).own);
    }
  }
}

function settleOwn(em: EntityManager, entity: Dictionary, own: readonly EntityProperty[]): void {
  const snapshot = snapshotOf(entity) as Dictionary | undefined;
  const wrong = own.filter(({ name }) => snapshot?.[name] != null && !isRef(snapshot[name]));
  if (wrong.length === 0 || !versionOf(metaOf(em, entity))) {
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
