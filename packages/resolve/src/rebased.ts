/** What a merge leaves to decide: the types of what `rebase()` returns and a `MergeConflict` carries. */
import type { EntityKey, ScalarReference } from '@mikro-orm/core';

/** A property that both have changed, to different values. Mine stays, unsaved, until somebody decides otherwise. */
export interface PropertyClash<Entity, Property, Value> {
  readonly entity: Entity;
  /** Its name; inside an embeddable with dots: `address.city`. */
  readonly property: Property;
  /** What both started from; `undefined` when that is not known, because the version was assigned and not loaded. */
  readonly base: Value | undefined;
  readonly mine: Value;
  readonly theirs: Value;
  /** Gives up mine. For anything else, assign to the entity. */
  takeTheirs(): void;
}

type Unwrapped<Value> = Value extends ScalarReference<infer Inner> ? Inner : Value;

/** A clash of one of the entity's properties: its name tells the type of the values. */
export type Clash<Entity extends object = object> = object extends Entity
  ? PropertyClash<object, string, unknown>
  : {
      [Key in EntityKey<Entity>]:
        | PropertyClash<Entity, Key, Unwrapped<Entity[Key]>>
        | (NonNullable<Entity[Key]> extends object ? PropertyClash<Entity, `${Key}.${string}`, unknown> : never);
    }[EntityKey<Entity>];

/** An entity that has unsaved changes, but no row any more. Left as it is, it conflicts again. */
export interface Deleted<Entity extends object = object> {
  readonly entity: Entity;
  /** Forgets the entity and its changes; what was put into it goes with it where it cannot be without, or back. */
  drop(): void;
  /** Lets the next flush insert it again, under the same key and with the next version; 1:m items are rows of their own. */
  recreate(): void;
}

/** An entity that is to be removed, though others have changed it since. The next flush removes it. */
export interface Removed<Entity extends object = object> {
  readonly entity: Entity;
  /** Does not remove it after all, nor what the removal cascaded to. */
  keep(): void;
}

/** What the caller may decide. Empty lists: everything is merged. */
export interface Rebased<Entity extends object = object> {
  readonly clashes: Clash<Entity>[];
  readonly deleted: Deleted<Entity>[];
  readonly removed: Removed<Entity>[];
}
