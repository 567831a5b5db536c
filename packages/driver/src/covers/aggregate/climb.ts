/** From everything that a flush writes up to the roots of aggregates that it belongs to. */
import { type Collection, type Dictionary, type EntityManager, ReferenceKind } from '@mikro-orm/core';
import { VersionNotLoaded, versionOf } from '@mikro-ool/core';
import { type AnyChangeSet, isManaged, isUpdate, metaOf, tablesOf } from '../../mikro-orm/entity.ts';
import { isUnsavedPart } from '../../mikro-orm/outside.ts';
import { isClaim } from '../claims.ts';
import { changesOnlyUncovered, isUncoveredLater } from '../exclude.ts';
import { Parents } from './parents.ts';
import type { Aggregates, Way } from './ways.ts';

/** Roots, and the listed paths at whose ends something is written. */
export type Roots = ReadonlyMap<object, ReadonlySet<string>>;

const NOBODY = new Set<object>();

export class Climb {
  readonly #em: EntityManager;
  readonly #aggregates: Aggregates;
  readonly #changeSets: readonly AnyChangeSet[];
  readonly #parents: Parents;
  readonly #roots = new Map<object, Set<string>>();

  constructor(em: EntityManager, aggregates: Aggregates) {
    const sets = em.getUnitOfWork(false).getChangeSets() as AnyChangeSet[];
    this.#em = em;
    this.#aggregates = aggregates;
    this.#changeSets = sets.filter(({ entity }) => aggregates.classes.has(entity.constructor));
    this.#parents = new Parents(em, this.#changeSets);
  }

  run(): Roots {
    const collections = this.#em.getUnitOfWork(false).getCollectionUpdates() as Collection<object>[];
    collections.forEach((collection) => this.#fromCollection(collection));
    const changes = this.#changeSets.filter((set) => counts(this.#em, set) && !isUnsavedPart(this.#em, set));
    const later = [...this.#parents.later].filter(([entity, values]) => !isUncoveredLater(this.#em, entity, values));
    const written = new Set([...changes.map(({ entity }) => entity), ...later.map(([entity]) => entity)]);
    written.forEach((entity) => this.#fromRow(entity));
    // a root may be a part itself; what is found meanwhile is visited too
    this.#roots.forEach((_, root) => this.#fromRow(root));
    return this.#roots;
  }

  #fromRow(entity: object): void {
    const ways = this.#aggregates.rows.get(entity.constructor) ?? [];
    ways.forEach((way) => this.#climb(entity, way, way.hops.length));
  }

  #fromCollection(collection: Collection<object>): void {
    const { owner, property } = collection;
    // one that was replaced without being loaded has none, and may have had anything
    const before = collection.getSnapshot() as object[] | undefined;
    const [old, items] = [new Set(before), new Set(collection.getItems(false))];
    const moved = [...old, ...items].filter((item) => !(old.has(item) && items.has(item)));
    const ends = this.#aggregates.collections.get(owner.constructor) ?? [];
    for (const { way, isOther } of ends.filter(({ name }) => name === property.name)) {
      const depth = way.hops.length - 1;
      if (isOther && !before) {
        throw this.#notKnown(owner, way, `${metaOf(this.#em, owner).className}.${property.name}`);
      } else if (isOther) {
        moved.forEach((item) => this.#climb(item, way, depth));
      } else if (!before || (property.kind === ReferenceKind.MANY_TO_MANY && moved.length > 0)) {
        // the rows of 1:m items change, and say so themselves
        this.#climb(owner, way, depth);
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
    // a new row has its first version, and the DELETE of a removed one checks it
    if (this.#parents.isNewOrRemoved(entity)) {
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
function counts(em: EntityManager, changeSet: AnyChangeSet): boolean {
  const isChange = (set: AnyChangeSet) =>
    Object.keys(set.payload).length > 0 && !changesOnlyUncovered(em, set) && !isClaim(set, NOBODY);
  return !isUpdate(changeSet.type) || tablesOf(changeSet).some(isChange);
}
