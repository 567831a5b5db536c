import type { EntityManager } from '@mikro-orm/sql';

/** How many deadlocks there have been in this database. */
export async function countDeadlocks(em: EntityManager): Promise<number> {
  // the counters of finished transactions are reported with a delay
  await em.getConnection().execute('select pg_stat_force_next_flush()');
  const [row] = await em
    .getConnection()
    .execute<{ deadlocks: string }[]>('select deadlocks from pg_stat_database where datname = current_database()');
  return Number(row!.deadlocks);
}
