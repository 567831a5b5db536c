import { MikroORM, type Options } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';

/** Runs statements on a server, outside of the databases of the tests. Returns the rows of the last one. */
export async function onServer(options: Partial<Options>, ...statements: string[]): Promise<Record<string, string>[]> {
  const orm = await MikroORM.init({ ...options, entities: [], discovery: { warnWhenNoEntities: false } } as Options);
  const connection = (orm.em as unknown as EntityManager).getConnection();
  let rows: Record<string, string>[] = [];
  for (const statement of statements) {
    rows = await connection.execute(statement);
  }
  await orm.close();
  return rows;
}
