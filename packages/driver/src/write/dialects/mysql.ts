/**
 * MariaDB and MySQL: the rows as a list of SELECTs, joined to the table.
 *
 *   update `article` as _t force index (primary)
 *   straight_join (select 1 as k0, 3 as v, 'a' as c0 union all select 2, 1, 'b') as _v
 *   set _t.`title` = _v.c0, _t.`version` = _t.`version` + 1
 *   where _t.`id` in (1, 2) and _t.`id` = _v.k0 and _t.`version` = _v.v
 *
 * The table comes first and by its primary key, so that rows are locked in key order, also those that turn out stale:
 * otherwise two flushes of the same rows deadlock. A version is bumped, so each row that matches counts as changed.
 */
import { raw } from '@mikro-orm/core';
import type { BatchRows, BatchUpdate, Column, Dialect, DriverError, Statement } from './dialect.ts';
import { assignments, placesOf, sameKey, sameVersion, valueColumns } from './values.ts';

/** 1213, a deadlock; 1020, a row that changed since the snapshot; 3101, what a cluster finds at COMMIT. */
const LOST_RACES = ['ER_LOCK_DEADLOCK', 'ER_CHECKREAD', 'ER_TRANSACTION_ROLLBACK_DURING_COMMIT'];

/** 1206: InnoDB has no room left for locks, and rolls back the whole transaction, too. */
const ENDINGS = [...LOST_RACES, 'ER_LOCK_TABLE_FULL'];

/** 1180 and 1317: a cluster gave up in the middle of a COMMIT. */
const UNSURE = ['ER_ERROR_DURING_COMMIT', 'ER_QUERY_INTERRUPTED'];

const LOCKS = { share: ' lock in share mode', 'no key update': ' for update', update: ' for update' };

export const mysql: Dialect = {
  update(batch, alone) {
    const list = listOf(batch, batch.columns);
    const among = keyList(batch);
    const found = lockedAll(batch);
    return {
      sql:
        `update ${batch.table} as _t force index (primary) straight_join (${list.sql}) as _v ` +
        `set ${assignments(batch, (name) => `_v.${name}`, undefined, '_t.')} ` +
        `where ${among.sql} and ${sameKey(batch, '_t', '_v')}${sameVersion(batch, '_t', '_v.v')}` +
        (alone ? ` and ${this.aloneWhen} and ${found.sql}` : ''),
      params: [...list.params, ...among.params, ...(alone ? found.params : [])],
    };
  },

  // the syntax for several tables, because the other one has no FORCE INDEX
  delete(rows, alone) {
    const among = keyList(rows, '');
    const found = lockedAll(rows);
    return {
      sql:
        `delete from ${rows.table} using ${rows.table} force index (primary) where ${among.sql} ` +
        `and ${rows.version.name} is not null and ${found.sql}${alone ? ` and ${this.aloneWhen}` : ''}`,
      params: [...among.params, ...found.params],
    };
  },

  // by primary key, or it would lock every row that it passes
  read(rows, lock) {
    const list = listOf(placesOf(rows), []);
    const among = keyList(rows);
    const keys = rows.keys.map(({ name }) => `_t.${name}`);
    return {
      sql:
        `select _v.v as i, _t.${rows.version.name} as version from ${rows.table} as _t force index (primary) ` +
        `straight_join (${list.sql}) as _v where ${among.sql} and ${sameKey(rows, '_t', '_v')} ` +
        `order by ${keys.join(', ')}${lock ? LOCKS[lock] : ''}`,
      params: [...list.params, ...among.params],
    };
  },

  locksRows: true,

  // views have no primary key to name
  specialTables:
    'select table_name as name, 1 as is_rewritten, 0 as writes_instead from information_schema.views where table_schema = database()',

  proposed: (column) => `values(${column})`,

  // `autocommit = 0` is a setting of the session
  aloneWhen: '@@autocommit = 1',

  // by default a transaction reads from a snapshot, where a rival's write is not seen
  readsCurrent: false,

  lostRaceCodes: LOST_RACES,
  endsTransaction: ({ code }) => ENDINGS.includes(String(code)),

  losesAnswer: (error) => UNSURE.includes(String(error.code)) || isCutOff(error),
};

/** The connection ended under a statement: by mysql2, by the network, by a shutdown, by KILL. */
function isCutOff({ code }: DriverError): boolean {
  return /^(?:PROTOCOL_CONNECTION_LOST|PROTOCOL_SEQUENCE_TIMEOUT|ECONNRESET|EPIPE|ETIMEDOUT|ER_SERVER_SHUTDOWN|ER_CONNECTION_KILLED)$/.test(
    String(code),
  );
}

/**
 * A condition: all rows still have their version. They are locked in key order, the stale ones too: READ COMMITTED lets go
 * of a row that a condition rules out, and the statement around this would lock it again, out of order. What is written
 * may not be joined to a list, and a subquery of the same table must be a table of its own.
 *
 * Here and in the DELETE something else than the key is read: where the key is enough, MariaDB reads its index from end to
 * end for a large part of the table, and locks the rest of the rows as well.
 */
function lockedAll(rows: BatchRows & Partial<BatchUpdate>): Statement {
  const among = keyList(rows, '');
  const expected = keyList(rows, '', true);
  const { name } = rows.columns?.[0] ?? rows.version;
  const count = rows.uncovered
    ? { sql: `count(${name}) + sum(${name} is null)`, params: [] }
    : { sql: `sum(${expected.sql})`, params: expected.params };
  const locked = `select ${count.sql} as n from ${rows.table} force index (primary) where ${among.sql} for update`;
  return {
    sql: `(select n from (${locked}) as _l) = ${rows.version.values.length}`,
    params: [...count.params, ...among.params],
  };
}

/** One SELECT per row; the first one names the columns. */
function listOf(rows: BatchRows, changes: readonly Column[]): Statement {
  const columns = [...valueColumns(rows, changes)];
  const selects = rows.version.values.map(
    (_, r) => `select ${columns.map(([name]) => (r === 0 ? `? as ${name}` : '?')).join(', ')}`,
  );
  const params = rows.version.values.flatMap((_, r) => columns.map(([, column]) => valueOf(column, r)));
  return { sql: selects.join(' union all '), params };
}

/** The condition that a row has one of the keys, and its version where that is asked for. */
function keyList(rows: BatchRows, prefix = '_t.', withVersion = false): Statement {
  const columns = withVersion ? [...rows.keys, rows.version] : rows.keys;
  const tuple = (parts: readonly string[]) => (parts.length > 1 ? `(${parts.join(', ')})` : parts[0]!);
  const marks = tuple(columns.map(() => '?'));
  return {
    sql: `${tuple(columns.map(({ name }) => prefix + name))} in (${rows.version.values.map(() => marks).join(', ')})`,
    params: rows.version.values.flatMap((_, r) => columns.map((column) => valueOf(column, r))),
  };
}

/** MikroORM has large numbers as strings, which would be compared with a number inexactly. */
function valueOf({ type, values }: Column, row: number): unknown {
  const value = values[row];
  const isNumber =
    typeof value === 'string' && /int|serial|decimal|numeric/i.test(type) && /^-?\d+(?:\.\d+)?$/.test(value);
  return isNumber ? raw(value) : value;
}
