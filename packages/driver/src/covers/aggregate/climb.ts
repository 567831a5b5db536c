/** From everything that a flush writes up to the roots of aggregates that it belongs to. */
import { type Collection, type Dictionary, type EntityManager, ReferenceKind, Utils, helper } from '@mikro-orm/core';
import { VersionNotLoaded, versionOf } from '@mikro-ool/core';
import { type AnyChangeSet, isManaged, isUpdate, metaOf, snapshotOf, tablesOf } from '../../mikro-orm/entity.ts';
import { isUnsavedPart } from '../../mikro-orm/outside.ts';
import { isClaim } from '../claims.ts';
import { changesOnlyUncovered, isUncoveredLater } from '../exclude.ts';
import { Parents } from './parents.ts';
import { type Aggregates, type Way, lists } from './ways.ts';

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
    this.#em = em;
    this.#aggregates = aggregates;
    const isAlong = ({ entity }: AnyChangeSet) =>
      aggregates.rows.has(entity.constructor) || aggregates.collections.has(entity.constructor);
    this.#changeSets = (em.getUnitOfWork(false).getChangeSets() as AnyChangeSet[]).filter(isAlong);
    this.#parents = new Parents(em, this.#changeSets);
  }

  run(): Roots {
    const { later } = this.#parents;
    const collections = [
      ...this.#em.getUnitOfWork(false).getCollectionUpdates(),
      ...[...later.values()].flatMap((values) => Object.values(values).filter((value) => Utils.isCollection(value))),
    ] as Collection<object>[];
    collections.forEach((collection) => this.#fromCollection(collection));
    const changes = this.#changeSets.filter((set) => counts(this.#em, set) && !isUnsavedPart(this.#em, set));
    changes.forEach((set) => this.#fromRow(set.entity, relationsIn(set)));
    const follows = [...later].filter(([entity, values]) => !isUncoveredLater(this.#em, entity, values));
    follows.forEach(([entity, values]) => this.#fromRow(entity, Object.keys(values)));
    // a root may be a part itself; what is found meanwhile is visited too
    this.#roots.forEach((_, root) => this.#fromRow(root));
    return this.#roots;
  }

  /** @param written what is written of it */
  #fromRow(entity: object, written: readonly string[] = []): void {
    const places = this.#aggregates.rows.get(entity.constructor) ?? [];
    for (const { way, depth } of places.filter(({ key }) => key === undefined || written.includes(key))) {
      this.#climb(entity, way, depth);
    }
  }

  #fromCollection(collection: Collection<object>): void {
    const { owner, property } = collection;
    // one that was replaced without being loaded has none, and may have had anything
    const before = collection.getSnapshot() as object[] | undefined;
    const [old, items] = [new Set(before?.filter((item) => !isGone(item))), new Set(collection.getItems(false))];
    const moved = [...old, ...items].filter((item) => !(old.has(item) && items.has(item)));
    const places = this.#aggregates.collections.get(owner.constructor) ?? [];
    for (const { way, depth, isOther } of places.filter(({ name }) => name === property.name)) {
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
  #climb(entity: object, way: Way, depth: number): void {
    if (!this.#reaches(entity, way, depth)) {
      const backs = way.hops.slice(0, depth).map(({ back }) => back);
      const relation = [metaOf(this.#em, entity).className, ...backs.map(({ name }) => name).toReversed()].join('.');
      // a key cannot be populated
      const canLoad = depth > 0 && !backs.some(({ mapToPk }) => mapToPk);
      throw this.#notKnown(entity, way, canLoad ? relation : undefined);
    }
  }

  /** Notes the roots of an entity; `false` when one, or its version, is not known. */
  #reaches(entity: object, way: Way, depth: number): boolean {
    if (depth > 0) {
      const parents = this.#parents.of(entity, way.hops[depth - 1]!.back);
      return parents.every((one) => one === null || (one !== undefined && this.#reaches(one, way, depth - 1)));
    }
    // a new row has its first version, and the DELETE of a removed one checks it
    if (this.#parents.isNewOrRemoved(entity) || !lists(metaOf(this.#em, entity), way.path)) {
      return true;
    }
    if (!isManaged(this.#em, entity) || (entity as Dictionary)[versionOf(way.root)!.name] == null) {
      return false;
    }
    this.#roots.set(entity, (this.#roots.get(entity) ?? new Set()).add(way.path));
    return true;
  }

  /** @param along as `Option.item.order`, what is to be loaded along */
  #notKnown(part: object, { root }: Way, along?: string): VersionNotLoaded {
    return new VersionNotLoaded(part, root.className, versionOf(root)!.name, 'update', along);
  }
}

/** Has an earlier flush removed it? MikroORM takes such a row out of the items of a collection, but not of its snapshot. */
function isGone(item: object): boolean {
  return !helper(item).__managed && snapshotOf(item) === undefined;
}

/** Does this change set write something that matters? A claim is only compared. */
function counts(em: EntityManager, changeSet: AnyChangeSet): boolean {
  const isChange = (set: AnyChangeSet) =>
    Object.keys(set.payload).length > 0 && !changesOnlyUncovered(em, set) && !isClaim(set, NOBODY);
  return !isUpdate(changeSet.type) || tablesOf(changeSet).some(isChange);
}

/** What a change set writes. Nothing belongs to a row yet that is new, or is still to be removed: but it has keys itself. */
function relationsIn(changeSet: AnyChangeSet): string[] {
  const { type, entity, meta, payload } = changeSet;
  if (isUpdate(type)) {
    return tablesOf(changeSet).flatMap((set) => Object.keys(set.payload));
  }
  const row = { ...(snapshotOf(entity) as Dictionary), ...payload } as Dictionary;
  const keys = meta.relations.filter(({ kind, name }) => kind === ReferenceKind.ONE_TO_ONE && row[name] != null);
  return keys.map(({ name }) => name);
}
