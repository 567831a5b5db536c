/** The tables, and MikroORM on top of them with one of the locks. The entities are the same for both: only the driver differs. */
import { type EntityManager, MikroORM, defineEntity, p } from '@mikro-orm/core';
import { MariaDbDriver } from '@mikro-orm/mariadb';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { versioned } from '@mikro-ool/driver';
import { resilient } from '@mikro-ool/pool';

export const ACCOUNTS = 48;
export const OPENING_BALANCE = 1000;

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

/** No constraint on (account, version): that alone would prevent lost updates. */
export const Journal = defineEntity({
  name: 'Journal',
  indexes: [{ properties: ['account', 'kind', 'incarnation'] }],
  properties: {
    id: p.integer().primary(),
    attempt: p.string(),
    account: p.integer(),
    incarnation: p.integer(),
    kind: p.enum(['create', 'update', 'delete'] as const),
    read: p.integer().nullable(),
    written: p.integer().nullable(),
    balance: p.integer(),
  },
});

export type Lock = 'mikro-ool' | 'version-true';
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
  ],
  mariadb: [
    `create trigger solo after update on account for each row
       if new.solo <> old.solo then
         insert into journal (attempt, account, incarnation, kind, \`read\`, written, balance)
         values (new.solo, new.id, new.incarnation, 'update', old.version, new.version, new.balance);
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
    entities: [Account, Journal],
    pool: { min: 0, max: poolSize },
    ...(replicas.length > 0 && { replicas: replicas.map((clientUrl) => ({ clientUrl })) }),
    driverOptions: POOL_OPTIONS[database](name),
    // lost connections are what this is about
    logger: () => {},
  };
  const driver = (lock === 'mikro-ool' ? versioned(resilient(Plain)) : Plain) as typeof PostgreSqlDriver;
  return (await MikroORM.init({ ...options, driver })) as unknown as MikroORM<AbstractSqlDriver>;
}

/** Creates the tables, and the accounts that share all the money that there ever is. */
export async function createTables(orm: MikroORM<AbstractSqlDriver>, database: DatabaseKind): Promise<void> {
  await orm.schema.create();
  const em = orm.em.fork() as EntityManager;
  for (let id = 1; id <= ACCOUNTS; id++) {
    const write = { account: id, incarnation: 1, read: null, written: 1, balance: OPENING_BALANCE } as const;
    em.create(Account, { id, incarnation: 1, balance: OPENING_BALANCE });
    em.create(Journal, { attempt: SETUP, kind: 'create', ...write });
  }
  await em.flush();
  for (const sql of TRIGGERS[database]) {
    await orm.em.getConnection().execute(sql);
  }
}

/** The attempt that has created the accounts. */
export const SETUP = 'setup';
