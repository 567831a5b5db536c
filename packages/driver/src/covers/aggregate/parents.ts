/** What a part of an aggregate belongs to, and what it has belonged to, as far as it was read. */
import {
  ChangeSetType,
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  Reference,
  Utils,
  helper,
} from '@mikro-orm/core';
import { type AnyChangeSet, isUpdate, laterOf, metaOf, snapshotOf } from '../../mikro-orm/entity.ts';

/** Relations that this process has written as none, by part: snapshots lack them. */
const none = new WeakMap<object, Set<string>>();

export class Parents {
  readonly #em: EntityManager;
  /** What MikroORM has taken off entities, to write it in a further statement. */
  readonly later = new Map<object, Dictionary>();
  readonly #created = new Set<object>();
  readonly #removed = new Set<object>();
  readonly #written: readonly object[];

  constructor(em: EntityManager, changeSets: readonly AnyChangeSet[]) {
    this.#em = em;
    for (const followUp of em.getUnitOfWork(false).getExtraUpdates()) {
      const [entity] = followUp;
      this.later.set(entity, { ...this.later.get(entity), ...laterOf(followUp) });
    }
    for (const { type, entity, meta } of changeSets) {
      if (type === ChangeSetType.CREATE) {
        this.#created.add(entity);
        meta.relations.forEach(({ name }) => this.#remember(entity, name));
      } else if (!isUpdate(type)) {
        this.#removed.add(entity);
      }
    }
    this.#written = [...changeSets.map(({ entity }) => entity), ...this.later.keys()];
  }

  /** Is there no row of an entity yet, or none any more? */
  isNewOrRemoved(entity: object): boolean {
    return !helper(entity).__managed || this.#removed.has(entity);
  }

  /** What a part belongs to, and has belonged to: `null` is none, `undefined` one that is not known, or not in memory. */
  of(part: object, back: EntityProperty): (object | null | undefined)[] {
    const now = this.#now(part, back.name);
    const stored = this.#created.has(part) ? null : storedIn(part, back.name);
    const old = this.#find(part, back, stored, true);
    if (stored !== undefined) {
      this.#remember(part, back.name);
    }
    // MikroORM takes from the parts what they belong to when it has deleted that row, and no assignment does
    const isForgotten = stored !== undefined && now === undefined && !(back.name in helper(part).__data);
    const before = isForgotten && !(old && helper(old).__initialized) ? null : old;
    if (back.mappedBy) {
      // the key is in another row: one that this flush gives it is written itself
      const rows = [before, this.#find(part, back, now, false), ...this.#written];
      return [rows.find((row) => row && this.#names(row, part, back)) ?? (before && null)];
    }
    // what a row was handed to before it was removed has never had it
    return [this.#removed.has(part) ? null : this.#find(part, back, now ?? null, false), before];
  }

  #now(part: object, relation: string): unknown {
    return this.later.get(part)?.[relation] ?? (part as Dictionary)[relation];
  }

  /** When what is written is none, the next flush knows it. */
  #remember(part: object, relation: string): void {
    if (this.#now(part, relation) == null) {
      none.set(part, (none.get(part) ?? new Set()).add(relation));
    }
  }

  /** Was this the part of a row, which has the key of a 1:1? */
  #names(row: object, part: object, { targetMeta, mappedBy }: EntityProperty): boolean {
    const forth = targetMeta!.properties[mappedBy as never] as EntityProperty;
    const isOfClass = metaOf(this.#em, row).root === targetMeta!.root;
    return isOfClass && this.#find(row, forth, storedIn(row, forth.name), true) === part;
  }

  /**
   * The entity that a relation names.
   *
   * @param isStored a key is spelled as in the database, and not as in the entity (`mapToPk`)
   */
  #find(part: object, { targetMeta }: EntityProperty, value: unknown, isStored: boolean): object | null | undefined {
    if (value == null) {
      return value as null | undefined;
    }
    if (Utils.isEntity<object>(value, true)) {
      return Reference.unwrapReference(value);
    }
    const { class: target, schema: fixed } = targetMeta!;
    const schema = fixed && fixed !== '*' ? fixed : helper(part).__schema;
    return this.#em.getUnitOfWork(false).getById(target, value as never, schema, isStored);
  }
}

/** What the row had in a relation when it was read or written; `undefined` when that is not known. */
function storedIn(part: object, relation: string): unknown {
  const stored = (snapshotOf(part) as Dictionary | undefined)?.[relation];
  return stored === undefined && none.get(part)?.has(relation) ? null : stored;
}
