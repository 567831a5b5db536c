/**
 * PostgreSQL: one array per column, the rows locked in primary key order before any of them is written.
 *
 * A few rows are found in the arrays by their position, which has nothing to join and is planned at once:
 *
 *   update "article" as _t set "title" = ('{a,b}'::varchar[])[array_position('{1,2}'::bigint[], _t."id"::bigint)],
 *     "version" = _t."version" + 1
 *   where _t."id" = any('{1,2}'::int[]) and (select count(*) from (select 1 from "article" as _r
 *     where _r."id" = any('{1,2}'::int[])
 *       and _r."version" = ('{3,1}'::int[])[array_position('{1,2}'::bigint[], _r."id"::bigint)]
 *     order by _r."id" for no key update) as _l) = 2
 *
 * That grows with the square of the rows, so many are joined:
 *
 *   with _l as materialized (
 *     select _v.* from "article" as _t
 *     join unnest('{1,2}'::int[], '{3,1}'::int[], '{a,b}'::varchar[]) as _v (k0, v, c0)
 *       on _t."id" = _v.k0 and _t."version" = _v.v
 *     where _t."id" = any('{1,2}'::int[]) order by _t."id" for no key update of _t)
 *   update "article" as _t set "title" = _l.c0, "version" = _t."version" + 1
 *   from _l where _t."id" = _l.k0
 *
 * Where there is no transaction around it, either of them stands in a third one, which answers with the row count, or
 * ends itself by an error where a trigger, a rule or a row policy has kept back a part of the rows:
 *
 *   with _w as (update "article" as _t set … returning 1)
 *   select (case when count(*) in (0, 2) then count(*)::text else count(*) || ' of 2: …' end)::bigint as n from _w
 *
 * Without the ordered lock two flushes of the same rows deadlock, because a join updates rows in whatever order the
 * planner finds them. The key list stands in the locking part only: in the outer join it would be searched per row.
 */
import {
  type BatchRows,
  type BatchUpdate,
  type Column,
  type Dialect,
  type DriverError,
  GUARD,
  type Statement,
} from './dialect.ts';
import { arrayOf, assign, isArray, isConverted, isText } from './postgresql-arrays.ts';
import { assignments, bump, placesOf, sameKey, sameVersion, valueColumns } from './values.ts';

export const postgresql: Dialect = {
  update(batch, alone) {
    return statementOf(formOf(batch).update(batch, alone), batch, alone);
  },

  delete(rows, alone) {
    return statementOf(formOf(rows).delete(rows), rows, alone);
  },

  read(rows, lock) {
    const found = inOrder(placesOf(rows), []);
    return {
      sql: `select _v.v as i, _t.${rows.version.name} as version from ${found.sql}${lock ? ` for ${lock} of _t` : ''}`,
      params: found.params,
    };
  },

  locksRows: true,

  asCompared(texts, type) {
    if (/^uuid$/i.test(type)) {
      return texts.map((text) => text.replace(/[{}-]/g, '').toLowerCase());
    }
    // the end of what is padded is not compared
    const isPadded = /^(?:bp)?char\b|^character(?! varying)/i.test(type);
    return isText({ type }) ? texts.map((text) => (isPadded ? text.replace(/ +$/, '') : text)) : undefined;
  },

  // rules but those of SELECT, and triggers BEFORE (2) and INSTEAD OF (64): of the relation, and of what it stands on,
  // which is the relations of a view, and the partitions of a table, where rules have no effect
  specialTables: `
    with recursive
    above (below, id, is_view) as (
      select inhrelid, inhparent, 0 from pg_catalog.pg_inherits
      union all
      select d.refobjid, r.ev_class, 1
      from pg_catalog.pg_rewrite as r join pg_catalog.pg_depend as d on d.objid = r.oid
      where r.ev_type = '1' and d.classid = 'pg_catalog.pg_rewrite'::regclass
        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid <> r.ev_class
    ),
    special (id, is_rewritten, writes_instead) as (
      (select ev_class, 1, case when is_instead and ev_type in ('2', '4') then 1 else 0 end
      from pg_catalog.pg_rewrite where ev_type <> '1'
      union all
      select tgrelid, 0, case when tgtype & 64 > 0 then 1 else 0 end
      from pg_catalog.pg_trigger where not tgisinternal and tgtype & 66 > 0 and tgname <> '${GUARD}')
      union
      select a.id, s.is_rewritten, s.writes_instead
      from special as s join above as a on a.below = s.id and (a.is_view = 1 or s.is_rewritten = 0)
    )
    select c.relname as name, max(s.is_rewritten) as is_rewritten, max(s.writes_instead) as writes_instead
    from special as s join pg_catalog.pg_class as c on c.oid = s.id group by c.relname`,

  // rules do not go with WITH, nor with RETURNING (feature_not_supported)
  endsItself: ({ code, message = '' }) =>
    (code === '22P02' && message.includes(PARTLY)) ||
    (code === '0A000' && /RETURNING on relation|rewritten by rules/.test(message)),

  proposed: (column) => `excluded.${column}`,

  readsCurrent: true,

  // serialization_failure, deadlock_detected
  lostRaceCodes: ['40001', '40P01'],

  // in_failed_sql_transaction
  echoes: ({ code }) => code === '25P02',

  // statement_completion_unknown
  losesAnswer: (error) => error.code === '40003' || isCutOff(error) || error.message === 'Query read timeout',
};

/**
 * The connection ended under a statement: connection exceptions, admin_shutdown, crash_shutdown, and what node-postgres
 * says.
 */
function isCutOff({ code, message = '' }: DriverError): boolean {
  return (
    /^(?:08\w{3}|57P0[12]|ECONNRESET|EPIPE|ETIMEDOUT)$/.test(String(code)) ||
    /^Connection terminated(?: unexpectedly)?$/.test(message)
  );
}

/** A statement in parts: what is found and locked before it, and what it writes. */
interface Parts {
  readonly found?: string;
  readonly write: string;
  readonly params: unknown[];
}

/** Stands in the error by which a statement ends itself, and in the log of the server. */
const PARTLY = 'a trigger, a rule or a row policy has kept back rows, so nothing is written';

/**
 * Alone, it ends itself when something in the database lets it write some of the rows only: then none of them stays.
 */
function statementOf({ found, write, params }: Parts, { version }: BatchRows, alone: boolean | undefined): Statement {
  if (!alone) {
    return { sql: found ? `with ${found} ${write}` : write, params };
  }
  const count = version.values.length;
  const answer = `case when count(*) in (0, ${count}) then count(*)::text else count(*) || ' of ${count}: ${PARTLY}' end`;
  return {
    sql: `with ${found ? `${found}, ` : ''}_w as (${write} returning 1) select (${answer})::bigint as n from _w`,
    params,
    answersCount: true,
  };
}

function updateJoined(batch: BatchUpdate, alone = false): Parts {
  const returning = batch.returning.map((name) => `_t.${name}`).join(', ');
  return {
    ...lockRows(batch, batch.columns, 'no key update'),
    write:
      `update ${batch.table} as _t set ${assignments(batch, (name) => `_l.${name}`, assign)} ` +
      `from _l where ${sameKey(batch, '_t', '_l')}${alone ? ` and ${allFound(batch)}` : ''}` +
      (returning && ` returning ${returning}`),
  };
}

function deleteJoined(rows: BatchRows): Parts {
  return {
    ...lockRows(rows, [], 'update'),
    write: `delete from ${rows.table} as _t using _l where ${sameKey(rows, '_t', '_l')} and ${allFound(rows)}`,
  };
}

/** A condition: every row of the list was found with the version that is expected. */
function allFound(rows: BatchRows): string {
  return `(select count(*) from _l) = ${rows.version.values.length}`;
}

/** Up to here the time that it takes to look up values by position is less than that of planning a join. */
const FEW_ROWS = 50;

/** How rows are written together. */
interface Form {
  fits(rows: BatchRows & Partial<BatchUpdate>): boolean;
  update(batch: BatchUpdate, alone?: boolean): Parts;
  delete(rows: BatchRows): Parts;
}

/** The first that fits is taken. The number of rows decides for speed alone: tests force either upon any number. */
export const forms: Record<'bySubscript' | 'joined', Form> = {
  bySubscript: {
    // the rows change the same columns, of types that make a plain array
    fits: ({ keys, version, columns = [], returning = [] }) =>
      version.values.length <= FEW_ROWS &&
      keys.length === 1 &&
      /^(?:(?:small|big)?int\b|int[248]\b|integer|(?:small|big)?serial|uuid|text|varchar|character varying)/i.test(
        keys[0]!.type,
      ) &&
      returning.length === 0 &&
      columns.every((column) => !column.changed && !column.nativeEnum && !isArray(column) && !isConverted(column)),
    update: updateBySubscript,
    delete: deleteBySubscript,
  },
  joined: { fits: () => true, update: updateJoined, delete: deleteJoined },
};

function formOf(rows: BatchRows): Form {
  return Object.values(forms).find((form) => form.fits(rows))!;
}

/**
 * Where in the arrays a row is, by its key. Integers of any size are compared as the largest, whatever the column is.
 */
function positionOf(of: string, { keys: [key] }: BatchRows): Statement {
  const type = isText(key!) ? 'text' : /^uuid/i.test(key!.type) ? 'uuid' : 'bigint';
  const ids = arrayOf({ ...key!, type });
  return { sql: `array_position(${ids.sql}, ${of}.${key!.name}::${type})`, params: ids.params };
}

function updateBySubscript(batch: BatchUpdate): Parts {
  const position = positionOf('_t', batch);
  const params: unknown[] = [];
  const set = batch.columns.map((column) => {
    const values = arrayOf(column);
    params.push(...values.params, ...position.params);
    return `${column.name} = ${assign(column, `(${values.sql})[${position.sql}]`)}`;
  });
  const rows = rowsBySubscript(batch, 'no key update');
  return {
    write: `update ${batch.table} as _t set ${[...set, ...bump(batch, `_t.${batch.version.name}`)].join(', ')} where ${rows.sql}`,
    params: [...params, ...rows.params],
  };
}

function deleteBySubscript(batch: BatchRows): Parts {
  const { sql, params } = rowsBySubscript(batch, 'update');
  return { write: `delete from ${batch.table} as _t where ${sql}`, params };
}

/** All of the rows, when each of them still has its version: they are locked in key order before that is known. */
function rowsBySubscript(rows: BatchRows, lock: string): Statement {
  const [key] = rows.keys;
  const ids = arrayOf(key!);
  const versions = arrayOf(rows.version);
  const position = positionOf('_r', rows);
  const expected = sameVersion(rows, '_r', `(${versions.sql})[${position.sql}]`);
  return {
    sql:
      `_t.${key!.name} = any(${ids.sql}) and (select count(*) from (select 1 from ${rows.table} as _r ` +
      `where _r.${key!.name} = any(${ids.sql})${expected} order by _r.${key!.name}${orderOf(key!)} for ${lock}) as _l) = ${rows.version.values.length}`,
    params: [...ids.params, ...ids.params, ...(expected ? [...versions.params, ...position.params] : [])],
  };
}

/** Locks the rows that still have the expected version; waiting for a rival's commit re-checks the version. */
function lockRows(rows: BatchRows, columns: readonly Column[], lock: string): { found: string; params: unknown[] } {
  const { sql, params } = inOrder(rows, columns, sameVersion(rows, '_t', '_v.v'));
  return { found: `_l as materialized (select _v.* from ${sql} for ${lock} of _t)`, params };
}

/** The rows of a list in the order of their keys. */
function inOrder(rows: BatchRows, columns: readonly Column[], condition = ''): Statement {
  const list = valueColumns(rows, columns);
  const names = [...list.keys()].join(', ');
  const arrays = [...list.values()].map(arrayOf);
  const unnested = arrays.map((array) => array.sql).join(', ');
  const [first] = rows.keys;
  const keys = arrayOf(first!);
  const order = rows.keys.map((key) => `_t.${key.name}${orderOf(key)}`).join(', ');
  return {
    sql:
      `${rows.table} as _t join unnest(${unnested}) as _v (${names}) on ${sameKey(rows, '_t', '_v')}${condition} ` +
      `where _t.${first!.name} = any(${keys.sql}) order by ${order}`,
    params: [...arrays, keys].flatMap((array) => array.params),
  };
}

/** The order of code points, which is that of everybody who sorts keys. */
function orderOf(key: Column): string {
  return isText(key) ? ' collate "C"' : '';
}
