import { expect, test } from 'vitest';
import { doctor, doctors } from './doctor/suite.ts';
import { sqliteFile } from './drivers/sqlite.ts';

doctors(sqliteFile);

test('a driver that is not wrapped is refused by the entities themselves, and that is what is said', () => {
  const { status, stderr } = doctor({ dbName: ':memory:', fault: 'not wrapped' }, 'doctor');
  expect([status, stderr]).toEqual([1, expect.stringContaining("driver: versioned(…), from '@mikro-ool/driver'")]);
});

test('no configuration is found: MikroORM says so, and 1', () => {
  const { status, stderr } = doctor({ dbName: ':memory:' }, 'doctor', '--config', 'none.ts');
  expect([status, stderr]).toEqual([1, expect.stringMatching(/^\S.*\n$/)]);
});

test('--help, and what there is not: 2', () => {
  const told = { dbName: ':memory:' };
  expect(doctor(told, '--help')).toMatchObject({ status: 0, stdout: expect.stringMatching(/^Usage: npx mikro-ool/) });
  for (const args of [[], ['docter'], ['doctor', '--fix']]) {
    expect(doctor(told, ...args)).toMatchObject({ status: 2, stdout: '', stderr: expect.stringContaining('Usage:') });
  }
});
