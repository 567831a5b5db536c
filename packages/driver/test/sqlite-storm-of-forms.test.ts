/** Each form of the statements that write rows, forced upon any number of them, by two processes on one file. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporary } from './drivers/sqlite.ts';
import { untilNoticed } from './harness.ts';
import { Counter, type Race, type Result } from './sqlite-storm-of-forms.worker.ts';

const dir = temporary();
const dbName = join(dir, 'test.db');
let orm: MikroORM;
let workers: Worker[];

interface Worker {
  readonly process: ChildProcess;
  readonly ended: Promise<unknown>;
}

const SENDINGS = ['without a transaction', 'in a transaction', 'row by row'] as const;
const FORMS = ['as JSON', 'as VALUES'] as const;

beforeAll(async () => {
  orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName, entities: [Counter] });
  await orm.schema.create();
  await orm.em.getConnection().execute('pragma journal_mode = wal');
  const worker = join(import.meta.dirname, 'sqlite-storm-of-forms.worker.ts');
  workers = ['1', '2'].map((name) => {
    const process = fork(worker, [dbName, name], { serialization: 'advanced', execArgv: [] });
    return { process, ended: once(process, 'exit') };
  });
  await Promise.all(workers.map(({ process }) => once(process, 'message')));
});

afterAll(async () => {
  workers.forEach(({ process }) => process.kill());
  await orm.close();
  rmSync(dir, { recursive: true });
});

/** The processes race for the same new rows. */
async function race(options: Race, racers = workers) {
  await orm.em.fork().nativeDelete(Counter, {});
  await orm.em.fork().insertMany(
    Counter,
    Array.from({ length: options.rows }, (_, i) => ({ id: i + 1, version: 1 })),
  );
  const results = await Promise.all(
    racers.map(async ({ process, ended }) => {
      process.send(options);
      const [result] = (await Promise.race([once(process, 'message'), ended])) as [Result];
      expect(result, 'the process ended').toHaveProperty('tally');
      return result;
    }),
  );
  const sum = (key: 'saved' | 'deleted' | 'conflicts') => results.reduce((total, { tally }) => total + tally[key], 0);
  const by = (key: 'bumps' | 'deletions', id: number) =>
    results.reduce((total, { tally }) => total + (tally[key].get(id) ?? 0), 0);
  const counters = await orm.em.fork().find(Counter, {});
  expect(counters.length).toBe(options.rows);
  return {
    saved: sum('saved'),
    deleted: sum('deleted'),
    conflicts: sum('conflicts'),
    kinds: new Set(results.flatMap(({ kinds }) => [...kinds])),
    lost: counters.reduce((total, { id, n }) => total + Math.abs(by('bumps', id) - n), 0),
    versions: counters.filter(({ id, version }) => version - 1 !== by('bumps', id) + by('deletions', id)).length,
  };
}

for (const sending of SENDINGS) {
  // the statement of one row has no list
  for (const form of sending === 'row by row' ? (['as JSON'] as const) : FORMS) {
    test(`${form}, ${sending}: nothing is lost`, async ({ annotate }) => {
      let conflicts = 0;
      for (const rows of sending === 'row by row' ? [1, 2, 5, 50] : [2, 5, 50, 600]) {
        for (const deletes of [false, true]) {
          const result = await race({ sending, form, rows, deletes, flushes: rows > 50 ? 5 : 15 });
          await annotate(
            `${rows} rows: ${result.saved} saved, ${result.deleted} deleted, ${result.conflicts} conflicts`,
          );
          expect(result).toMatchObject({ lost: 0, versions: 0 });
          conflicts += result.conflicts;
          if (sending !== 'row by row') {
            expect(result.kinds).toEqual(
              new Set([`update ${form}`, ...(sending === 'in a transaction' ? ['begin'] : [])]),
            );
          }
        }
      }
      expect(conflicts, 'without a conflict this was no race').toBeGreaterThan(0);
    });
  }
}

describe('would be noticed', () => {
  for (const sending of ['without a transaction', 'in a transaction'] as const) {
    for (const form of FORMS) {
      for (const broken of ['update', 'delete'] as const) {
        test(`${form}, ${sending}, if its ${broken.toUpperCase()} did not compare versions`, async () => {
          const deletes = broken === 'delete';
          const options = { sending, form, rows: 5, deletes, flushes: 60, broken };
          expect(await untilNoticed(async () => (await race(options)).lost)).toBeGreaterThan(0);
        });
      }
    }
  }
});
