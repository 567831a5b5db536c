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
import { type AnyChangeSet, isUpdate, snapshotOf } from '../../mikro-orm/entity.ts';

/** Relations that this process has written as none, by part: snapshots lack them. */
const none = new WeakMap<object, Set<string>>();

export class Parents {
  readonly #em: EntityManager;
  /** What MikroORM has taken off entities, to write it in a further statement. */
  readonly later = new Map<object, Dictionary>();
  readonly #created = new Set<object>();
  readonly #removed = new Set<object>();

  constructor(em: EntityManager, changeSets: readonly AnyChangeSet[]) {
    this.#em = em;
    for (const [entity, names, values] of em.getUnitOfWork(false).getExtraUpdates()) {
      const later = Array.isArray(names) ? names.map((name, i) => [name, (values as unknown[])[i]]) : [[names, values]];
      this.later.set(entity, { ...this.later.get(entity), ...Object.fromEntries(later) });
    }
    for (const { type, entity, meta } of changeSets) {
      if (type === ChangeSetType.CREATE) {
        // it belongs to what it names
        const names = meta.relations.map(({ name }) => name as string);
        none.set(entity, new Set(names.filter((name) => this.#now(entity, name) == null)));
        this.#created.add(entity);
      } else if (!isUpdate(type)) {
        this.#removed.add(entity);
      }
    }
  }

  isNewOrRemoved(entity: object): boolean {
    return this.#created.has(entity) || this.#removed.has(entity);
  }

  /** What a part belongs to and has belonged to, as its snapshot says; `undefined` when that is not known. */
  of(part: object, back: EntityProperty): (object | null | undefined)[] {
    const now = this.#now(part, back.name);
    if (!this.#isRead(part, back, now)) {
      return [undefined];
    }
    const stored = inSnapshot(part, back);
    const old = this.#find(part, back, stored, true);
    // the other side of a 1:1 keeps its snapshot when the part moves, as its row does not change
    const before = back.mappedBy && old && !this.#names(old, part, back) ? null : old;
    // MikroORM takes from the parts what they belong to when it has deleted that row, and no assignment does
    const isForgotten = now === undefined && !(back.name in helper(part).__data);
    const isGone = isForgotten && !(before && helper(before).__initialized);
    if (now != null) {
      none.get(part)?.delete(back.name);
    } else if (stored !== undefined) {
      none.set(part, new Set([...(none.get(part) ?? []), back.name]));
    }
    // what a row was handed to before it was removed has never had it
    const isNever = this.#removed.has(part) && !back.primary && !back.mappedBy;
    return [isNever ? null : this.#find(part, back, now, false), isGone ? null : before];
  }

  #now(part: object, relation: string): unknown {
    return this.later.get(part)?.[relation] ?? (part as Dictionary)[relation];
  }

  /** Was it read what a part belonged to? */
  #isRead(part: object, back: EntityProperty, now: unknown): boolean {
    // a new row has belonged to nobody
    const isNew = none.has(part) && snapshotOf(part) === undefined;
    if (isNew || back.primary || inSnapshot(part, back) !== undefined || none.get(part)?.has(back.name)) {
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
}

function inSnapshot(entity: object, { name }: EntityProperty): unknown {
  return (snapshotOf(entity) as Dictionary | undefined)?.[name];
}
