/**
 * The limit: the best SQL that we know, written by hand for these tables and sent through `pg` and `better-sqlite3`.
 * Begin, one statement for all rows, commit; on SQLite a prepared statement per row, which in process costs less.
 */
import Sqlite from 'better-sqlite3';
import { Client } from 'pg';
import { type Contender, type Row, type Session, type Table, columnNames, typeOf } from '../contender.ts';

const TYPES = { text: 'text', integer: 'int', double: 'float8' };

/** The changed columns of the rows; a hand-written program knows them. */
function changedColumns(rows: readonly Row[], before: readonly Row[], table: Table): string[] {
  return columnNames(table).filter((name) => rows.some((row, i) => row[name] !== before[i]![name]));
}

export const handWritten: Contender = {
  name: 'SQL by hand',
  open: (server) => (server.kind === 'sqlite' ? openSqlite() : openPostgres(server.url)),
};

async function openPostgres(connectionString: string): Promise<Session> {
  const client = new Client({ connectionString });
  await client.connect();
  const transaction = async (sql: string, params: unknown[], rows: number) => {
    await client.query('begin');
    const { rowCount } = await client.query(sql, params);
    await client.query(rowCount === rows ? 'commit' : 'rollback');
    if (rowCount !== rows) {
      throw new Error(`${rowCount} of ${rows} rows`);
    }
  };
  return {
    async load(table, ids) {
      const { rows } = await client.query<Row>(`select * from ${table.name} where id = any($1::int[])`, [ids]);
      const before = rows.map((row) => ({ ...row }));
      const keys = () => [rows.map((row) => row.id), rows.map((row) => row.version)];
      return {
        rows,
        async update() {
          if (rows.length === 1) {
            const names = changedColumns(rows, before, table);
            const set = names.map((name, i) => `${name} = $${i + 3}`).join(', ');
            const [row] = rows as [Row];
            await transaction(
              `update ${table.name} set ${set}, version = version + 1 where id = $1 and version = $2`,
              [row.id, row.version, ...names.map((name) => row[name])],
              1,
            );
            return;
          }
          const names = changedColumns(rows, before, table);
          const arrays = names.map((name, i) => `$${i + 3}::${TYPES[typeOf(Number(name.slice(1)))]}[]`);
          await transaction(
            `with l as materialized (select v.* from ${table.name} t
               join unnest($1::int[], $2::int[], ${arrays.join(', ')}) v (id, version, ${names.join(', ')})
                 on t.id = v.id and t.version = v.version
               where t.id = any($1::int[]) order by t.id for no key update of t)
             update ${table.name} t set ${names.map((name) => `${name} = l.${name}`).join(', ')}, version = l.version + 1
             from l where t.id = l.id`,
            [...keys(), ...names.map((name) => rows.map((row) => row[name]))],
            rows.length,
          );
        },
        remove: () =>
          transaction(
            `with l as materialized (select t.id from ${table.name} t
               join unnest($1::int[], $2::int[]) v (id, version) on t.id = v.id and t.version = v.version
               where t.id = any($1::int[]) order by t.id for update of t)
             delete from ${table.name} t using l where t.id = l.id`,
            keys(),
            rows.length,
          ),
      };
    },
    execute: async (sql) => void (await client.query(sql)),
    close: () => client.end(),
  };
}

async function openSqlite(): Promise<Session> {
  const db = new Sqlite(':memory:');
  const transaction = (rows: readonly Row[], write: (row: Row) => number) =>
    db.transaction(() => {
      for (const row of rows) {
        if (write(row) !== 1) {
          throw new Error(`row ${row.id}`);
        }
      }
    })();
  return {
    async load(table, ids) {
      const list = ids.join(', ');
      const rows = db.prepare<[], Row>(`select * from ${table.name} where id in (${list})`).all();
      const before = rows.map((row) => ({ ...row }));
      return {
        rows,
        async update() {
          const names = changedColumns(rows, before, table);
          const set = names.map((name) => `${name} = ?`).join(', ');
          const update = db.prepare(
            `update ${table.name} set ${set}, version = version + 1 where id = ? and version = ?`,
          );
          transaction(rows, (row) => update.run(...names.map((name) => row[name]), row.id, row.version).changes);
        },
        async remove() {
          const remove = db.prepare(`delete from ${table.name} where id = ? and version = ?`);
          transaction(rows, (row) => remove.run(row.id, row.version).changes);
        },
      };
    },
    execute: async (sql) => void db.exec(sql),
    close: async () => void db.close(),
  };
}
