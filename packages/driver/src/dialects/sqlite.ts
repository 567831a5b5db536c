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
import { assignments, sameVersion, valueColumns } from './values.ts';

export const sqlite: Dialect = {
  update(batch) {
    const list = valueList(batch, batch.columns);
    const set = assignments(batch, '_v', (column, value) => column.convert?.(value) ?? value);
    const returning = batch.returning.length > 0 ? ` returning ${batch.returning.join(', ')}` : '';
    return {
      sql:
        `${list.sql} update ${batch.table} as "_t" set ${set} ` +
        `from "_v" where ${sameVersion(batch, '_t', '_v')} and ${allMatch(batch)}${returning}`,
      params: list.params,
    };
  },

  delete(rows) {
    const list = valueList(rows);
    const names = [...rows.keys, rows.version].map((column) => column.name).join(', ');
    return {
      sql: `${list.sql} delete from ${rows.table} where (${names}) in (select ${list.names} from "_v") and ${allMatch(rows)}`,
      params: list.params,
    };
  },

  lostRaceCodes: ['SQLITE_BUSY_SNAPSHOT'],
};

function valueList(rows: BatchRows, columns?: readonly Column[]): Statement & { names: string } {
  const list = valueColumns(rows, columns);
  const names = [...list.keys()].map((name) => `"${name}"`).join(', ');
  const lines = rows.version.values.map((_, r) => [...list.values()].map((column) => column.values[r]));
  const row = `(${[...list.keys()].map(() => '?').join(', ')})`;
  return {
    names,
    sql: `with "_v" (${names}) as (values ${lines.map(() => row).join(', ')})`,
    params: lines.flat(),
  };
}

function allMatch(rows: BatchRows): string {
  return `(select count(*) from "_v" cross join ${rows.table} as "_c" where ${sameVersion(rows, '_c', '_v')}) = ${rows.version.values.length}`;
}
