import { MikroORM } from '@mikro-orm/postgresql';
import type { TestProject } from 'vitest/node';
import { startPostgres } from '../../../../tools/postgres.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    postgresUrl: string;
    postgresVersion: string;
  }
}

/** One server for all PostgreSQL tests. */
export default async function setup(project: TestProject, version?: 15): Promise<() => Promise<void>> {
  const server = await startPostgres(version);
  const orm = await MikroORM.init({
    clientUrl: server.url,
    dbName: 'postgres',
    entities: [],
    discovery: { warnWhenNoEntities: false },
  });
  const [row] = await orm.em.getConnection().execute<[{ server_version: string }]>('show server_version');
  await orm.close();
  project.provide('postgresUrl', server.url);
  project.provide('postgresVersion', row.server_version.split(' ')[0]!);
  return () => server.stop();
}
