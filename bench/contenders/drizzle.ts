/** Drizzle: the predicate written by hand, row by row, in one transaction. */
import Sqlite from 'better-sqlite3';
import { and, eq, inArray, sql } from 'drizzle-orm';
import { drizzle as onSqlite } from 'drizzle-orm/better-sqlite3';
import { drizzle as onPostgres } from 'drizzle-orm/node-postgres';
import * as pgTypes from 'drizzle-orm/pg-core';
import * as sqliteTypes from 'drizzle-orm/sqlite-core';
import { Pool } from 'pg';
import { type Contender, type Row, type Session, type Table, TABLES, columnNames, typeOf } from '../contender.ts';

export const drizzle: Contender = {
  name: 'Drizzle, predicate by hand',
  open: (server) => (server.kind === 'sqlite' ? openSqlite() : openPostgres(server.url)),
};

function changes(row: Row, before: Row): Record<string, unknown> {
  return Object.fromEntries(Object.entries(row).filter(([name, value]) => value !== before[name]));
}

function check(count: number | null, row: Row): void {
  if (count !== 1) {
    throw new Error(`row ${row.id}`);
  }
}

async function openPostgres(connectionString: string): Promise<Session> {
  const pool = new Pool({ connectionString });
  const db = onPostgres(pool);
  const types = { text: pgTypes.text, integer: pgTypes.integer, double: pgTypes.doublePrecision };
  const tableOf = (table: Table) =>
    pgTypes.pgTable(table.name, {
      id: pgTypes.integer().primaryKey(),
      version: pgTypes.integer().notNull(),
      ...Object.fromEntries(columnNames(table).map((name, i) => [name, types[typeOf(i)]()])),
    });
  const tables = new Map(TABLES.map((table) => [table, tableOf(table)]));
  return {
    async load(table, ids) {
      const t = tables.get(table)!;
      const rows = (await db
        .select()
        .from(t)
        .where(inArray(t.id, [...ids]))) as Row[];
      const before = rows.map((row) => ({ ...row }));
      return {
        rows,
        update: () =>
          db.transaction(async (tx) => {
            for (const [i, row] of rows.entries()) {
              const { rowCount } = await tx
                .update(t)
                .set({ ...changes(row, before[i]!), version: sql`${t.version} + 1` })
                .where(and(eq(t.id, row.id), eq(t.version, row.version)));
              check(rowCount, row);
            }
          }),
        remove: () =>
          db.transaction(async (tx) => {
            for (const row of rows) {
              const { rowCount } = await tx.delete(t).where(and(eq(t.id, row.id), eq(t.version, row.version)));
              check(rowCount, row);
            }
          }),
      };
    },
    execute: async (text) => void (await pool.query(text)),
    close: () => pool.end(),
  };
}

async function openSqlite(): Promise<Session> {
  const connection = new Sqlite(':memory:');
  const db = onSqlite(connection);
  const types = { text: sqliteTypes.text, integer: sqliteTypes.integer, double: sqliteTypes.real };
  const tableOf = (table: Table) =>
    sqliteTypes.sqliteTable(table.name, {
      id: sqliteTypes.integer().primaryKey(),
      version: sqliteTypes.integer().notNull(),
      ...Object.fromEntries(columnNames(table).map((name, i) => [name, types[typeOf(i)]()])),
    });
  const tables = new Map(TABLES.map((table) => [table, tableOf(table)]));
  return {
    async load(table, ids) {
      const t = tables.get(table)!;
      const rows = db
        .select()
        .from(t)
        .where(inArray(t.id, [...ids]))
        .all() as Row[];
      const before = rows.map((row) => ({ ...row }));
      return {
        rows,
        async update() {
          db.transaction((tx) => {
            for (const [i, row] of rows.entries()) {
              const { changes: count } = tx
                .update(t)
                .set({ ...changes(row, before[i]!), version: sql`${t.version} + 1` })
                .where(and(eq(t.id, row.id), eq(t.version, row.version)))
                .run();
              check(count, row);
            }
          });
        },
        async remove() {
          db.transaction((tx) => {
            for (const row of rows) {
              const { changes: count } = tx
                .delete(t)
                .where(and(eq(t.id, row.id), eq(t.version, row.version)))
                .run();
              check(count, row);
            }
          });
        },
      };
    },
    execute: async (text) => void connection.exec(text),
    close: async () => void connection.close(),
  };
}
