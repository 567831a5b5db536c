/** Takes a doctor off call while the other one is on, and prints how often none was. Run by sqlite-processes.test.ts. */
import { setTimeout } from 'node:timers/promises';
import { MikroORM, defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField, verify } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';

export const Doctor = defineEntity({
  name: 'Doctor',
  properties: { id: p.integer().primary(), onCall: p.boolean(), version: p.type(VersionField) },
});

if (process.argv[1] === import.meta.filename) {
  const [dbName, rounds, mine, verifies] = [process.argv[2]!, ...process.argv.slice(3).map(Number)] as const;
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName, entities: [Doctor] });
  const result = { saved: 0, conflicts: 0, violations: 0, other: [] as string[] };
  for (let round = 0; round < rounds!; round++) {
    const em = orm.em.fork();
    const doctors = await em.find(Doctor, {}, { orderBy: { id: 1 } });
    const [own, other] = [doctors[mine!]!, doctors[1 - mine!]!];
    if (!own.onCall && !other.onCall) {
      result.violations++;
    }
    if (own.onCall && other.onCall) {
      if (verifies) {
        verify(other);
      }
      own.onCall = false;
    } else {
      own.onCall = true;
    }
    await setTimeout(1);
    try {
      await em.flush();
      result.saved++;
    } catch (error) {
      const isBusy = (error as { code?: string }).code === 'SQLITE_BUSY';
      if (error instanceof ConcurrentUpdate || isBusy) {
        result.conflicts++;
      } else {
        result.other.push(String(error));
      }
    }
  }
  await orm.close();
  console.log(JSON.stringify(result));
}
