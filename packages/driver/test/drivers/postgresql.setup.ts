import { randomUUID } from 'node:crypto';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import type { TestProject } from 'vitest/node';
import { startPostgres } from '../../../../tools/postgres.ts';
import { type Session, session } from './server.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    postgresUrl: string;
    postgresVersion: string;
    /** With which the names of the databases of this run start. */
    postgresPrefix: string;
  }
}

/** One server for all PostgreSQL tests of a version: projects that are set up later find it running. */
export default async function setup(project: TestProject, version?: 15): Promise<() => Promise<void>> {
  const server = await startPostgres(version);
  process.env[version ? 'POSTGRES_15_URL' : 'POSTGRES_URL'] = server.url;
  const run = session({ driver: PostgreSqlDriver, clientUrl: server.url, dbName: 'postgres' });
  const [row] = await run('show server_version');
  const prefix = `mikro_ool_${randomUUID().slice(0, 8)}_`;
  project.provide('postgresUrl', server.url);
  project.provide('postgresVersion', row!['server_version']!.split(' ')[0]!);
  project.provide('postgresPrefix', prefix);
  return async () => {
    // the project that has started the server may have stopped it already: then they are gone with it
    await dropAll(run, prefix).catch(() => {});
    await run.close();
    await server.stop();
  };
}

async function dropAll(run: Session, prefix: string): Promise<void> {
  const databases = await run(`select datname as name from pg_database where starts_with(datname, '${prefix}')`);
  await run(...databases.map(({ name }) => `drop database "${name}" with (force)`));
}
