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
  autocommits: true,
  replicas: true,
  conditionalUpserts: true,
  cascadeDepth: 350,
  plain: PostgreSqlDriver,
  literal: (column) => `row(${column})::text`,
  dropUnique: (table, index) => `alter table ${table} drop constraint ${index}`,
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
