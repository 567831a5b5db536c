/** The batch statements, letter by letter, for every dialect. */
import { expect, test } from 'vitest';
import { isRaw } from '@mikro-orm/core';
import type { BatchUpdate, Dialect, Statement } from '../src/write/dialects/dialect.ts';
import { mysql } from '../src/write/dialects/mysql.ts';
import { postgresql } from '../src/write/dialects/postgresql.ts';
import { sqlite } from '../src/write/dialects/sqlite.ts';

const dialects: Record<string, Dialect> = { postgresql, sqlite, mysql };

/** Two rows that change the same column, as in the README. */
const simple: BatchUpdate = {
  table: '"article"',
  keys: [{ name: '"id"', type: 'serial', values: [1, 2] }],
  version: { name: '"version"', type: 'int', values: [3, 1] },
  columns: [{ name: '"title"', type: 'varchar(255)', values: ['a', `it's "b" \\`] }],
  returning: [],
};

/** A composite key with text in it, mixed columns, a conversion, an array, dates, and a computed column. */
const rich: BatchUpdate = {
  table: '"app"."visit"',
  keys: [
    { name: '"tenant"', type: 'varchar(20)', values: ['x', 'y'] },
    { name: '"day"', type: 'date', values: ['2024-02-29', '2024-03-01'] },
  ],
  version: { name: '"version"', type: 'bigint', values: [1, 1] },
  columns: [
    { name: '"note"', type: 'char(5)', values: ['n', null], changed: [true, false] },
    { name: '"data"', type: 'jsonb', values: ['{}', '[1]'], convert: (value) => `${value}::jsonb` },
    { name: '"tags"', type: 'text[]', values: ['{a}', null] },
    { name: '"at"', type: 'timestamptz(3)', values: [new Date(0), null] },
  ],
  returning: ['"tenant"', '"day"', '"total"'],
};

/** Rows that do not change the same columns. */
const mixed: BatchUpdate = { ...simple, columns: [{ ...simple.columns[0]!, changed: [true, false] }] };

const statements: Record<string, Record<string, { sql: string; params: unknown[] }>> = {
  postgresql: {
    update: {
      sql:
        'update "article" as _t set "title" = (?::varchar[])[array_position(?::bigint[], _t."id"::bigint)], ' +
        '"version" = _t."version" + 1 where _t."id" = any(?::int[]) and (select count(*) from (select 1 from ' +
        '"article" as _r where _r."id" = any(?::int[]) and _r."version" = ' +
        '(?::int[])[array_position(?::bigint[], _r."id"::bigint)] order by _r."id" for no key update) as _l) ' +
        '= 2',
      params: [`E'{"a","it''s \\\\"b\\\\" \\\\\\\\"}'`, `'{1,2}'`, `'{1,2}'`, `'{1,2}'`, `'{3,1}'`, `'{1,2}'`],
    },
    'update, alone': {
      sql:
        'with _w as (update "article" as _t set "title" = (?::varchar[])[array_position(?::bigint[], ' +
        '_t."id"::bigint)], "version" = _t."version" + 1 where _t."id" = any(?::int[]) and (select count(*) ' +
        'from (select 1 from "article" as _r where _r."id" = any(?::int[]) and _r."version" = ' +
        '(?::int[])[array_position(?::bigint[], _r."id"::bigint)] order by _r."id" for no key update) as _l) ' +
        `= 2 returning 1) select (case when count(*) in (0, 2) then count(*)::text else count(*) || ' of 2: a ` +
        `trigger, a rule or a row policy has kept back rows, so nothing is written' end)::bigint as n from _w`,
      params: [`E'{"a","it''s \\\\"b\\\\" \\\\\\\\"}'`, `'{1,2}'`, `'{1,2}'`, `'{1,2}'`, `'{3,1}'`, `'{1,2}'`],
    },
    'update of other columns per row, alone': {
      sql:
        'with _l as materialized (select _v.* from "article" as _t join unnest(?::int[], ?::int[], ' +
        '?::varchar[], ?::bool[]) as _v (k0, v, c0, f0) on _t."id" = _v.k0 and _t."version" = _v.v where ' +
        '_t."id" = any(?::int[]) order by _t."id" for no key update of _t), _w as (update "article" as _t set ' +
        '"title" = case when _l.f0 then _l.c0 else _t."title" end, "version" = _t."version" + 1 from _l where ' +
        '_t."id" = _l.k0 and (select count(*) from _l) = 2 returning 1) select (case when count(*) in (0, 2) ' +
        `then count(*)::text else count(*) || ' of 2: a trigger, a rule or a row policy has kept back rows, ` +
        `so nothing is written' end)::bigint as n from _w`,
      params: [`'{1,2}'`, `'{3,1}'`, `E'{"a","it''s \\\\"b\\\\" \\\\\\\\"}'`, `'{true,false}'`, `'{1,2}'`],
    },
    'rich update': {
      sql:
        'with _l as materialized (select _v.* from "app"."visit" as _t join unnest(?::varchar[], ?::date[], ' +
        '?::bigint[], ?::bpchar[], ?::bool[], ?::text[], ?::text[], array[?, ?]::timestamptz[]) as _v (k0, ' +
        'k1, v, c0, f0, c1, c2, c3) on _t."tenant" = _v.k0 and _t."day" = _v.k1 and _t."version" = _v.v where ' +
        '_t."tenant" = any(?::varchar[]) order by _t."tenant" collate "C", _t."day" for no key update of _t) ' +
        'update "app"."visit" as _t set "note" = case when _l.f0 then _l.c0 else _t."note" end, "data" = ' +
        '_l.c1::jsonb, "tags" = _l.c2::text[], "at" = _l.c3, "version" = _t."version" + 1 from _l where ' +
        '_t."tenant" = _l.k0 and _t."day" = _l.k1 returning _t."tenant", _t."day", _t."total"',
      params: [
        `'{"x","y"}'`,
        `'{"2024-02-29","2024-03-01"}'`,
        `'{1,1}'`,
        `'{"n",NULL}'`,
        `'{true,false}'`,
        `'{"{}","[1]"}'`,
        `'{"{a}",NULL}'`,
        new Date(0),
        null,
        `'{"x","y"}'`,
      ],
    },
    delete: {
      sql:
        'delete from "article" as _t where _t."id" = any(?::int[]) and (select count(*) from (select 1 from ' +
        '"article" as _r where _r."id" = any(?::int[]) and _r."version" = ' +
        '(?::int[])[array_position(?::bigint[], _r."id"::bigint)] order by _r."id" for update) as _l) = 2',
      params: [`'{1,2}'`, `'{1,2}'`, `'{3,1}'`, `'{1,2}'`],
    },
    'delete, alone': {
      sql:
        'with _w as (delete from "article" as _t where _t."id" = any(?::int[]) and (select count(*) from ' +
        '(select 1 from "article" as _r where _r."id" = any(?::int[]) and _r."version" = ' +
        '(?::int[])[array_position(?::bigint[], _r."id"::bigint)] order by _r."id" for update) as _l) = 2 ' +
        `returning 1) select (case when count(*) in (0, 2) then count(*)::text else count(*) || ' of 2: a ` +
        `trigger, a rule or a row policy has kept back rows, so nothing is written' end)::bigint as n from _w`,
      params: [`'{1,2}'`, `'{1,2}'`, `'{3,1}'`, `'{1,2}'`],
    },
    'delete of a composite key': {
      sql:
        'with _l as materialized (select _v.* from "app"."visit" as _t join unnest(?::varchar[], ?::date[], ' +
        '?::bigint[]) as _v (k0, k1, v) on _t."tenant" = _v.k0 and _t."day" = _v.k1 and _t."version" = _v.v ' +
        'where _t."tenant" = any(?::varchar[]) order by _t."tenant" collate "C", _t."day" for update of _t) ' +
        'delete from "app"."visit" as _t using _l where _t."tenant" = _l.k0 and _t."day" = _l.k1 and (select ' +
        'count(*) from _l) = 2',
      params: [`'{"x","y"}'`, `'{"2024-02-29","2024-03-01"}'`, `'{1,1}'`, `'{"x","y"}'`],
    },
  },
  sqlite: {
    update: {
      sql:
        'update "article" as _t set "title" = (_v.value ->> 2), "version" = _t."version" + 1 from ' +
        'json_each(?) as _v where _t."id" = (_v.value ->> 0) and _t."version" = (_v.value ->> 1)',
      params: [`[[1,3,"a"],[2,1,"it's \\"b\\" \\\\"]]`],
    },
    'update, alone': {
      sql:
        'update "article" as _t set "title" = (_v.value ->> 2), "version" = _t."version" + 1 from ' +
        'json_each(?) as _v where _t."id" = (_v.value ->> 0) and _t."version" = (_v.value ->> 1) and ' +
        '(select count(*) from json_each(?) as _v cross join "article" as _t on _t."id" = (_v.value ->> 0) and ' +
        '_t."version" = (_v.value ->> 1)) = 2 and not exists (select 1 from sqlite_master where ' +
        `type = 'trigger' and tbl_name = 'article' collate nocase union all select 1 from sqlite_temp_master ` +
        `where type = 'trigger' and tbl_name = 'article' collate nocase)`,
      params: [`[[1,3,"a"],[2,1,"it's \\"b\\" \\\\"]]`, '[[1,3],[2,1]]'],
    },
    'update of other columns per row, alone': {
      sql:
        'update "article" as _t set "title" = case when (_v.value ->> 3) then (_v.value ->> 2) else ' +
        '_t."title" end, "version" = _t."version" + 1 from json_each(?) as _v where _t."id" = (_v.value ->> ' +
        '0) and _t."version" = (_v.value ->> 1) and (select count(*) from json_each(?) as _v ' +
        'cross join "article" as _t on _t."id" = (_v.value ->> 0) and _t."version" = (_v.value ->> 1)) = 2 and not exists ' +
        `(select 1 from sqlite_master where type = 'trigger' and tbl_name = 'article' collate nocase union ` +
        `all select 1 from sqlite_temp_master where type = 'trigger' and tbl_name = 'article' collate nocase)`,
      params: [`[[1,3,"a",true],[2,1,"it's \\"b\\" \\\\",false]]`, '[[1,3],[2,1]]'],
    },
    'rich update': {
      sql:
        'update "app"."visit" as _t set "note" = case when (_v.value ->> 4) then (_v.value ->> 3) else ' +
        '_t."note" end, "data" = (_v.value ->> 5)::jsonb, "tags" = (_v.value ->> 6), "at" = (_v.value ->> 7), ' +
        '"version" = _t."version" + 1 from json_each(?) as _v where _t."tenant" = (_v.value ->> 0) and ' +
        '_t."day" = (_v.value ->> 1) and _t."version" = (_v.value ->> 2) returning "tenant", "day", "total"',
      params: ['[["x","2024-02-29",1,"n",true,"{}","{a}",0],["y","2024-03-01",1,null,false,"[1]",null,null]]'],
    },
    delete: {
      sql:
        'delete from "article" where "id" in (?, ?) and (select count(*) from (values (?, ?), (?, ?)) as _v ' +
        'cross join "article" as _t on _t."id" = _v.column1 and _t."version" = _v.column2) = 2',
      params: [1, 2, 1, 3, 2, 1],
    },
    'delete, alone': {
      sql:
        'delete from "article" where "id" in (?, ?) and (select count(*) from (values (?, ?), (?, ?)) as _v ' +
        'cross join "article" as _t on _t."id" = _v.column1 and _t."version" = _v.column2) = 2 and not exists ' +
        `(select 1 from sqlite_master where type = 'trigger' and tbl_name = 'article' collate nocase union ` +
        `all select 1 from sqlite_temp_master where type = 'trigger' and tbl_name = 'article' collate nocase)`,
      params: [1, 2, 1, 3, 2, 1],
    },
    'delete of a composite key': {
      sql:
        'delete from "app"."visit" where ("tenant", "day") in (values (?, ?), (?, ?)) and (select count(*) ' +
        'from (values (?, ?, ?), (?, ?, ?)) as _v cross join "app"."visit" as _t on _t."tenant" = _v.column1 ' +
        'and _t."day" = _v.column2 and _t."version" = _v.column3) = 2',
      params: ['x', '2024-02-29', 'y', '2024-03-01', 'x', '2024-02-29', 1, 'y', '2024-03-01', 1],
    },
  },
  mysql: {
    update: {
      sql:
        'update "article" as _t force index (primary) straight_join (select ? as k0, ? as v, ? as c0 union ' +
        'all select ?, ?, ?) as _v set _t."title" = _v.c0, _t."version" = _t."version" + 1 where _t."id" in ' +
        '(?, ?) and _t."id" = _v.k0 and _t."version" = _v.v',
      params: [1, 3, 'a', 2, 1, `it's "b" \\`, 1, 2],
    },
    'update, alone': {
      sql:
        'update "article" as _t force index (primary) straight_join (select ? as k0, ? as v, ? as c0 union ' +
        'all select ?, ?, ?) as _v set _t."title" = _v.c0, _t."version" = _t."version" + 1 where _t."id" in ' +
        '(?, ?) and _t."id" = _v.k0 and _t."version" = _v.v and @@autocommit = 1 and (select n from (select ' +
        'sum(("id", "version") in ((?, ?), (?, ?))) as n from "article" force index (primary) where "id" in ' +
        '(?, ?) for update) as _l) = 2',
      params: [1, 3, 'a', 2, 1, `it's "b" \\`, 1, 2, 1, 3, 2, 1, 1, 2],
    },
    'update of other columns per row, alone': {
      sql:
        'update "article" as _t force index (primary) straight_join (select ? as k0, ? as v, ? as c0, ? as ' +
        'f0 union all select ?, ?, ?, ?) as _v set _t."title" = case when _v.f0 then _v.c0 else _t."title" ' +
        'end, _t."version" = _t."version" + 1 where _t."id" in (?, ?) and _t."id" = _v.k0 and _t."version" = ' +
        '_v.v and @@autocommit = 1 and (select n from (select sum(("id", "version") in ((?, ?), (?, ?))) as ' +
        'n from "article" force index (primary) where "id" in (?, ?) for update) as _l) = 2',
      params: [1, 3, 'a', true, 2, 1, `it's "b" \\`, false, 1, 2, 1, 3, 2, 1, 1, 2],
    },
    'rich update': {
      sql:
        'update "app"."visit" as _t force index (primary) straight_join (select ? as k0, ? as k1, ? as v, ? ' +
        'as c0, ? as f0, ? as c1, ? as c2, ? as c3 union all select ?, ?, ?, ?, ?, ?, ?, ?) as _v set ' +
        '_t."note" = case when _v.f0 then _v.c0 else _t."note" end, _t."data" = _v.c1::jsonb, _t."tags" = ' +
        '_v.c2, _t."at" = _v.c3, _t."version" = _t."version" + 1 where (_t."tenant", _t."day") in ((?, ?), ' +
        '(?, ?)) and _t."tenant" = _v.k0 and _t."day" = _v.k1 and _t."version" = _v.v',
      params: [
        'x',
        '2024-02-29',
        1,
        'n',
        true,
        '{}',
        '{a}',
        new Date(0),
        'y',
        '2024-03-01',
        1,
        null,
        false,
        '[1]',
        null,
        null,
        'x',
        '2024-02-29',
        'y',
        '2024-03-01',
      ],
    },
    delete: {
      sql:
        'delete from "article" using "article" force index (primary) where "id" in (?, ?) and "version" is ' +
        'not null and (select n from (select sum(("id", "version") in ((?, ?), (?, ?))) as n from "article" ' +
        'force index (primary) where "id" in (?, ?) for update) as _l) = 2',
      params: [1, 2, 1, 3, 2, 1, 1, 2],
    },
    'delete, alone': {
      sql:
        'delete from "article" using "article" force index (primary) where "id" in (?, ?) and "version" is ' +
        'not null and (select n from (select sum(("id", "version") in ((?, ?), (?, ?))) as n from "article" ' +
        'force index (primary) where "id" in (?, ?) for update) as _l) = 2 and @@autocommit = 1',
      params: [1, 2, 1, 3, 2, 1, 1, 2],
    },
    'delete of a composite key': {
      sql:
        'delete from "app"."visit" using "app"."visit" force index (primary) where ("tenant", "day") in ((?, ' +
        '?), (?, ?)) and "version" is not null and (select n from (select sum(("tenant", "day", "version") ' +
        'in ((?, ?, ?), (?, ?, ?))) as n from "app"."visit" force index (primary) where ("tenant", "day") in ' +
        '((?, ?), (?, ?)) for update) as _l) = 2',
      params: [
        'x',
        '2024-02-29',
        'y',
        '2024-03-01',
        'x',
        '2024-02-29',
        1,
        'y',
        '2024-03-01',
        1,
        'x',
        '2024-02-29',
        'y',
        '2024-03-01',
      ],
    },
  },
};

/** Literals of ours are fragments, which MikroORM takes as they are. */
const shown = ({ sql, params }: Statement) => ({
  sql,
  params: params.map((param) => (isRaw(param) ? param.sql : param)),
});

for (const [name, dialect] of Object.entries(dialects)) {
  const made = {
    update: dialect.update(simple),
    'update, alone': dialect.update(simple, true),
    'update of other columns per row, alone': dialect.update(mixed, true),
    'rich update': dialect.update(rich),
    delete: dialect.delete(simple),
    'delete, alone': dialect.delete(simple, true),
    'delete of a composite key': dialect.delete(rich),
  };
  for (const [title, statement] of Object.entries(made)) {
    test(`${name}: ${title}`, () => expect(shown(statement)).toEqual(statements[name]![title]));
  }
}

test('which errors leave open whether a statement was carried out', () => {
  const errors = [
    { code: '40003', loses: true },
    { code: '40001', loses: false },
    { code: '23505', loses: false },
    { code: '57014', loses: false },
    { message: 'Query read timeout', loses: true },
    { message: 'Connection terminated due to connection timeout', loses: false },
    { message: 'Client has encountered a connection error and is not queryable', loses: false },
    { message: 'Client was closed and is not queryable', loses: false },
    { message: 'Connection terminated unexpectedly', loses: true },
    { message: 'Connection terminated', loses: true },
    ...['08006', '08P01', '57P01', '57P02', 'ECONNRESET', 'EPIPE', 'ETIMEDOUT'].map((code) => ({ code, loses: true })),
    { code: 'ECONNREFUSED', loses: false },
  ];
  for (const { loses, ...error } of errors) {
    expect([error, postgresql.losesAnswer(error)]).toEqual([error, loses]);
    expect(sqlite.losesAnswer(error)).toBe(false);
  }
});

test('sqlite: what JSON cannot carry goes into a list of VALUES', () => {
  for (const value of [Buffer.from([1]), Infinity, '\0', '\ud800']) {
    const columns = [{ ...simple.columns[0]!, values: ['a', value] }];
    const { sql, params } = sqlite.update({ ...simple, columns });
    expect(sql).toContain(
      'from (values (?, ?, ?), (?, ?, ?)) as _v where _t."id" = _v.column1 and _t."version" = _v.column2',
    );
    expect(params).toEqual([1, 3, 'a', 2, 1, value]);
  }
});

test('mysql: large numbers, which MikroORM has as strings, are compared as numbers', () => {
  const keys = [{ name: '`id`', type: 'bigint unsigned', values: ['9007199254740993', '-1'] }];
  expect(shown(mysql.delete({ ...simple, keys })).params.slice(0, 2)).toEqual(['9007199254740993', '-1']);
  expect(
    mysql
      .delete({ ...simple, keys })
      .params.slice(0, 2)
      .every(isRaw),
  ).toBe(true);
});
