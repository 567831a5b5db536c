/** A loaded collection is merged by its items: what was added and removed stays so, on top of theirs. */
import {
  type Collection,
  type Dictionary,
  type EntityManager,
  type EntityProperty,
  ReferenceKind,
  Utils,
} from '@mikro-orm/core';
import type { Row } from './row.ts';
import { currentOptions } from './sides.ts';
import { own } from './values.ts';

/** How many keys a query asks for: SQLite nests a thousand conditions, each of which may be one of several columns. */
const MOST_CONDITIONS = 300;

/** Theirs, as an EntityManager of its own reads it. */
interface Theirs {
  readonly reader: EntityManager;
  readonly entity: Dictionary;
}

interface Merged {
  /** Have they put anything into it? Or taken out of it, where items are no rows that say so themselves. */
  readonly isChangedByOthers: boolean;
  /** What was added and removed since stays so. */
  undo(): void;
}

/** @param parts of aggregates, which are merged by themselves */
export async function mergeCollection(
  { em }: Row,
  prop: EntityProperty,
  collection: Collection<object>,
  theirs: Theirs,
  parts: ReadonlyMap<object, unknown>,
): Promise<Merged> {
  const read = await itemsOfTheirs(em, prop, theirs);
  const items = read.map((item) => own(em, prop, item) as object);
  const [base, mine] = [collection.getSnapshot()!, collection.getItems(false)];
  const isDirty = collection.isDirty();
  // a part that is read again has lost its base; a 1:m item adds itself
  const others = items.filter((item) => !parts.has(item));
  await load(em, prop, others);
  mine.filter((item) => !items.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
  items.forEach((item) => collection.addWithoutPropagation(item));
  collection.takeSnapshot();
  mine.filter((item) => !base.includes(item)).forEach((item) => collection.addWithoutPropagation(item));
  base.filter((item) => !mine.includes(item)).forEach((item) => collection.removeWithoutPropagation(item));
  const merged = collection.getItems(false);
  const isLink = prop.kind === ReferenceKind.MANY_TO_MANY;
  const isChangedByOthers =
    items.some((item) => !base.includes(item)) || (isLink && base.some((item) => !items.includes(item)));
  const undo = () => {
    const now = collection.getItems(false);
    const added = now.filter((item) => !merged.includes(item));
    const kept = mine.filter((item) => now.includes(item) || !merged.includes(item));
    now.forEach((item) => collection.removeWithoutPropagation(item));
    base.forEach((item) => collection.addWithoutPropagation(item));
    collection.takeSnapshot();
    base.forEach((item) => collection.removeWithoutPropagation(item));
    [...kept, ...added].forEach((item) => collection.addWithoutPropagation(item));
    collection.setDirty(isDirty || added.length > 0 || kept.length < mine.length);
  };
  return { isChangedByOthers, undo };
}

async function itemsOfTheirs(em: EntityManager, { name }: EntityProperty, { reader, entity }: Theirs) {
  const { lockMode } = currentOptions(em);
  const options = { refresh: true, connectionType: 'write', lockMode } as const;
  await reader.populate(entity, [`${name}:ref`] as never, options);
  return (entity[name] as Collection<object>).getItems(false);
}

async function load(em: EntityManager, { targetMeta }: EntityProperty, items: readonly object[]): Promise<void> {
  const { class: Item, primaryKeys } = targetMeta!;
  const keys = items.map((item) => Utils.getPrimaryKeyCond(item, primaryKeys as never));
  for (let i = 0; i < keys.length; i += MOST_CONDITIONS) {
    await em.find(Item, { $or: keys.slice(i, i + MOST_CONDITIONS) } as never, currentOptions(em) as never);
  }
}
