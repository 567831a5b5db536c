import { randomUUID } from 'node:crypto';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { versioned } from '@mikro-ool/driver';
import { inject } from 'vitest';
import type { TestDriver } from '../harness.ts';
import { onServer } from './server.ts';

export const postgresql: TestDriver = {
  name: `PostgreSQL ${inject('postgresVersion')}`,
  concurrent: true,
  batches: true,
  alone: 'every statement',
  replicas: true,
  cascadeDepth: 350,
  plain: PostgreSqlDriver,
  literal: (column) => `row(${column})::text`,
  dropUnique: (table, index) => `alter table ${table} drop constraint ${index}`,
  keepsBack: {
    'a trigger': (table, operation, id) => [
      `create function keep_back() returns trigger language plpgsql as $$ begin
         if old.id = ${id} then return null; end if;
         if tg_op = 'DELETE' then return old; end if;
         return new;
       end $$`,
      `create trigger keep_back before ${operation} on ${table} for each row execute function keep_back()`,
    ],
    'a rule': (table, operation, id) => [
      `create rule keep_back as on ${operation} to ${table} where old.id = ${id} do instead nothing`,
    ],
  },
  widens: (table, column) => [`alter table ${table} alter column ${column} type bigint`],
  schemas: () => ({}),
  async create() {
    const dbName = `mikro_ool_${randomUUID().replaceAll('-', '')}`;
    const clientUrl = inject('postgresUrl');
    return {
      options: { driver: versioned(PostgreSqlDriver), clientUrl, dbName, ensureDatabase: { create: false } },
      drop: async () => {
        const server = { driver: PostgreSqlDriver, clientUrl, dbName: 'postgres' };
        await onServer(server, `drop database if exists "${dbName}" with (force)`);
      },
    };
  },
};
