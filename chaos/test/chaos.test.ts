/** Short runs on a real server: with the lock nothing is lost, and without it the checker notices. */
import { expect, test } from 'vitest';
import { run } from '../run.ts';
import { FAULTS } from '../saboteur.ts';

const MINUTES = 1 / 3;

test('mikro-ool loses nothing, whatever fails', { timeout: 300_000 }, async () => {
  const { verdict, accidents, faults, openTransactions, openSessions, isGood } = await run({
    ...{ database: 'postgresql', lock: 'mikro-ool', seed: 7, minutes: MINUTES },
  });
  expect(verdict.violations).toEqual([]);
  expect(accidents).toEqual([]);
  expect({ openTransactions, openSessions, isGood }).toEqual({ openTransactions: 0, openSessions: 0, isGood: true });
  expect(FAULTS.filter((fault) => faults[fault] === 0)).toEqual([]);
  expect(verdict.outcomes.success).toBeGreaterThan(0);
});

test('version: true loses updates, and the checker says so', { timeout: 300_000 }, async () => {
  const { verdict } = await run({ database: 'postgresql', lock: 'version-true', seed: 7, minutes: MINUTES });
  const kinds = verdict.violations.map(({ kind }) => kind);
  expect(kinds).toContain('lostUpdate');
});
