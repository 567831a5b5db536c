/**
 * SQLite: a VALUES list, joined.
 *
 *   with "_v" ("k0", "v", "c0") as (values (1, 3, 'a'), (2, 1, 'b'))
 *   update "article" as "_t" set "title" = "_v"."c0", "version" = "_v"."v" + 1
 *   from "_v" where "_t"."id" = "_v"."k0" and "_t"."version" = "_v"."v"
 *     and (select count(*) from "_v" cross join "article" as "_c" where …) = 2
 *
 * A connection that writes holds the only write lock, so counting the matches and writing them see the same rows.
 */
import type { BatchRows, Column, Dialect, Statement } from '../dialect.ts';

export const sqlite: Dialect = {
  update(batch) {
    const list = valueList(batch, batch.columns);
    const set = batch.columns.map((column, i) => {
      const value = column.convert?.(`"_v"."c${i}"`) ?? `"_v"."c${i}"`;
      return `${column.name} = ${column.changed ? `case when "_v"."f${i}" then ${value} else "_t".${column.name} end` : value}`;
    });
    const returning = batch.returning.length > 0 ? ` returning ${batch.returning.join(', ')}` : '';
    return {
      sql:
        `${list.sql} update ${batch.table} as "_t" set ${[...set, `${batch.version.name} = "_v"."v" + 1`].join(', ')} ` +
        `from "_v" where ${match(batch, '_t')} and ${allMatch(batch)}${returning}`,
      params: list.params,
    };
  },

  delete(rows) {
    const list = valueList(rows, []);
    const names = [...rows.keys, rows.version].map((column) => column.name).join(', ');
    const selected = [...rows.keys.map((_, i) => `"k${i}"`), '"v"'].join(', ');
    return {
      sql: `${list.sql} delete from ${rows.table} where (${names}) in (select ${selected} from "_v") and ${allMatch(rows)}`,
      params: list.params,
    };
  },

  lostRaceCodes: ['SQLITE_BUSY_SNAPSHOT'],
};

function valueList(rows: BatchRows, columns: readonly Column[]): Statement {
  const names: string[] = [];
  const values: (readonly unknown[])[] = [];
  const add = (name: string, list: readonly unknown[]) => {
    names.push(`"${name}"`);
    values.push(list);
  };
  rows.keys.forEach((key, i) => add(`k${i}`, key.values));
  add('v', rows.version.values);
  columns.forEach((column, i) => {
    add(`c${i}`, column.values);
    if (column.changed) {
      add(`f${i}`, column.changed);
    }
  });
  const row = `(${names.map(() => '?').join(', ')})`;
  return {
    sql: `with "_v" (${names.join(', ')}) as (values ${rows.version.values.map(() => row).join(', ')})`,
    params: rows.version.values.flatMap((_, r) => values.map((list) => list[r])),
  };
}

function match(rows: BatchRows, alias: string): string {
  const keys = rows.keys.map((key, i) => `"${alias}".${key.name} = "_v"."k${i}"`);
  return [...keys, `"${alias}".${rows.version.name} = "_v"."v"`].join(' and ');
}

function allMatch(rows: BatchRows): string {
  return `(select count(*) from "_v" cross join ${rows.table} as "_c" where ${match(rows, '_c')}) = ${rows.version.values.length}`;
}
