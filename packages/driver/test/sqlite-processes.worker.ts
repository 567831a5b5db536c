/** Adds 1 to every row, again and again, and prints how often it was saved. Run by sqlite-processes.test.ts. */
import { setTimeout } from 'node:timers/promises';
import { MikroORM, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';

export const Counter = defineEntity({
  name: 'Counter',
  properties: { id: p.integer().primary(), n: p.integer().default(0), version: p.type(VersionField) },
});

if (process.argv[1] === import.meta.filename) {
  const [dbName, rounds] = [process.argv[2]!, Number(process.argv[3])];
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName, entities: [Counter] });
  const result = { saved: 0, conflicts: 0, snapshots: 0, busy: 0, other: [] as string[] };
  for (let round = 0; round < rounds; round++) {
    const em = orm.em.fork();
    try {
      // half of the rounds read inside the transaction: there SQLite itself refuses a stale snapshot
      if (round % 2) {
        await em.transactional(async (tx) => {
          (await tx.find(Counter, {})).forEach((counter) => counter.n++);
          await setTimeout(1);
        });
      } else {
        const counters = await em.find(Counter, {});
        counters.forEach((counter) => counter.n++);
        await setTimeout(1);
        await em.flush();
      }
      result.saved++;
    } catch (error) {
      if (error instanceof ConcurrentUpdate) {
        result.conflicts++;
        result.snapshots += (error.cause as { code?: string } | undefined)?.code === 'SQLITE_BUSY_SNAPSHOT' ? 1 : 0;
      } else if (round % 2 && (error as { code?: string }).code === 'SQLITE_BUSY') {
        // somebody is writing right now; a transaction that has read already does not wait for that, nor has it lost yet
        result.busy++;
      } else {
        result.other.push(String(error));
      }
    }
  }
  await orm.close();
  console.log(JSON.stringify(result));
}
