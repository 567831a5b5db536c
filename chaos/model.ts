/** The tables, and MikroORM on top of them with one of the locks. The entities are the same for both: only the driver differs. */
import {
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  MikroORM,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { MariaDbDriver } from '@mikro-orm/mariadb';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';
import { idsOf } from './rows.ts';

const OPENING_BALANCE = 1000;

/** What accounts, and stock, hold together, however it is moved. */
export const TOTALS = (['account', 'stock'] as const).map((of) => ({ of, total: idsOf(of).length * OPENING_BALANCE }));

export const Account = defineEntity({
  name: 'Account',
  properties: {
    id: p.integer().primary().autoincrement(false),
    incarnation: p.integer(),
    balance: p.integer(),
    /**
     * The attempt that has changed nothing else: a flush of one statement, which a trigger writes into the journal. Never
     * NULL: where NULL is read again, MikroORM keeps the older value, and the lock the older version.
     */
    solo: p.string().default(''),
    /** The saboteur's: it writes here without a version, so that the database sees a race and the lock sees none. */
    poked: p.integer().default(0),
    version: p.integer().version(),
  },
});

/** Has as many lines as rows.ts says, at most. */
export const Sale = defineEntity({
  name: 'Sale',
  properties: {
    id: p.integer().primary().autoincrement(false),
    lines: () => p.oneToMany(Line).mappedBy('sale'),
    version: p.type(new VersionField({ aggregate: ['lines'] })),
  },
});

export const Line = defineEntity({
  name: 'Line',
  properties: { id: p.integer().primary(), sale: () => p.manyToOne(Sale) },
});

/** One of two is on call: who goes off verifies the other one. */
export const Doctor = defineEntity({
  name: 'Doctor',
  properties: {
    id: p.integer().primary().autoincrement(false),
    onCall: p.integer(),
    version: p.type(new VersionField()),
  },
});

/** Moved by the ORM, and past it. */
export const Stock = defineEntity({
  name: 'Stock',
  properties: {
    id: p.integer().primary().autoincrement(false),
    quantity: p.integer(),
    /** The attempt that has last written past the ORM, which a trigger writes into the journal. */
    rawBy: p.string().default(''),
    version: p.type(new VersionField({ guard: true })),
  },
});

/** No constraint on (account, version): that alone would prevent lost updates. */
export const Journal = defineEntity({
  name: 'Journal',
  indexes: [{ properties: ['account', 'kind', 'incarnation'] }],
  properties: {
    id: p.integer().primary(),
    attempt: p.string(),
    account: p.integer(),
    incarnation: p.integer(),
    kind: p.enum(['create', 'update', 'delete', 'raw'] as const),
    read: p.integer().nullable(),
    written: p.integer().nullable(),
    balance: p.integer(),
  },
});

/** `undeclared`: mikro-ool, of which nothing is asked beyond the columns of a row: the control of what is declared. */
export type Lock = 'mikro-ool' | 'undeclared' | 'version-true';

/** Where nothing is declared, a version is one like any other. */
function undeclare(meta: EntityMetadata): void {
  for (const prop of Object.values<EntityProperty>(meta.properties)) {
    if ((prop.type as unknown) instanceof VersionField) {
      Object.assign(prop, { type: 'integer', version: true });
    }
  }
}

export type DatabaseKind = 'postgresql' | 'mariadb';

/** Several servers instead of one, and which database they are of. */
export const CLUSTERS = {
  galera: 'mariadb',
  standby: 'postgresql',
  'standby-async': 'postgresql',
} as const satisfies Readonly<Record<string, DatabaseKind>>;

export type Cluster = keyof typeof CLUSTERS;

/** What a run is asked to do. */
export interface Plan {
  readonly database: DatabaseKind;
  readonly cluster?: Cluster;
  readonly lock: Lock;
  readonly seed: number;
  readonly minutes: number;
}

const DRIVERS = { postgresql: PostgreSqlDriver, mariadb: MariaDbDriver };

const TRIGGERS = {
  postgresql: [
    `create function journal_solo() returns trigger language plpgsql as $$ begin
       insert into journal (attempt, account, incarnation, kind, "read", written, balance)
       values (new.solo, new.id, new.incarnation, 'update', old.version, new.version, new.balance);
       return new;
     end $$`,
    `create trigger solo after update on account for each row
       when (new.solo <> old.solo) execute function journal_solo()`,
    `create function journal_raw() returns trigger language plpgsql as $$ begin
       insert into journal (attempt, account, incarnation, kind, "read", written, balance)
       values (new.raw_by, new.id, 1, 'raw', old.version, new.version, new.quantity);
       return new;
     end $$`,
    `create trigger raw after update on stock for each row
       when (new.raw_by <> old.raw_by) execute function journal_raw()`,
  ],
  mariadb: [
    `create trigger solo after update on account for each row
       if new.solo <> old.solo then
         insert into journal (attempt, account, incarnation, kind, \`read\`, written, balance)
         values (new.solo, new.id, new.incarnation, 'update', old.version, new.version, new.balance);
       end if`,
    `create trigger raw_writes after update on stock for each row
       if new.raw_by <> old.raw_by then
         insert into journal (attempt, account, incarnation, kind, \`read\`, written, balance)
         values (new.raw_by, new.id, 1, 'raw', old.version, new.version, new.quantity);
       end if`,
  ],
};

/** What differs between the pools of the two client libraries. */
const POOL_OPTIONS = {
  postgresql: (name: string) => ({
    application_name: name,
    connectionTimeoutMillis: 2000,
    options: '-c lock_timeout=800',
  }),
  mariadb: () => ({ connectTimeout: 5000 }),
};

export async function connect(
  database: DatabaseKind,
  lock: Lock,
  url: string,
  name: string,
  poolSize: number,
  replicas: readonly string[] = [],
): Promise<MikroORM<AbstractSqlDriver>> {
  const Plain = DRIVERS[database];
  const options = {
    clientUrl: url,
    dbName: 'chaos',
    entities: [Account, Sale, Line, Doctor, Stock, Journal],
    ...(lock !== 'mikro-ool' && { discovery: { onMetadata: undeclare } }),
    pool: { min: 0, max: poolSize },
    ...(replicas.length > 0 && { replicas: replicas.map((clientUrl) => ({ clientUrl })) }),
    driverOptions: POOL_OPTIONS[database](name),
    // lost connections are what this is about
    logger: () => {},
  };
  const driver = (lock === 'version-true' ? Plain : versioned(resilient(Plain))) as typeof PostgreSqlDriver;
  return (await MikroORM.init({ ...options, driver })) as unknown as MikroORM<AbstractSqlDriver>;
}

/** Creates the tables, and the rows: the accounts that share all the money that there ever is, among others. */
export async function createTables(orm: MikroORM<AbstractSqlDriver>, database: DatabaseKind): Promise<void> {
  await orm.schema.create();
  const em = orm.em.fork() as EntityManager;
  const create = (account: number, balance: number) => {
    const write = { account, incarnation: 1, read: null, written: 1, balance } as const;
    em.create(Journal, { attempt: SETUP, kind: 'create', ...write });
  };
  for (const id of idsOf('account')) {
    em.create(Account, { id, incarnation: 1, balance: OPENING_BALANCE });
    create(id, OPENING_BALANCE);
  }
  for (const id of idsOf('sale')) {
    em.create(Sale, { id });
    create(id, 0);
  }
  for (const id of idsOf('doctor')) {
    em.create(Doctor, { id, onCall: 1 });
    create(id, 1);
  }
  for (const id of idsOf('stock')) {
    em.create(Stock, { id, quantity: OPENING_BALANCE });
    create(id, OPENING_BALANCE);
  }
  await em.flush();
  for (const sql of TRIGGERS[database]) {
    await orm.em.getConnection().execute(sql);
  }
}

/** The attempt that has created the rows. */
export const SETUP = 'setup';
