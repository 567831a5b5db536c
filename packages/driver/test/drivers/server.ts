/** What the tests say to a server from outside of what they test. */
import { MikroORM, type Options } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';

/** Runs statements, and returns the rows of the last one. */
export type Session = (...statements: string[]) => Promise<Record<string, string>[]>;

/** One connection, opened by the first statement and kept until the process ends: to open it costs more than a statement. */
export function session(options: Partial<Options>): Session & { close(): Promise<void> } {
  let opened: Promise<MikroORM> | undefined;
  const run: Session = async (...statements) => {
    const none = { entities: [], discovery: { warnWhenNoEntities: false }, pool: { min: 0, max: 1 } };
    opened ??= MikroORM.init({ ...options, ...none } as Options);
    const connection = ((await opened).em as unknown as EntityManager).getConnection();
    let rows: Record<string, string>[] = [];
    for (const statement of statements) {
      rows = await connection.execute(statement);
    }
    return rows;
  };
  return Object.assign(run, { close: async () => (await opened)?.close() });
}
