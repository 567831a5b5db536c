/**
 * Writes outside a flush bump every row that they change in a column that the version covers. An update takes a version
 * that is given; an upsert of a row that exists takes the greater one of it and the next one: events bring versions of
 * their own, and a body's `version: 3` must not turn 9 back into 3.
 */
import { type Dictionary, type EntityMetadata, type EntityProperty, type Platform, Utils, raw } from '@mikro-orm/core';
import { VersionField, initialVersion, maximumVersion, versionOf } from '@mikro-ool/core';
import { areUncovered } from '../covers/exclude.ts';
import { ownVersionOf } from '../discovery.ts';
import { type Layer, StateOn, putting } from '../mikro-orm/layers.ts';
import { type Helper, bumpUnless } from '../mikro-orm/query-builder.ts';
import { someExhausted, validateGiven } from '../versions.ts';
import { type DriverError, dialectOf } from '../write/dialects/index.ts';

/** The parts of a query builder that write; em.nativeUpdate(), em.upsert() and users call them alike. */
interface Writer {
  mainAlias: { meta: EntityMetadata };
  em?: object;
  type: string;
  /** The transaction that it was made in. */
  context?: object;
  state: { data?: object; returning?: string[] };
  insert(data: object): unknown;
  helper: Helper;
  update(data: object): unknown;
  merge(data?: string[] | Record<string, unknown>): unknown;
  clone(...args: unknown[]): Writer;
  ignore(): unknown;
  returning(fields: string[]): unknown;
  andWhere(condition: object): unknown;
  execute(...args: unknown[]): Promise<unknown>;
}

/** The version that data names by property or by column. */
function givenVersion(data: Dictionary, { name, fieldNames }: EntityProperty): unknown {
  return data[name] ?? data[fieldNames[0]!];
}

/**
 * Validates the versions that rows are given by whoever writes them; nothing is compared with a row.
 *
 * @throws {InvalidVersion} when one is no version, or leaves its row no room for changes
 */
export function validateVersions(meta: EntityMetadata, rows: readonly object[]): void {
  const version = ownVersionOf(meta);
  if (version) {
    rows.forEach((row) => validateGiven(meta, givenVersion(row, version)));
  }
}

/** The data of new rows, each with a version where versions start at random. */
export function withInitialVersions<Rows extends readonly object[]>(meta: EntityMetadata, rows: Rows): Rows {
  validateVersions(meta, rows);
  const version = ownVersionOf(meta);
  const isMissing = (row: object) => givenVersion(row, version!) == null;
  // elsewhere the column's default is the same
  if ((version?.customType as VersionField | undefined)?.start !== 'random' || !rows.some(isMissing)) {
    return rows;
  }
  return rows.map((row) => (isMissing(row) ? { ...row, [version!.name]: initialVersion(version!) } : row)) as never;
}

/** What is known of a query builder. */
interface WriterState {
  readonly platform: Platform;
  /** Is told before rows of a class with a version are written in a transaction. */
  readonly writing: (transaction: object) => void;
  /** Rows that are left out: a flush that also deletes them would no longer find their version. */
  readonly spared?: (meta: EntityMetadata) => unknown[];
  /** A version was given by whoever inserts. */
  isGiven: boolean;
}

const states = new StateOn<WriterState>();

/**
 * Makes a query builder bump the version, and give new rows one.
 *
 * @param writing is told before rows of a class with a version are written in a transaction
 * @param spared the keys of rows that it leaves out
 */
export function bumpSetBasedWrites(
  qb: object,
  platform: Platform,
  writing: (transaction: object) => void,
  spared?: (meta: EntityMetadata) => unknown[],
): void {
  states.give(qb, { platform, writing, spared, isGiven: false });
  overWriter(qb);
}

/** What a query builder does that changes nothing. */
const READS = ['SELECT', 'COUNT'];

const bumping: Layer<Writer> = (Base) =>
  class extends Base {
    override insert(data: object): unknown {
      const state = states.of(this);
      const { meta } = this.mainAlias;
      const version = ownVersionOf(meta);
      if (!version || !data || Utils.isEntity(data)) {
        state.isGiven = true;
        return super.insert(data);
      }
      const rows = Utils.asArray(data);
      state.isGiven = rows.some((row) => givenVersion(row, version) != null);
      const complete = withInitialVersions(meta, rows);
      return super.insert(Array.isArray(data) ? complete : complete[0]!);
    }

    override update(data: object): unknown {
      // without an EntityManager it is the driver's own, whose data is checked already
      if (this.em) {
        validateVersions(this.mainAlias.meta, [data]);
      }
      const result = super.update(data);
      takeGivenVersion(this, states.of(this));
      return result;
    }

    override clone(...args: unknown[]): Writer {
      const copy = super.clone(...args);
      const { platform, writing, spared } = states.of(this);
      bumpSetBasedWrites(copy, platform, writing, spared);
      takeGivenVersion(copy, states.of(copy));
      return copy;
    }

    override merge(data?: string[] | Record<string, unknown>): unknown {
      const merged = mergedColumns(this, states.of(this), data);
      if (!merged) {
        return super.merge(data);
      }
      return Object.keys(merged).length > 0 ? super.merge(merged) : this.ignore();
    }

    override async execute(...args: unknown[]): Promise<unknown> {
      const { meta } = this.mainAlias;
      const { platform, writing, spared } = states.of(this);
      if (this.context && !READS.includes(this.type) && versionOf(meta)) {
        writing(this.context);
      }
      const keys = spared?.(meta) ?? [];
      if (keys.length > 0) {
        this.andWhere({ [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $nin: keys } });
      }
      try {
        return await super.execute(...args);
      } catch (error) {
        throw dialectOf(platform)?.isAtEnd?.(error as DriverError) ? someExhausted(meta) : error;
      }
    }
  };

const overWriter = putting([bumping]);

/** What an upsert changes in a row that exists; none when it is nothing, `undefined` where it is as MikroORM has it. */
function mergedColumns(
  qb: Writer,
  { platform, isGiven }: WriterState,
  data?: string[] | Record<string, unknown>,
): Record<string, unknown> | undefined {
  const { meta } = qb.mainAlias;
  const version = ownVersionOf(meta);
  // joined-table inheritance: what is merged may all be in the other tables
  const joined = meta.inheritanceType === 'tpt';
  if (!version || (Array.isArray(data) && data.length === 0 && !joined)) {
    return undefined;
  }
  const quote = (name: string) => platform.quoteIdentifier(name);
  const proposed = dialectOf(platform)?.proposed ?? ((name: string) => `excluded.${name}`);
  const column = version.fieldNames[0]!;
  const values: Record<string, unknown> = {};
  if (Array.isArray(data) || !data) {
    for (const key of data ?? Object.keys(Utils.asArray(qb.state.data)[0]!)) {
      for (const field of columnsOf(meta, key)) {
        values[field] = raw(proposed(quote(field)));
      }
    }
  } else {
    validateVersions(meta, [data]);
    Object.assign(values, data);
  }
  const given = isGiven || !Array.isArray(data ?? []) ? givenVersion(values, version) : undefined;
  delete values[version.name];
  delete values[column];
  if (Object.keys(values).length === 0 && !joined) {
    return values;
  }
  const current = `${quote(meta.tableName)}.${quote(column)}`;
  const next = nextVersion(version, current, platform);
  if (given != null) {
    values[column] = raw(`case when ? > ${current} then ? else ${next} end`, [given, given]);
  } else if (!areUncovered(meta, Object.keys(values))) {
    values[column] = raw(next);
  }
  // MikroORM does not read back what was given, but the database may have another version now
  const { returning } = qb.state;
  if (returning && !returning.includes(version.name)) {
    qb.returning([...returning, version.name]);
  }
  return values;
}

/** The columns of a property, or of a path into an embeddable. */
function columnsOf(meta: EntityMetadata, path: string): string[] {
  const step = (props: Record<string, EntityProperty>, [name, ...rest]: string[]): EntityProperty | undefined =>
    rest.length > 0 ? step(props[name!]?.embeddedProps ?? {}, rest) : props[name!];
  return step(meta.properties, path.split('.'))?.fieldNames ?? [path];
}

/** The next version, where no flush has looked whether there is one. */
function nextVersion(version: EntityProperty, current: string, platform: Platform): string {
  return dialectOf(platform)?.next?.(current, maximumVersion(version)) ?? `${current} + 1`;
}

function takeGivenVersion(qb: Writer, { platform }: WriterState): void {
  const { meta } = qb.mainAlias;
  const version = ownVersionOf(meta);
  if (version) {
    const column = version.fieldNames[0]!;
    const isLeft = (columns: string[]) => columns.includes(column) || areUncovered(meta, columns);
    const next = nextVersion(version, platform.quoteIdentifier(column), platform);
    bumpUnless(qb.helper, { [column]: raw(next) }, isLeft);
  }
}
