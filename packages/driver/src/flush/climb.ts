/** From everything that a flush writes up to the roots of aggregates that it belongs to. */
import { ChangeSetType, type Collection, type Dictionary, type EntityManager, ReferenceKind } from '@mikro-orm/core';
import { VersionNotLoaded, versionOf } from '@mikro-ool/core';
import type { Aggregates, Way } from '../covers/aggregate.ts';
import { changesOnlyUncovered } from '../covers/exclude.ts';
import { type AnyChangeSet, isManaged, isUnsavedOrphan, isUpdate, metaOf, tablesOf } from '../mikro-orm/entity.ts';
import { isClaim } from './claims.ts';
import { Parents } from './parents.ts';

/** Roots, and the listed paths at whose ends something is written. */
export type Roots = ReadonlyMap<object, ReadonlySet<string>>;

const NOBODY = new Set<object>();

export class Climb {
  readonly #em: EntityManager;
  readonly #aggregates: Aggregates;
  readonly #roots = new Map<object, Set<string>>();
  /** New and removed rows: they have their version, and their DELETE checks it. */
  readonly #exempt = new Set<object>();
  readonly #parents: Parents;

  constructor(em: EntityManager, aggregates: Aggregates) {
    this.#em = em;
    this.#aggregates = aggregates;
    this.#parents = new Parents(em);
  }

  run(): Roots {
    const uow = this.#em.getUnitOfWork(false);
    const sets = uow.getChangeSets() as AnyChangeSet[];
    sets.filter(({ type }) => !isUpdate(type)).forEach(({ entity }) => this.#exempt.add(entity));
    sets.filter(({ type }) => type === ChangeSetType.CREATE).forEach((set) => this.#parents.creates(set));
    (uow.getCollectionUpdates() as Collection<object>[]).forEach((collection) => this.#fromCollection(collection));
    const changes = sets.filter((set) => counts(set) && !isUnsavedOrphan(this.#em, set));
    const written = new Set([...changes.map(({ entity }) => entity), ...this.#parents.later.keys()]);
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
        left.forEach((item) => this.#parents.leaves(item, property.mappedBy!, owner));
      }
    }
  }

  /** @param depth how many hops the entity is away from the root */
  #climb(entity: object, way: Way, depth: number, start = entity): void {
    if (depth > 0) {
      const parents = this.#parents.of(entity, way.hops[depth - 1]!.back);
      if (parents.includes(undefined)) {
        throw this.#notKnown(start, way);
      }
      parents.forEach((parent) => parent && this.#climb(parent, way, depth - 1, start));
      return;
    }
    if (this.#exempt.has(entity)) {
      return;
    }
    if (!isManaged(this.#em, entity) || (entity as Dictionary)[versionOf(way.root)!.name] == null) {
      throw this.#notKnown(start, way);
    }
    this.#roots.set(entity, (this.#roots.get(entity) ?? new Set()).add(way.path));
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

/** Does this change set write something that matters? A claim is only compared. */
function counts(changeSet: AnyChangeSet): boolean {
  const isChange = (set: AnyChangeSet) =>
    Object.keys(set.payload).length > 0 && !changesOnlyUncovered(set) && !isClaim(set, NOBODY);
  return !isUpdate(changeSet.type) || tablesOf(changeSet).some(isChange);
}
