/** Two processes on one SQLite file in WAL mode: the lock holds between them. */
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test } from 'vitest';
import { temporary } from './drivers/sqlite.ts';
import { untilNoticed } from './harness.ts';
import { Doctor } from './sqlite-on-call.worker.ts';
import { Counter } from './sqlite-processes.worker.ts';

const run = promisify(execFile);
const ROUNDS = 200;

interface Result {
  saved: number;
  conflicts: number;
  snapshots: number;
  busy: number;
  other: string[];
}

test('two processes add 1 to the same 5 rows: saved by both == final counter == version - 1', async () => {
  const dir = temporary();
  const dbName = join(dir, 'test.db');
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName, entities: [Counter] });
  onTestFinished(async () => {
    await orm.close();
    rmSync(dir, { recursive: true });
  });
  await orm.schema.create();
  const [mode] = await orm.em.getConnection().execute('pragma journal_mode = wal');
  expect(mode).toEqual({ journal_mode: 'wal' });
  const em = orm.em.fork();
  for (let id = 1; id <= 5; id++) {
    em.create(Counter, { id });
  }
  await em.flush();
  const worker = join(import.meta.dirname, 'sqlite-processes.worker.ts');
  const outputs = await Promise.all([1, 2].map(() => run(process.execPath, [worker, dbName, String(ROUNDS)])));
  const results = outputs.map(({ stdout }) => JSON.parse(stdout) as Result);
  expect(results.flatMap((result) => result.other)).toEqual([]);
  const sum = (key: 'saved' | 'conflicts' | 'snapshots' | 'busy') =>
    results.reduce((total, result) => total + result[key], 0);
  const saved = sum('saved');
  expect(saved + sum('conflicts') + sum('busy')).toBe(2 * ROUNDS);
  expect(sum('conflicts')).toBeGreaterThan(0);
  expect(sum('snapshots'), 'no stale snapshot was refused, so that half tested nothing').toBeGreaterThan(0);
  for (const counter of await orm.em.fork().find(Counter, {})) {
    expect(counter).toMatchObject({ n: saved, version: saved + 1 });
  }
});

/** Two processes, each with a doctor of its own, of which one is to stay on call. */
async function onCall(verifies: boolean) {
  const dir = temporary();
  const dbName = join(dir, 'test.db');
  const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName, entities: [Doctor] });
  onTestFinished(() => rmSync(dir, { recursive: true }));
  await orm.schema.create();
  await orm.em.getConnection().execute('pragma journal_mode = wal');
  await orm.em.fork().insertMany(
    Doctor,
    [1, 2].map((id) => ({ id, onCall: true })),
  );
  await orm.close();
  const worker = join(import.meta.dirname, 'sqlite-on-call.worker.ts');
  const args = (mine: number) => [worker, dbName, String(ROUNDS), String(mine), verifies ? '1' : '0'];
  const outputs = await Promise.all([0, 1].map((mine) => run(process.execPath, args(mine))));
  const results = outputs.map(({ stdout }) => JSON.parse(stdout) as Result & { violations: number });
  expect(results.flatMap((result) => result.other)).toEqual([]);
  const sum = (key: 'saved' | 'conflicts' | 'violations') => results.reduce((total, result) => total + result[key], 0);
  return { saved: sum('saved'), conflicts: sum('conflicts'), violations: sum('violations') };
}

test('two processes verify what the other one writes: a doctor is always on call', async () => {
  const { saved, conflicts, violations } = await onCall(true);
  expect(violations).toBe(0);
  expect(saved).toBeGreaterThan(0);
  expect(saved + conflicts).toBe(2 * ROUNDS);
});

test('the same without verify(): there are times with none', async () => {
  expect(await untilNoticed(async () => (await onCall(false)).violations)).toBeGreaterThan(0);
});
