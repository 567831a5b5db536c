/**
 * Writes outside a flush bump every row that they change. An update takes a version that is given; an upsert never
 * does where the row exists already: a body's `version: 3` must not turn 9 back into 3, it counts for the insert only.
 */
import { type EntityMetadata, type EntityProperty, type Platform, Utils, raw } from '@mikro-orm/core';
import { ownVersionOf } from '../discovery.ts';
import { dialectOf } from './dialects/index.ts';

/** The parts of a query builder that write; em.nativeUpdate(), em.upsert() and users call them alike. */
export interface Writer {
  mainAlias: { meta: EntityMetadata };
  state: { data?: object; returning?: string[] };
  update(data: object): unknown;
  merge(data?: string[] | Record<string, unknown>): unknown;
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

/** Makes `update()` and `merge()` of this query builder bump the version. */
export function bumpSetBasedWrites(qb: Writer, platform: Platform): void {
  const { update, merge } = qb;
  const quote = (name: string) => platform.quoteIdentifier(name);
  const proposed = dialectOf(platform)?.proposed ?? ((column: string) => `excluded.${column}`);

  qb.update = (data) => {
    const result = update.call(qb, data);
    const version = ownVersionOf(qb.mainAlias.meta);
    const column = version?.fieldNames[0];
    // MikroORM looks for a given version by property, but has the data by column then
    if (version && column && qb.state.data && Object.hasOwn(qb.state.data, column)) {
      Object.defineProperty(qb.state.data, version.name, { enumerable: version.name === column });
    }
    return result;
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
      const properties = meta.properties as Record<string, EntityProperty>;
      for (const key of data ?? Object.keys(Utils.asArray(qb.state.data)[0]!)) {
        for (const field of properties[key]?.fieldNames ?? [key]) {
          values[field] = raw(proposed(quote(field)));
        }
      }
    } else {
      Object.assign(values, data);
    }
    delete values[version.name];
    delete values[column];
    if (Object.keys(values).length === 0 && !joined) {
      return qb.ignore();
    }
    values[column] = raw(`${quote(meta.tableName)}.${quote(column)} + 1`);
    // MikroORM does not read back what was given, but the database may have another version now
    const { returning } = qb.state;
    if (returning && !returning.includes(version.name)) {
      qb.returning([...returning, version.name]);
    }
    return merge.call(qb, values);
  };
}
