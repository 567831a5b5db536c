import { MariaDbDriver } from '@mikro-orm/mariadb';
import type { TestProject } from 'vitest/node';
import { startMariaDb } from '../../../../tools/mariadb.ts';
import { session } from './server.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    mariaDbUrl: string | undefined;
    mariaDbVersion: string | undefined;
  }
}

/** One server for all MariaDB tests, also of projects that are set up later; without one they are skipped, visibly. */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const server = await startMariaDb();
  project.provide('mariaDbUrl', server?.url);
  if (!server) {
    return undefined;
  }
  process.env.MARIADB_URL = server.url;
  const run = session({ driver: MariaDbDriver, clientUrl: server.url, dbName: 'mysql' });
  const [row] = await run('select version() as version');
  await run.close();
  project.provide('mariaDbVersion', row!['version']!.split('-')[0]!);
  return () => server.stop();
}
