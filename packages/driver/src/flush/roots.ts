/** The roots of aggregates of which a flush writes a part: they are checked and bumped along. */
import {
  ChangeSetType,
  type Collection,
  type Dictionary,
  type EntityManager,
  Reference,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { VersionNotLoaded, versionOf } from '@mikro-ool/core';
import { type Aggregates, type Way, collectionKey } from '../covers/aggregate.ts';
import { changesExcluded } from '../covers/exclude.ts';
import { type AnyChangeSet, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import { isClaim } from './claims.ts';

/** Roots, and the listed paths at whose ends something is written. */
export type Roots = ReadonlyMap<object, ReadonlySet<string>>;

export const NO_ROOTS: Roots = new Map();

/** The paths of roots that are being written, for conflicts. */
const paths = new WeakMap<object, readonly string[]>();

/** From now on, conflicts say why these were written; until the flush is over. */
export function explain(roots: Roots): void {
  roots.forEach((some, root) => paths.set(root, [...some]));
}

/** The flush is over. */
export function explained(roots: Roots): void {
  roots.forEach((_, root) => paths.delete(root));
}

/** The listed paths of parts that the flush which is going on writes along with a root. */
export function partsOf(root: object): readonly string[] | undefined {
  return paths.get(root);
}

/** Parts that this process has inserted: their snapshot lacks what they did not belong to. */
const inserted = new WeakSet<object>();

/**
 * Goes from everything that a flush writes up to the roots.
 *
 * @throws {VersionNotLoaded} when a root, or its version, is not known
 */
export function rootsOf(em: EntityManager, aggregates: Aggregates): Roots {
  return new Climb(em, aggregates).run();
}

class Climb {
  readonly #em: EntityManager;
  readonly #aggregates: Aggregates;
  readonly #roots = new Map<object, Set<string>>();
  /** New and removed rows: they have their version, and their DELETE checks it. */
  readonly #exempt = new Set<object>();
  /** What MikroORM has taken off entities, to write it in a further statement. */
  readonly #later = new Map<object, Dictionary>();
  /** Items that were taken out of a loaded 1:m collection, and its owner, by the relation that leads back. */
  readonly #left = new Map<object, Dictionary<object>>();

  constructor(em: EntityManager, aggregates: Aggregates) {
    this.#em = em;
    this.#aggregates = aggregates;
  }

  run(): Roots {
    const uow = this.#em.getUnitOfWork(false);
    const sets = uow.getChangeSets() as AnyChangeSet[];
    for (const [entity, names, values] of uow.getExtraUpdates()) {
      const all = Utils.asArray(names).map((name, i) => [
        name,
        Array.isArray(names) ? (values as unknown[])[i] : values,
      ]);
      this.#later.set(entity, { ...this.#later.get(entity), ...Object.fromEntries(all) });
    }
    for (const { type, entity } of sets) {
      if (type === ChangeSetType.CREATE) {
        inserted.add(entity);
      }
      if (type !== ChangeSetType.UPDATE && type !== ChangeSetType.UPDATE_EARLY) {
        this.#exempt.add(entity);
      }
    }
    (uow.getCollectionUpdates() as Collection<object>[]).forEach((collection) => this.#fromCollection(collection));
    const written = new Set([...sets.filter(counts).map(({ entity }) => entity), ...this.#later.keys()]);
    written.forEach((entity) => this.#fromRow(entity));
    // a root may be a part itself; what is found meanwhile is visited too
    this.#roots.forEach((_, root) => written.has(root) || this.#fromRow(root));
    return this.#roots;
  }

  #fromRow(entity: object): void {
    for (const way of this.#aggregates.rows.get(metaOf(this.#em, entity)._id) ?? []) {
      this.#climb(entity, way, way.hops.length);
    }
  }

  #fromCollection(collection: Collection<object>): void {
    const { owner, property } = collection;
    const ways = this.#aggregates.collections.get(collectionKey(metaOf(this.#em, owner), property.name)) ?? [];
    const before = collection.getSnapshot() as object[] | undefined;
    const [old, items] = [new Set(before), new Set(collection.getItems(false))];
    const left = [...old].filter((item) => !items.has(item));
    const moved = [...left, ...[...items].filter((item) => !old.has(item))];
    // one that was replaced without being loaded may have had anything
    const isBlind = !before && !this.#exempt.has(owner);
    const isToMany = property.kind === ReferenceKind.MANY_TO_MANY;
    for (const { way, isOther } of ways) {
      const depth = way.hops.length - 1;
      if (isOther && isBlind) {
        throw this.#notKnown(owner, way, `${metaOf(this.#em, owner).className}.${property.name}`);
      }
      if (isOther) {
        moved.forEach((item) => this.#climb(item, way, depth));
      } else if (isBlind || (isToMany && moved.length > 0)) {
        this.#climb(owner, way, depth);
      } else if (!isToMany) {
        // the rows of its items change, and say so themselves
        left.forEach((item) => this.#left.set(item, { ...this.#left.get(item), [property.mappedBy!]: owner }));
      }
    }
  }

  /** @param depth how many hops the entity is away from the root */
  #climb(entity: object, way: Way, depth: number, start = entity): void {
    if (depth > 0) {
      this.#parents(entity, way, depth, start).forEach((parent) => this.#climb(parent, way, depth - 1, start));
      return;
    }
    if (this.#exempt.has(entity)) {
      return;
    }
    const isManaged = this.#em.getUnitOfWork(false).getIdentityMap().getByEntity(entity) === entity;
    if (!isManaged || (entity as Dictionary)[versionOf(way.root)!.name] == null) {
      throw this.#notKnown(entity, way, this.#wayBack(start, way));
    }
    this.#roots.set(entity, (this.#roots.get(entity) ?? new Set()).add(way.path));
  }

  /** What a part belongs to, and what it has belonged to, which its snapshot says. */
  #parents(entity: object, way: Way, depth: number, start: object): Set<object> {
    const back = way.hops[depth - 1]!.back!;
    const snapshot = (snapshotOf(entity) ?? {}) as Dictionary;
    const now: unknown = this.#later.get(entity)?.[back.name] ?? (entity as Dictionary)[back.name];
    const hasColumn = back.owner || back.kind === ReferenceKind.MANY_TO_ONE;
    const isKnown = hasColumn ? back.primary || back.name in snapshot : now !== undefined;
    const left = this.#left.get(entity)?.[back.name];
    if (!isKnown && !inserted.has(entity) && !left) {
      throw this.#notKnown(entity, way, this.#wayBack(start, way));
    }
    const before = this.#find(entity, back, snapshot[back.name], true);
    // MikroORM forgets what a part belonged to when it has deleted that row
    const isGone = before === undefined && now === undefined && !back.mapToPk;
    const values = [this.#find(entity, back, now, false), isGone ? null : before, left ?? null];
    if (values.includes(undefined)) {
      throw this.#notKnown(entity, way, this.#wayBack(start, way));
    }
    return new Set(values.filter((value) => value !== null) as object[]);
  }

  /** The entity that a relation names; `undefined` for one that is not in memory. */
  #find(
    part: object,
    { targetMeta, targetKey }: Way['hops'][number]['prop'],
    value: unknown,
    isStored: boolean,
  ): object | null | undefined {
    if (value == null) {
      return null;
    }
    if (Utils.isEntity<object>(value, true)) {
      return Reference.unwrapReference(value);
    }
    const uow = this.#em.getUnitOfWork(false);
    const schema = targetMeta!.schema === '*' ? helper(part).__schema : undefined;
    return targetKey
      ? uow.getByKey(targetMeta!.class, targetKey, value as never, schema, isStored)
      : uow.getById(targetMeta!.class, value as never, schema, isStored);
  }

  /** As `Option.item.order`. */
  #wayBack(part: object, { hops }: Way): string {
    const backs = hops.flatMap(({ back }) => (back ? [back.name] : [])).toReversed();
    return [metaOf(this.#em, part).className, ...backs].join('.');
  }

  #notKnown(entity: object, { root }: Way, along: string): VersionNotLoaded {
    return new VersionNotLoaded(entity, root.className, versionOf(root)!.name, 'update', along);
  }
}

/** Does this change set write something that matters? A claim is only compared. */
function counts(set: AnyChangeSet): boolean {
  const isUpdate = set.type === ChangeSetType.UPDATE || set.type === ChangeSetType.UPDATE_EARLY;
  const isChange = (one: AnyChangeSet) =>
    Object.keys(one.payload).length > 0 && !changesExcluded(one) && !isClaim(one, NOBODY);
  return !isUpdate || [set, ...((set.tptChangeSets ?? []) as AnyChangeSet[])].some(isChange);
}

const NOBODY = new Set<object>();
