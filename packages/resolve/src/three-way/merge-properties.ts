/** The properties of a row, one by one: theirs, where only they have changed it; mine, where I have; a clash, where both. */
import { type Dictionary, helper } from '@mikro-orm/core';
import { type VersionField, asTouched, isTouched, loadedVersion, touchedIn, versionOf } from '@mikro-ool/core';
import { isOrphan } from '../managed.ts';
import type { Clash } from '../rebased.ts';
import type { Row } from './row.ts';
import { type Base, isLoaded } from './sides.ts';
import { type Unit, isSame, unitsOf } from './units.ts';
import { at, giverOf, isOrphanedBy, own, setAt } from './values.ts';

/** What changes between two snapshots, by key. */
type Diff = Dictionary;

/** Whose value it is to be. What is the same in both, or not known here, stays as it is: mine. */
type Verdict = 'mine' | 'theirs' | 'clash';

/** A property that was given another value, or whose clash may be decided so. */
interface Settled {
  readonly unit: Unit;
  readonly verdict: Verdict;
  readonly giveBack: () => void;
}

export class PropertyMerge {
  /** What mine is made to from now on. */
  readonly snapshot: Dictionary;
  readonly #row: Row;
  readonly #base: Base;
  readonly #theirs: Dictionary;
  /** Mine, before anything of theirs was taken over. */
  readonly #data: Dictionary;
  readonly #mine: Diff;
  readonly #others: Diff;
  /** From mine to theirs. */
  readonly #between: Diff;
  /** An assigned version says that the changes were made to an older state than the loaded one: nobody knows to which. */
  readonly #isClaim: boolean;
  /** Columns that the version does not cover. */
  readonly #exclude: readonly string[];
  readonly #settled: Settled[] = [];
  readonly #computed: Dictionary = {};

  constructor(row: Row, base: Base, theirs: Dictionary) {
    const { em, entity, meta, version } = row;
    const { snapshot } = base;
    [this.#row, this.#base, this.#theirs] = [row, base, theirs];
    const comparator = em.getComparator();
    this.#data = comparator.prepareEntity(entity) as Dictionary;
    const theirData = comparator.prepareEntity(theirs) as Dictionary;
    this.#mine = this.#diff(snapshot, this.#data);
    this.#others = this.#diff(snapshot, theirData);
    this.#between = this.#diff(this.#data, theirData);
    this.#isClaim = version !== undefined && loadedVersion(snapshot, version) !== entity[version];
    const { exclude = [] } = (versionOf(meta)?.customType ?? {}) as Partial<VersionField>;
    this.#exclude = exclude;
    const known = Object.entries(theirData).filter(([name]) => this.#isLoaded(name) || name in this.#data);
    const merged = Object.fromEntries(known);
    this.snapshot = version !== undefined && isTouched(snapshot, version) ? asTouched(merged, version) : merged;
  }

  /** @returns what both have changed, to different values */
  run(): Clash[] {
    const { em, entity, version } = this.#row;
    const clashes: Clash[] = [];
    for (const unit of unitsOf(this.#row, this.#theirs)) {
      const verdict = this.#verdictOn(unit);
      if (verdict !== 'mine') {
        this.#settled.push({ unit, verdict, giveBack: giverOf(entity, unit.prop, unit.path) });
      }
      if (verdict === 'theirs') {
        this.#take(unit);
      } else if (verdict === 'clash') {
        clashes.push(this.#clashOf(unit));
      }
    }
    this.#takeComputed();
    helper(entity).__originalEntityData = this.snapshot as never;
    if (version !== undefined && isTouched(this.snapshot, version)) {
      touchedIn(em.getUnitOfWork(false)).add(entity);
    }
    return clashes;
  }

  /** A decision on a clash is taken back, and what was assigned since stays. */
  undo(): void {
    const { em, entity } = this.#row;
    const since = this.#diff(this.snapshot, em.getComparator().prepareEntity(entity) as Dictionary);
    this.#settled
      .filter(({ unit, verdict }) => verdict === 'clash' || !this.#differs(unit, since, this.#theirs, entity))
      .forEach(({ giveBack }) => giveBack());
    Object.assign(entity, this.#computed);
  }

  /** Has anything that is loaded changed, but for the version? */
  get isChangedByOthers(): boolean {
    return Object.keys(this.#others).some((name) => name !== this.#row.version && this.#isLoaded(name));
  }

  #verdictOn(unit: Unit): Verdict {
    const { prop, path, keys } = unit;
    const { entity } = this.#row;
    const hasBase = this.#hasBase(unit);
    const isKnown = hasBase || keys!.some((name) => name in this.#data);
    if (!isKnown || !this.#differs(unit, this.#between, entity, this.#theirs)) {
      return 'mine';
    }
    // a flush computes what has onUpdate, the failed one too
    if (prop.onUpdate || !this.#differs(unit, this.#mine, this.#base.entity, entity)) {
      return 'theirs';
    }
    // nobody has lost anything that matters; and what removes it is reported as that
    if (this.#exclude.includes(path[0]!) || (isOrphan(this.#row.em, entity) && isOrphanedBy(entity, prop))) {
      return 'mine';
    }
    const isClash = !hasBase || this.#isClaim || this.#differs(unit, this.#others, this.#base.entity, this.#theirs);
    return isClash ? 'clash' : 'mine';
  }

  #clashOf(unit: Unit): Clash {
    const { prop, path } = unit;
    const { em, entity } = this.#row;
    const values = {
      property: path.join('.'),
      base: this.#hasBase(unit) && !this.#isClaim ? own(em, prop, at(this.#base.entity, path)) : undefined,
      mine: at(entity, path),
      theirs: own(em, prop, at(this.#theirs, path)),
    };
    // reachable, but neither printed nor serialised
    const hidden = { entity: { value: entity }, takeTheirs: { value: () => this.#take(unit) } };
    return Object.defineProperties(values, hidden) as Clash;
  }

  #take({ prop, path }: Unit): void {
    const { em, entity } = this.#row;
    setAt(entity, path, own(em, prop, at(this.#theirs, path)));
  }

  /** What the database computes is theirs. */
  #takeComputed(): void {
    const { entity, meta } = this.#row;
    for (const { name } of meta.props.filter((prop) => prop.generated || prop.formula)) {
      if (this.#theirs[name] !== undefined && entity[name] !== undefined) {
        this.#computed[name] = entity[name];
        entity[name] = this.#theirs[name];
      }
    }
  }

  /** As a flush compares. */
  #diff(from: Dictionary, to: Dictionary): Diff {
    return this.#row.em.getComparator().diffEntities(this.#row.meta.class, from, to);
  }

  /** By the difference of two snapshots, where it is in one. */
  #differs(unit: Unit, found: Diff, a: Dictionary, b: Dictionary): boolean {
    return unit.keys ? unit.keys.some((name) => name in found) : !isSame(this.#row, unit, a, b);
  }

  /** Is it known what it was? */
  #hasBase({ keys }: Unit): boolean {
    return !keys || keys.some((name) => this.#isLoaded(name));
  }

  #isLoaded(name: string): boolean {
    return isLoaded(this.#row, this.#base, name);
  }
}
