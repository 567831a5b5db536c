import { randomUUID } from 'node:crypto';
import { MikroORM, PostgreSqlDriver } from '@mikro-orm/postgresql';
import { versioned } from '@mikro-ool/driver';
import { inject } from 'vitest';
import type { TestDriver } from '../harness.ts';

export const postgresql: TestDriver = {
  name: `PostgreSQL ${inject('postgresVersion')}`,
  concurrent: true,
  batches: true,
  autocommits: true,
  replicas: true,
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
        const admin = await MikroORM.init({
          clientUrl,
          dbName: 'postgres',
          entities: [],
          discovery: { warnWhenNoEntities: false },
        });
        await admin.em.getConnection().execute(`drop database if exists "${dbName}" with (force)`);
        await admin.close();
      },
    };
  },
};
