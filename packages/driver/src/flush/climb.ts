/** From everything that a flush writes up to the roots of aggregates that it belongs to. */
import {
  ChangeSetType,
  type Collection,
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  Reference,
  ReferenceKind,
  Utils,
  helper,
} from '@mikro-orm/core';
import { VersionNotLoaded, versionOf } from '@mikro-ool/core';
import type { Aggregates, Way } from '../covers/aggregate.ts';
import { changesExcluded } from '../covers/exclude.ts';
import { type AnyChangeSet, metaOf, snapshotOf } from '../mikro-orm/entity.ts';
import { isClaim } from './claims.ts';

/** Roots, and the listed paths at whose ends something is written. */
export type Roots = ReadonlyMap<object, ReadonlySet<string>>;

const NOBODY = new Set<object>();

/** Relations that this process has written as none, by part: snapshots lack them. */
const none = new WeakMap<object, Set<string>>();

function noteNone(part: object, ...names: readonly string[]): void {
  none.set(part, new Set([...(none.get(part) ?? []), ...names]));
}

export class Climb {
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
      const later = Array.isArray(names) ? names.map((name, i) => [name, (values as unknown[])[i]]) : [[names, values]];
      this.#later.set(entity, { ...this.#later.get(entity), ...Object.fromEntries(later) });
    }
    sets.filter((set) => !isUpdate(set)).forEach(({ entity }) => this.#exempt.add(entity));
    for (const { entity, meta } of sets.filter(({ type }) => type === ChangeSetType.CREATE)) {
      noteNone(entity, ...meta.relations.map(({ name }) => name as string));
    }
    (uow.getCollectionUpdates() as Collection<object>[]).forEach((collection) => this.#fromCollection(collection));
    const written = new Set([...sets.filter(counts).map(({ entity }) => entity), ...this.#later.keys()]);
    written.forEach((entity) => this.#fromRow(entity));
    // a root may be a part itself; what is found meanwhile is visited too
    this.#roots.forEach((_, root) => written.has(root) || this.#fromRow(root));
    return this.#roots;
  }

  #fromRow(entity: object): void {
    const ways = this.#aggregates.rows.get(entity.constructor) ?? [];
    ways.forEach((way) => this.#climb(entity, way, way.hops.length));
  }

  #fromCollection(collection: Collection<object>): void {
    const { owner, property } = collection;
    const before = collection.getSnapshot() as object[] | undefined;
    const [old, items] = [new Set(before), new Set(collection.getItems(false))];
    const left = [...old].filter((item) => !items.has(item));
    const moved = [...left, ...[...items].filter((item) => !old.has(item))];
    // one that was replaced without being loaded may have had anything
    const isBlind = !before && !this.#exempt.has(owner);
    const isToMany = property.kind === ReferenceKind.MANY_TO_MANY;
    for (const { name, way, isOther } of this.#aggregates.collections.get(owner.constructor) ?? []) {
      const depth = way.hops.length - 1;
      if (name !== property.name) {
        continue;
      }
      if (isOther && isBlind) {
        throw this.#notKnown(owner, way, `${metaOf(this.#em, owner).className}.${name}`);
      } else if (isOther) {
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
      const parents = this.#parents(entity, way.hops[depth - 1]!.back);
      if (parents.includes(undefined)) {
        throw this.#notKnown(start, way);
      }
      parents.forEach((parent) => parent && this.#climb(parent, way, depth - 1, start));
      return;
    }
    if (this.#exempt.has(entity)) {
      return;
    }
    const isManaged = this.#em.getUnitOfWork(false).getIdentityMap().getByEntity(entity) === entity;
    if (!isManaged || (entity as Dictionary)[versionOf(way.root)!.name] == null) {
      throw this.#notKnown(start, way);
    }
    this.#roots.set(entity, (this.#roots.get(entity) ?? new Set()).add(way.path));
  }

  /** What a part belongs to, and what it has belonged to, which its snapshot says; `undefined`: that is not known. */
  #parents(part: object, back: EntityProperty): (object | null | undefined)[] {
    const now: unknown = this.#later.get(part)?.[back.name] ?? (part as Dictionary)[back.name];
    const left = this.#left.get(part)?.[back.name];
    if (!left && !this.#isRead(part, back, now)) {
      return [undefined];
    }
    const old = this.#find(part, back, inSnapshot(part, back), true);
    // the other side of a 1:1 keeps its snapshot when the part moves, as its row does not change
    const before = back.mappedBy && old && !this.#names(old, part, back) ? null : old;
    // MikroORM takes from the parts what they belong to when it has deleted that row, and no assignment does
    const isForgotten = now === undefined && !(back.name in helper(part).__data);
    const isGone = isForgotten && !(before && helper(before).__initialized);
    if (now == null) {
      noteNone(part, back.name);
    }
    return [this.#find(part, back, now, false), isGone ? null : before, left ?? null];
  }

  /** Was it read what a part belonged to? */
  #isRead(part: object, back: EntityProperty, now: unknown): boolean {
    if (back.primary || inSnapshot(part, back) !== undefined || none.get(part)?.has(back.name)) {
      return true;
    }
    if (!back.mappedBy) {
      return false;
    }
    // the other side of a 1:1 has no column: a root in memory has named this part
    const changed = this.#em.getUnitOfWork(false).getChangeSets();
    const roots = changed.filter(({ rootMeta }) => rootMeta.class === back.targetMeta!.root.class);
    return (
      roots.some(({ entity }) => this.#names(entity, part, back)) ||
      (Utils.isEntity<object>(now, true) && this.#names(Reference.unwrapReference(now), part, back))
    );
  }

  /** Is it the part of this root, which has the key of a 1:1? */
  #names(root: object, part: object, { targetMeta, mappedBy }: EntityProperty): boolean {
    const forth = targetMeta!.properties[mappedBy as never] as EntityProperty;
    return this.#find(root, forth, inSnapshot(root, forth), true) === part;
  }

  /** The entity that a relation names; `undefined` for one that is not in memory. */
  #find(part: object, { targetMeta }: EntityProperty, value: unknown, isStored: boolean): object | null | undefined {
    if (value == null) {
      return null;
    }
    if (Utils.isEntity<object>(value, true)) {
      return Reference.unwrapReference(value);
    }
    const { class: target, schema: fixed } = targetMeta!;
    const schema = fixed && fixed !== '*' ? fixed : helper(part).__schema;
    return this.#em.getUnitOfWork(false).getById(target, value as never, schema, isStored);
  }

  /** @param along as `Option.item.order`; a key cannot be populated */
  #notKnown(part: object, { root, hops }: Way, along?: string): VersionNotLoaded {
    const backs = hops.map(({ back }) => back).toReversed();
    const isPopulated = backs.every(({ mapToPk }) => !mapToPk);
    const relation = [metaOf(this.#em, part).className, ...backs.map(({ name }) => name)].join('.');
    const version = versionOf(root)!.name;
    return new VersionNotLoaded(part, root.className, version, 'update', along ?? (isPopulated ? relation : undefined));
  }
}

function inSnapshot(entity: object, { name }: EntityProperty): unknown {
  return (snapshotOf(entity) as Dictionary | undefined)?.[name];
}

/** With joined-table inheritance there is a change set per table. */
export function tablesOf(changeSet: AnyChangeSet): AnyChangeSet[] {
  return [changeSet, ...((changeSet.tptChangeSets ?? []) as AnyChangeSet[])];
}

function isUpdate({ type }: AnyChangeSet): boolean {
  return type === ChangeSetType.UPDATE || type === ChangeSetType.UPDATE_EARLY;
}

/** Does this change set write something that matters? A claim is only compared. */
function counts(changeSet: AnyChangeSet): boolean {
  const isChange = (set: AnyChangeSet) =>
    Object.keys(set.payload).length > 0 && !changesExcluded(set) && !isClaim(set, NOBODY);
  return !isUpdate(changeSet) || tablesOf(changeSet).some(isChange);
}
