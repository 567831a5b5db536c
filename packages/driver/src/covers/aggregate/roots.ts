/**
 * The roots of aggregates of which a flush writes a part. They are written along, though MikroORM would write nothing
 * of rows that do not change: checked, bumped, and before all others, as everybody who writes a part begins with its
 * root.
 */
import { ChangeSetType, type EntityManager, type EntityProperty, type MetadataStorage, Utils } from '@mikro-orm/core';
import { aggregatesOf } from './ways.ts';
import { type AnyChangeSet, tablesOf, targetClasses } from '../../mikro-orm/entity.ts';
import { computeUnchanged } from '../../mikro-orm/verified.ts';
import { type Roots, Climb } from './climb.ts';

export const NO_ROOTS: Roots = new Map();

const paths = new WeakMap<AnyChangeSet, readonly string[]>();

/** The listed paths of parts that a flush writes along with this root; a conflict names them. */
export function partsOf(root: AnyChangeSet): readonly string[] | undefined {
  return paths.get(root);
}

/**
 * Called when all listeners have run.
 *
 * @returns the roots that this flush writes, because it writes a part of them
 * @throws {VersionNotLoaded} when a root, or its version, is not known
 */
export function takeRoots(em: EntityManager): Roots {
  const aggregates = aggregatesOf(em.getMetadata() as MetadataStorage);
  const roots = aggregates ? new Climb(em, aggregates).run() : NO_ROOTS;
  if (roots.size === 0) {
    return NO_ROOTS;
  }
  computeUnchanged(em, [...roots.keys()]);
  const written = em.getUnitOfWork(false).getChangeSets() as AnyChangeSet[];
  const created = new Set(written.flatMap(({ type, rootMeta }) => (type === ChangeSetType.CREATE ? [rootMeta] : [])));
  for (const changeSet of written.filter(({ entity }) => roots.has(entity))) {
    const sets = tablesOf(changeSet);
    sets.forEach((set) => paths.set(set, [...roots.get(set.entity)!]));
    if (sets.every((set) => canBeEarly(set, created))) {
      sets.forEach((set) => (set.type = ChangeSetType.UPDATE_EARLY));
    }
  }
  return roots;
}

/** A value that another row has to give up comes first, and so does a row whose key is taken: of a class that is inserted. */
function canBeEarly({ meta, payload }: AnyChangeSet, created: ReadonlySet<unknown>): boolean {
  const uniques = new Set(meta.uniques.flatMap(({ properties }) => Utils.asArray<string>(properties)));
  return Object.keys(payload).every((name) => {
    const prop = meta.properties[name as never] as EntityProperty;
    return !prop.unique && !uniques.has(name) && !targetClasses(prop).some(({ root }) => created.has(root));
  });
}
