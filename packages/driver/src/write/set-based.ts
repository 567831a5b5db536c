/**
 * Writes outside a flush bump every row that they change in a column that the version covers. An update takes a version that is given; an upsert of a row
 * that exists takes the greater one of it and the next one: events bring versions of their own, and a body's
 * `version: 3` must not turn 9 back into 3.
 */
import { type Dictionary, type EntityMetadata, type EntityProperty, type Platform, Utils, raw } from '@mikro-orm/core';
import { VersionField, initialVersion } from '@mikro-ool/core';
import { areExcluded } from '../covers/exclude.ts';
import { ownVersionOf } from '../discovery.ts';
import { type Helper, bumpUnless } from '../mikro-orm/query-builder.ts';
import { checkGiven } from '../versions.ts';
import { dialectOf } from './dialects/index.ts';

/** The parts of a query builder that write; em.nativeUpdate(), em.upsert() and users call them alike. */
export interface Writer {
  mainAlias: { meta: EntityMetadata };
  em?: object;
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

/** Makes this query builder leave out some rows: a flush that also deletes them would no longer find their version. */
export function sparing(qb: Writer, keysOf: (meta: EntityMetadata) => unknown[]): void {
  const { execute } = qb;
  qb.execute = (...args) => {
    const { meta } = qb.mainAlias;
    const keys = keysOf(meta);
    if (keys.length > 0) {
      qb.andWhere({ [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $nin: keys } });
    }
    return execute.apply(qb, args);
  };
}

/** The version that data names by property or by column. */
function givenVersion(data: Dictionary, { name, fieldNames }: EntityProperty): unknown {
  return data[name] ?? data[fieldNames[0]!];
}

/**
 * Looks at the versions that rows are given.
 *
 * @throws {InvalidVersion} when one is no version, or leaves its row no room for changes
 */
export function checkVersions(meta: EntityMetadata, rows: readonly object[]): void {
  const version = ownVersionOf(meta);
  if (version) {
    rows.forEach((row) => checkGiven(meta, givenVersion(row, version)));
  }
}

/** The data of new rows, each with a version where versions start at random. */
export function withInitialVersions<Rows extends readonly object[]>(meta: EntityMetadata, rows: Rows): Rows {
  checkVersions(meta, rows);
  const version = ownVersionOf(meta);
  const isMissing = (row: object) => givenVersion(row, version!) == null;
  // elsewhere the column's default is the same
  if ((version?.customType as VersionField | undefined)?.start !== 'random' || !rows.some(isMissing)) {
    return rows;
  }
  return rows.map((row) => (isMissing(row) ? { ...row, [version!.name]: initialVersion(version!) } : row)) as never;
}

/** Makes this query builder bump the version, and give new rows one. */
export function bumpSetBasedWrites(qb: Writer, platform: Platform): void {
  const { insert, update, merge, clone } = qb;
  const quote = (name: string) => platform.quoteIdentifier(name);
  const proposed = dialectOf(platform)?.proposed ?? ((column: string) => `excluded.${column}`);
  /** A version was given by whoever inserts. */
  let isGiven = false;

  qb.insert = (data) => {
    const { meta } = qb.mainAlias;
    const version = ownVersionOf(meta);
    if (!version || !data || Utils.isEntity(data)) {
      isGiven = true;
      return insert.call(qb, data);
    }
    const rows = Utils.asArray(data);
    isGiven = rows.some((row) => givenVersion(row, version) != null);
    const complete = withInitialVersions(meta, rows);
    return insert.call(qb, Array.isArray(data) ? complete : complete[0]!);
  };

  qb.update = (data) => {
    // without an EntityManager it is the driver's own, whose data is checked already
    if (qb.em) {
      checkVersions(qb.mainAlias.meta, [data]);
    }
    const result = update.call(qb, data);
    takeGivenVersion(qb);
    return result;
  };

  qb.clone = (...args) => {
    const copy = clone.apply(qb, args);
    bumpSetBasedWrites(copy, platform);
    takeGivenVersion(copy);
    return copy;
  };

  qb.merge = (data) => {
    const { meta } = qb.mainAlias;
    const version = ownVersionOf(meta);
    // joined-table inheritance: what is merged may all be in the other tables
    const joined = meta.inheritanceType === 'tpt';
    if (!version || (Array.isArray(data) && data.length === 0 && !joined)) {
      return merge.call(qb, data);
    }
    const column = version.fieldNames[0]!;
    const values: Record<string, unknown> = {};
    if (Array.isArray(data) || !data) {
      for (const key of data ?? Object.keys(Utils.asArray(qb.state.data)[0]!)) {
        for (const field of columnsOf(meta, key)) {
          values[field] = raw(proposed(quote(field)));
        }
      }
    } else {
      checkVersions(meta, [data]);
      Object.assign(values, data);
    }
    const given = isGiven || !Array.isArray(data ?? []) ? givenVersion(values, version) : undefined;
    delete values[version.name];
    delete values[column];
    if (Object.keys(values).length === 0 && !joined) {
      return qb.ignore();
    }
    const current = `${quote(meta.tableName)}.${quote(column)}`;
    if (given != null) {
      values[column] = raw(`case when ? > ${current} then ? else ${current} + 1 end`, [given, given]);
    } else if (!areExcluded(meta, Object.keys(values))) {
      values[column] = raw(`${current} + 1`);
    }
    // MikroORM does not read back what was given, but the database may have another version now
    const { returning } = qb.state;
    if (returning && !returning.includes(version.name)) {
      qb.returning([...returning, version.name]);
    }
    return merge.call(qb, values);
  };
}

/** The columns of a property, or of a path into an embeddable. */
function columnsOf(meta: EntityMetadata, path: string): string[] {
  const step = (props: Record<string, EntityProperty>, [name, ...rest]: string[]): EntityProperty | undefined =>
    rest.length > 0 ? step(props[name!]?.embeddedProps ?? {}, rest) : props[name!];
  return step(meta.properties, path.split('.'))?.fieldNames ?? [path];
}

function takeGivenVersion(qb: Writer): void {
  const { meta } = qb.mainAlias;
  const column = ownVersionOf(meta)?.fieldNames[0];
  if (column) {
    bumpUnless(qb.helper, (columns) => columns.includes(column) || areExcluded(meta, columns));
  }
}
