import { MikroORM } from '@mikro-orm/mariadb';
import type { TestProject } from 'vitest/node';
import { startMariaDb } from '../../../../tools/mariadb.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    mariaDbUrl: string | undefined;
    mariaDbVersion: string | undefined;
  }
}

/** One server for all MariaDB tests; without one they are skipped, visibly. */
export default async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const server = await startMariaDb();
  project.provide('mariaDbUrl', server?.url);
  if (!server) {
    return undefined;
  }
  const orm = await MikroORM.init({
    clientUrl: server.url,
    dbName: 'mysql',
    entities: [],
    discovery: { warnWhenNoEntities: false },
  });
  const [row] = await orm.em.getConnection().execute<[{ version: string }]>('select version() as version');
  await orm.close();
  project.provide('mariaDbVersion', row.version.split('-')[0]!);
  return () => server.stop();
}
