/** MikroORM with mikro-ool, with its own `version: true`, and with no lock at all: on its own driver, and on a wrapped one. */
import { type EntityName, MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { type Contender, type Row, type Server, type Table, TABLES, columnNames, typeOf } from '../contender.ts';

const VERSIONS = {
  'mikro-ool': () => p.type(VersionField),
  'version: true': () => p.integer().version(),
  unlocked: () => p.integer().default(1),
  'unlocked, wrapped': () => p.integer().default(1),
  'mikro-ool, resilient': () => p.type(VersionField),
  'mikro-ool, guarded': () => p.type(new VersionField({ guard: true })),
};

type Lock = keyof typeof VERSIONS;

const COLUMNS = { text: () => p.string(), integer: () => p.integer(), double: () => p.double() };

function entityOf(table: Table, lock: Lock): EntityName<Row> {
  const columns = columnNames(table).map((name, i) => [name, COLUMNS[typeOf(i)]()]);
  return defineEntity({
    name: tableOf(table, lock),
    properties: { id: p.integer().primary(), version: VERSIONS[lock](), ...Object.fromEntries(columns) },
  }) as unknown as EntityName<Row>;
}

/** A trigger is on a table of its own: the others would pay for it. */
function tableOf({ name }: Table, lock: Lock): string {
  return lock === 'mikro-ool, guarded' ? `guarded_${name}` : name;
}

/** With a version, beside tables that have none: what is measured is not an ORM without any. */
const Locked = defineEntity({
  name: 'Locked',
  properties: { id: p.integer().primary(), version: p.type(VersionField) },
});

function driverWith<Driver extends DriverClass>(lock: Lock, driver: Driver): Driver {
  if (lock === 'mikro-ool, resilient') {
    return versioned(resilient(driver));
  }
  return lock.startsWith('mikro-ool') || lock === 'unlocked, wrapped' ? versioned(driver) : driver;
}

function options(server: Server, lock: Lock): Partial<Options> {
  return server.kind === 'sqlite'
    ? { driver: driverWith(lock, SqliteDriver), dbName: ':memory:' }
    : { driver: driverWith(lock, PostgreSqlDriver), clientUrl: server.url };
}

/** Opens MikroORM with one of the locks; the memory benchmark needs its EntityManager. */
export async function openMikroOrm(server: Server, lock: Lock, more: Partial<Options> = {}) {
  const entities = new Map(TABLES.map((table) => [table, entityOf(table, lock)]));
  const all = [...entities.values(), ...(lock === 'unlocked, wrapped' ? [Locked] : [])];
  const orm = await MikroORM.init({ ...options(server, lock), ...more, entities: all } as Options);
  return { orm, entity: (table: Table) => entities.get(table)! };
}

export function mikroOrm(lock: Lock, name = `MikroORM, ${lock}`, more: Partial<Options> = {}): Contender {
  return {
    name,
    async open(server) {
      const { orm, entity } = await openMikroOrm(server, lock, more);
      let copied = false;
      return {
        async load(table, ids) {
          if (lock === 'mikro-ool, guarded' && !copied) {
            copied = true;
            await copyTables(orm);
          }
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
        orm: {
          create(table, rows) {
            const em = orm.em.fork();
            rows.forEach((row) => em.persist(em.create(entity(table), row)));
            return () => em.flush();
          },
          emptyTransaction: () => orm.em.fork().transactional(async () => {}),
          fork: () => void orm.em.fork(),
        },
      };
    },
  };
}

/** The tables with triggers, as the schema generator makes them, with the rows of those without. */
async function copyTables(orm: MikroORM): Promise<void> {
  const connection = (orm.em as never as SqlManager).getConnection();
  await orm.schema.drop();
  await orm.schema.create();
  for (const table of TABLES) {
    const names = ['id', 'version', ...columnNames(table)].join(', ');
    await connection.execute(
      `insert into ${tableOf(table, 'mikro-ool, guarded')} (${names}) select ${names} from ${table.name}`,
    );
  }
}

interface SqlManager {
  getConnection(): { execute(sql: string): Promise<unknown> };
}
