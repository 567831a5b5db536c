import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import type { TestProject } from 'vitest/node';
import { startPostgres } from '../../../../tools/postgres.ts';
import { onServer } from './server.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    postgresUrl: string;
    postgresVersion: string;
  }
}

/** One server for all PostgreSQL tests. */
export default async function setup(project: TestProject, version?: 15): Promise<() => Promise<void>> {
  const server = await startPostgres(version);
  const options = { driver: PostgreSqlDriver, clientUrl: server.url, dbName: 'postgres' };
  const [row] = await onServer(options, 'show server_version');
  project.provide('postgresUrl', server.url);
  project.provide('postgresVersion', row!['server_version']!.split(' ')[0]!);
  return () => server.stop();
}
