/** The batch statements, letter by letter, for every dialect. */
import { expect, test } from 'vitest';
import type { BatchUpdate, Dialect } from '../src/dialect.ts';
import { postgresql } from '../src/dialects/postgresql.ts';
import { sqlite } from '../src/dialects/sqlite.ts';

const dialects: Record<string, Dialect> = { postgresql, sqlite };

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

const statements: Record<string, Record<'update' | 'rich update' | 'delete', { sql: string; params: unknown[] }>> = {
  postgresql: {
    update: {
      sql:
        'with "_l" as materialized (select "_v".* from "article" as "_t" join unnest(?::int[], ?::int[], ?::varchar[]) as "_v" ("k0", "v", "c0") ' +
        'on "_t"."id" = "_v"."k0" and "_t"."version" = "_v"."v" where "_t"."id" = any(?::int[]) order by "_t"."id" for no key update of "_t") ' +
        'update "article" as "_t" set "title" = "_l"."c0", "version" = "_l"."v" + 1 ' +
        'from "_l" where "_t"."id" = "_l"."k0" and (select count(*) from "_l") = 2',
      params: ['{1,2}', '{3,1}', '{"a","it\'s \\"b\\" \\\\"}', '{1,2}'],
    },
    'rich update': {
      sql:
        'with "_l" as materialized (select "_v".* from "app"."visit" as "_t" ' +
        'join unnest(?::varchar[], ?::date[], ?::bigint[], ?::bpchar[], ?::bool[], ?::text[], ?::text[], array[?, ?]::timestamptz[]) ' +
        'as "_v" ("k0", "k1", "v", "c0", "f0", "c1", "c2", "c3") ' +
        'on "_t"."tenant" = "_v"."k0" and "_t"."day" = "_v"."k1" and "_t"."version" = "_v"."v" ' +
        'where "_t"."tenant" = any(?::varchar[]) order by "_t"."tenant" collate "C", "_t"."day" for no key update of "_t") ' +
        'update "app"."visit" as "_t" set "note" = case when "_l"."f0" then "_l"."c0" else "_t"."note" end, ' +
        '"data" = "_l"."c1"::jsonb, "tags" = "_l"."c2"::text[], "at" = "_l"."c3", "version" = "_l"."v" + 1 ' +
        'from "_l" where "_t"."tenant" = "_l"."k0" and "_t"."day" = "_l"."k1" and (select count(*) from "_l") = 2 ' +
        'returning "_t"."tenant", "_t"."day", "_t"."total"',
      params: [
        '{"x","y"}',
        '{"2024-02-29","2024-03-01"}',
        '{1,1}',
        '{"n",NULL}',
        '{true,false}',
        '{"{}","[1]"}',
        '{"{a}",NULL}',
        new Date(0),
        null,
        '{"x","y"}',
      ],
    },
    delete: {
      sql:
        'with "_l" as materialized (select "_v".* from "article" as "_t" join unnest(?::int[], ?::int[]) as "_v" ("k0", "v") ' +
        'on "_t"."id" = "_v"."k0" and "_t"."version" = "_v"."v" where "_t"."id" = any(?::int[]) order by "_t"."id" for update of "_t") ' +
        'delete from "article" as "_t" using "_l" where "_t"."id" = "_l"."k0" and (select count(*) from "_l") = 2',
      params: ['{1,2}', '{3,1}', '{1,2}'],
    },
  },
  sqlite: {
    update: {
      sql:
        'with "_v" ("k0", "v", "c0") as (values (?, ?, ?), (?, ?, ?)) ' +
        'update "article" as "_t" set "title" = "_v"."c0", "version" = "_v"."v" + 1 ' +
        'from "_v" where "_t"."id" = "_v"."k0" and "_t"."version" = "_v"."v" and ' +
        '(select count(*) from "_v" cross join "article" as "_c" where "_c"."id" = "_v"."k0" and "_c"."version" = "_v"."v") = 2',
      params: [1, 3, 'a', 2, 1, `it's "b" \\`],
    },
    'rich update': {
      sql:
        'with "_v" ("k0", "k1", "v", "c0", "f0", "c1", "c2", "c3") as (values (?, ?, ?, ?, ?, ?, ?, ?), (?, ?, ?, ?, ?, ?, ?, ?)) ' +
        'update "app"."visit" as "_t" set "note" = case when "_v"."f0" then "_v"."c0" else "_t"."note" end, ' +
        '"data" = "_v"."c1"::jsonb, "tags" = "_v"."c2", "at" = "_v"."c3", "version" = "_v"."v" + 1 ' +
        'from "_v" where "_t"."tenant" = "_v"."k0" and "_t"."day" = "_v"."k1" and "_t"."version" = "_v"."v" and ' +
        '(select count(*) from "_v" cross join "app"."visit" as "_c" ' +
        'where "_c"."tenant" = "_v"."k0" and "_c"."day" = "_v"."k1" and "_c"."version" = "_v"."v") = 2 returning "tenant", "day", "total"',
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
      ],
    },
    delete: {
      sql:
        'with "_v" ("k0", "v") as (values (?, ?), (?, ?)) ' +
        'delete from "article" where ("id", "version") in (select "k0", "v" from "_v") and ' +
        '(select count(*) from "_v" cross join "article" as "_c" where "_c"."id" = "_v"."k0" and "_c"."version" = "_v"."v") = 2',
      params: [1, 3, 2, 1],
    },
  },
};

for (const [name, dialect] of Object.entries(dialects)) {
  test(`${name}: update`, () => expect(dialect.update(simple)).toEqual(statements[name]!.update));
  test(`${name}: update of everything at once`, () =>
    expect(dialect.update(rich)).toEqual(statements[name]!['rich update']));
  test(`${name}: delete`, () => expect(dialect.delete(simple)).toEqual(statements[name]!.delete));
}
