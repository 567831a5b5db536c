/** Values at a path of an entity: what is there, how it is set, and how a value of another fork becomes one of ours. */
import {
  type Collection,
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  Reference,
  ReferenceKind,
  ScalarReference,
  Utils,
  helper,
} from '@mikro-orm/core';

/** The value, or `undefined` where there is no embeddable around it. */
export function at(entity: Dictionary, path: readonly string[]): unknown {
  const value: unknown = path.reduce((holder: Dictionary | undefined, name) => holder?.[name], entity);
  return ScalarReference.isScalarReference(value) ? value.unwrap() : value;
}

/** Nothing happens where there is no embeddable around it. */
export function setAt(entity: Dictionary, path: readonly string[], value: unknown): void {
  const holder = at(entity, path.slice(0, -1)) as Dictionary | undefined;
  const name = path.at(-1)!;
  if (ScalarReference.isScalarReference(holder?.[name])) {
    holder[name].set(value);
  } else if (holder) {
    holder[name] = value;
  }
}

/** Gives the entity the value that it has now. */
export function giverOf(entity: Dictionary, prop: EntityProperty, path: readonly string[]): () => void {
  const value = at(entity, path);
  const others = inverseOf(prop, value);
  // one that is to be removed is in no collection any more
  const isThere = others?.getItems(false).includes(entity);
  return () => {
    setAt(entity, path, value);
    if (!isThere) {
      others?.removeWithoutPropagation(entity);
    }
  };
}

/** Does an orphan belong to nobody by this relation? Then its removal has emptied it, and nobody has assigned that. */
export function isOrphanedBy(orphan: Dictionary, { name, inversedBy, targetMeta }: EntityProperty): boolean {
  const other = inversedBy && (targetMeta!.properties[inversedBy as never] as EntityProperty);
  return Boolean(other && other.orphanRemoval) && orphan[name] == null;
}

/** The collection of the other side of a relation, if there is one. */
function inverseOf({ inversedBy }: EntityProperty, value: unknown): Collection<object> | undefined {
  const target = inversedBy && Utils.isEntity<Dictionary>(value, true) ? Reference.unwrapReference(value) : undefined;
  const items: unknown = target?.[inversedBy!];
  return Utils.isCollection<object>(items) ? items : undefined;
}

/** Entities of another fork become those of ours. */
export function own(em: EntityManager, prop: EntityProperty, value: unknown): unknown {
  if (Utils.isEntity<object>(value, true)) {
    const target = Reference.unwrapReference(value) as Dictionary;
    const { __schema: schema } = helper(target);
    const key: unknown = prop.targetKey ? target[prop.targetKey] : helper(target).getPrimaryKey();
    const options = { wrapped: Boolean(prop.ref), schema, key: prop.targetKey };
    return em.getReference(target.constructor as never, key as never, options as never);
  }
  for (const item of prop.kind === ReferenceKind.EMBEDDED && value ? Utils.asArray(value as Dictionary) : []) {
    for (const child of Object.values(prop.embeddedProps)) {
      const name = child.embedded![1];
      if (item[name] != null) {
        item[name] = own(em, child, item[name]);
      }
    }
  }
  return value;
}
