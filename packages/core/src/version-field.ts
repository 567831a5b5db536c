/**
 * The property type that turns a column into an optimistic lock.
 *
 *   const Article = defineEntity({
 *     name: 'Article',
 *     properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
 *   });
 *
 * The column is `integer not null default 1`; `fieldName`, `columnType` and `default` given by the user win.
 * Where keys are used again, `p.type(new VersionField({ start: 'random' }))` tells a row from the deleted one before it;
 * `new VersionField({ exclude: ['likes'] })` leaves columns out that matter to nobody's changes;
 * `new VersionField({ aggregate: ['items'] })` makes it the version of a root and its parts; `{ guard: true }` has a
 * trigger bump where others write past the ORM.
 * The type only describes the column: the checking is done by a driver that went through `versioned()`, and any other
 * driver is refused at discovery, because there the lock would be silently absent.
 */
import { randomInt } from 'node:crypto';
import {
  type EntityMetadata,
  type EntityProperty,
  type Opt,
  type Platform,
  Type,
  ValidationError,
} from '@mikro-orm/core';
import { recogniseCopies } from './copies.ts';

/** On the platform of a driver that checks versions; another copy of this package may look for it. */
const CHECKED = Symbol.for('mikro-ool:checked');

/** There, too, when a transaction reads from a snapshot, and not what its writes would see. */
const SNAPSHOTS = Symbol.for('mikro-ool:snapshots');

type MaybeChecked = Platform & { [CHECKED]?: boolean; [SNAPSHOTS]?: boolean };

/** Largest values of the integer columns, by the names the databases give them. */
const COLUMN_MAXIMUM: readonly (readonly [RegExp, number])[] = [
  [/^(bigint|int8|bigserial)/, Number.MAX_SAFE_INTEGER],
  [/^(tinyint)/, 127],
  [/^(smallint|int2|smallserial)/, 32_767],
  [/^(mediumint)/, 8_388_607],
];

/** What a version may be told; everything is checked on discovery. */
export interface VersionOptions {
  /**
   * New rows start at a random version instead of 1, in the lower half of the column. So a row that is deleted and created
   * again with the same key has another version, and whoever has read the old row conflicts. What raw SQL and Kysely insert
   * starts at the column's default all the same.
   */
  readonly start?: 'random';
  /**
   * Properties that the version does not cover: a change of these alone neither checks nor bumps it, so that a lost update
   * of them is tolerated, and nobody conflicts because of one.
   *
   * @see Jakarta Persistence, `@ExcludedFromVersioning`
   */
  readonly exclude?: readonly string[];
  /**
   * Relations whose rows and collections the version covers as well, as `items` or `items.options`: when a flush writes one
   * of them, it checks and bumps the root, once. What is not listed does nothing.
   *
   * @see Evans and Vernon on aggregates; EclipseLink, `@OptimisticLocking(cascade = true)`
   */
  readonly aggregate?: readonly string[];
  /**
   * A trigger, which the schema generator and migrations create, bumps the version of a row that somebody changes past the
   * ORM without doing so.
   */
  readonly guard?: boolean;
}

/**
 * Mapped type of an optimistic lock version: an integer that starts at 1 and that every write of the row increments.
 * At run time the value is a plain `number`; `em.create()` does not ask for it.
 *
 * @throws {ValidationError} at discovery, on a driver that is not wrapped by `versioned()`
 * @see Fowler, Patterns of Enterprise Application Architecture, "Optimistic Offline Lock"
 */
export class VersionField extends Type<Opt<number>, number> {
  /** @internal */
  readonly start: 'random' | undefined;
  /** @internal */
  readonly exclude: readonly string[];
  /** @internal */
  readonly aggregate: readonly string[];
  /** @internal */
  readonly guard: boolean;

  /** @param options what the version starts with, and what it covers */
  constructor(options: VersionOptions = {}) {
    super();
    this.start = options.start;
    this.exclude = options.exclude ?? [];
    this.aggregate = options.aggregate ?? [];
    this.guard = options.guard ?? false;
    // Discovery assigns the platform to every custom type, with or without an explicit column type: the one moment
    // at which an unwrapped driver can be told apart before any SQL.
    let current: Platform | undefined;
    Object.defineProperty(this, 'platform', {
      get: () => current,
      set: (platform: MaybeChecked) => {
        if (!platform[CHECKED]) {
          throw new ValidationError(
            `A VersionField was found, but the driver checks no versions. Wrap it in the MikroORM config: ` +
              `driver: versioned(…), from '@mikro-ool/driver'.`,
          );
        }
        current = platform;
      },
    });
  }

  override convertToJSValue(value: number): Opt<number> {
    return (value == null ? value : Number(value)) as Opt<number>;
  }

  override getColumnType(prop: EntityProperty, platform: Platform): string {
    return prop.columnTypes?.[0] ?? platform.getIntegerTypeDeclarationSQL(prop);
  }

  override compareAsType(): string {
    return 'number';
  }

  /** A bigint comes as text from some drivers, and a snapshot that has text would make every row that is loaded a changed one. */
  override ensureComparable(_meta: object, { columnTypes }: EntityProperty): boolean {
    return /^(?:bigint|bigserial|int8)/i.test(columnTypes[0] ?? '');
  }
}

recogniseCopies(VersionField, 'VersionField');

/** @internal The version property of a class, when it is one of ours; a `Date` version is not. */
export function versionOf(meta: EntityMetadata): EntityProperty | undefined {
  const prop = meta.versionProperty && meta.properties[meta.versionProperty];
  return prop && prop.customType instanceof VersionField ? prop : undefined;
}

/**
 * @internal `versioned()` says here that versions are checked for every driver on this platform.
 *
 * @param readsCurrent does a plain SELECT in a transaction see what a write would see, or a snapshot?
 */
export function registerPlatform(platform: Platform, readsCurrent: boolean): void {
  Object.defineProperties(platform, { [CHECKED]: { value: true }, [SNAPSHOTS]: { value: !readsCurrent } });
}

/** @internal Did a driver say so, of whichever copy of these packages? */
export function isChecked(platform: Platform): boolean {
  return Boolean((platform as MaybeChecked)[CHECKED]);
}

/** @internal Has a SELECT in a transaction to lock what it reads, or it would see a snapshot? */
export function readsSnapshots(platform: Platform): boolean {
  return Boolean((platform as MaybeChecked)[SNAPSHOTS]);
}

const maxima = new WeakMap<EntityProperty, number>();

/** @internal The largest version that the column of a property can hold, as far as JavaScript counts exactly. */
export function maximumVersion(prop: EntityProperty): number {
  let maximum = maxima.get(prop);
  if (maximum === undefined) {
    const type = prop.columnTypes[0]!.toLowerCase();
    const signed = COLUMN_MAXIMUM.find(([pattern]) => pattern.test(type))?.[1] ?? 2_147_483_647;
    const unsigned = type.includes('unsigned') || (prop.unsigned && prop.customType!.platform!.supportsUnsigned());
    maximum = unsigned && signed !== Number.MAX_SAFE_INTEGER ? signed * 2 + 1 : signed;
    maxima.set(prop, maximum);
  }
  return maximum;
}

/** @internal The largest version that a row may be given: a tenth of the column is left for its changes. */
export function maximumStart(prop: EntityProperty): number {
  const maximum = maximumVersion(prop);
  return maximum - Math.floor(maximum / 10);
}

/** The largest range that `randomInt()` can do. */
const RANDOM_RANGE = 2 ** 48 - 1;

/** @internal The version that a new row starts with when none is given. */
export function initialVersion(prop: EntityProperty): number {
  if ((prop.customType as VersionField | undefined)?.start === 'random') {
    return randomInt(1, Math.min(Math.floor(maximumVersion(prop) / 2) + 1, RANDOM_RANGE));
  }
  return Number(prop.default ?? prop.defaultRaw);
}
