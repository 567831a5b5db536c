/** MikroORM with mikro-ool, with its own `version: true`, and with no lock at all: on its own driver, and on a wrapped one. */
import { type EntityName, MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { type Contender, type Row, type Server, type Table, TABLES, columnNames, typeOf } from '../contender.ts';

const VERSIONS = {
  'mikro-ool': () => p.type(VersionField),
  'version: true': () => p.integer().version(),
  unlocked: () => p.integer().default(1),
  'unlocked, wrapped': () => p.integer().default(1),
};

type Lock = keyof typeof VERSIONS;

const COLUMNS = { text: () => p.string(), integer: () => p.integer(), double: () => p.double() };

function entityOf(table: Table, lock: Lock): EntityName<Row> {
  const columns = columnNames(table).map((name, i) => [name, COLUMNS[typeOf(i)]()]);
  return defineEntity({
    name: table.name,
    properties: { id: p.integer().primary(), version: VERSIONS[lock](), ...Object.fromEntries(columns) },
  }) as unknown as EntityName<Row>;
}

function options(server: Server, lock: Lock): Partial<Options> {
  const isWrapped = lock === 'mikro-ool' || lock === 'unlocked, wrapped';
  if (server.kind === 'sqlite') {
    return { driver: isWrapped ? versioned(SqliteDriver) : SqliteDriver, dbName: ':memory:' };
  }
  const clientUrl = server.url;
  return { driver: isWrapped ? versioned(PostgreSqlDriver) : PostgreSqlDriver, clientUrl };
}

/** Opens MikroORM with one of the locks; the memory benchmark needs its EntityManager. */
export async function openMikroOrm(server: Server, lock: Lock, more: Partial<Options> = {}) {
  const entities = new Map(TABLES.map((table) => [table, entityOf(table, lock)]));
  const orm = await MikroORM.init({ ...options(server, lock), ...more, entities: [...entities.values()] } as Options);
  return { orm, entity: (table: Table) => entities.get(table)! };
}

export function mikroOrm(lock: Lock, name = `MikroORM, ${lock}`, more: Partial<Options> = {}): Contender {
  return {
    name,
    async open(server) {
      const { orm, entity } = await openMikroOrm(server, lock, more);
      return {
        async load(table, ids) {
          const em = orm.em.fork();
          const rows = await em.find(entity(table), { id: { $in: [...ids] } } as never);
          return {
            rows,
            update: () => em.flush(),
            remove: () => em.remove(rows).flush(),
          };
        },
        execute: async (sql) => void (await (orm.em as never as SqlManager).getConnection().execute(sql)),
        close: () => orm.close(true),
      };
    },
  };
}

interface SqlManager {
  getConnection(): { execute(sql: string): Promise<unknown> };
}
