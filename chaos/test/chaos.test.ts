/** Short runs on a real server: with the lock nothing is lost, and without it the checker notices. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { missingPackages } from '../../cluster/packages.ts';
import { VIOLATIONS } from '../checker.ts';
import { excuseOf } from '../excuses.ts';
import type { Plan } from '../model.ts';
import { summarise } from '../report.ts';
import { run } from '../run.ts';
import { faultsOf } from '../saboteur.ts';

const MINUTES = 1 / 3;

async function expectNothingLost(target: Pick<Plan, 'database' | 'cluster'>): Promise<void> {
  const { verdict, anomalies, accidents, faults, openTransactions, openSessions, isGood } = await run({
    ...{ ...target, lock: 'mikro-ool', seed: 7, minutes: MINUTES },
  });
  expect([...verdict.violations, ...anomalies].filter(({ kind }) => !excuseOf(kind, target))).toEqual([]);
  expect(accidents).toEqual([]);
  expect({ openTransactions, openSessions, isGood }).toEqual({ openTransactions: 0, openSessions: 0, isGood: true });
  expect(faultsOf(target).filter((fault) => faults[fault] === 0)).toEqual([]);
  const { sale, doctor, stock, raw } = verdict.writesOf;
  expect(sale + doctor + stock + raw).toBeGreaterThan(0);
  expect(verdict.outcomes.success).toBeGreaterThan(0);
}

test('mikro-ool loses nothing, whatever fails', { timeout: 300_000 }, () =>
  expectNothingLost({ database: 'postgresql' }),
);

test.skipIf(missingPackages('galera').length > 0)(
  'mikro-ool loses nothing on Galera, whichever node fails',
  { timeout: 300_000 },
  () => expectNothingLost({ database: 'mariadb', cluster: 'galera' }),
);

test('mikro-ool loses nothing on a hot standby that lags and takes over', { timeout: 300_000 }, () =>
  expectNothingLost({ database: 'postgresql', cluster: 'standby' }),
);

test(
  'without synchronous replication commits are lost, and the report says by whom',
  { timeout: 300_000 },
  async () => {
    const plan = {
      database: 'postgresql',
      cluster: 'standby-async',
      lock: 'mikro-ool',
      seed: 7,
      minutes: MINUTES,
    } as const;
    const result = await run(plan);
    const kinds = new Set(result.verdict.violations.map(({ kind }) => kind));
    expect(kinds).toContain('lostSuccess');
    // where the standby is waited for, each of them is a violation
    expect([...kinds].map((kind) => excuseOf(kind, { cluster: 'standby' }))).toEqual([...kinds].map(() => undefined));
    expect(result.isGood).toBe(true);
    expect(summarise(result).rows).toMatchObject({
      '**violations**': 0,
      [`${VIOLATIONS.lostSuccess} (${excuseOf('lostSuccess', plan)})`]: expect.any(Number),
    });
  },
);

test(
  'version: true loses updates, sees nothing of writers past the ORM, and the checker says so',
  { timeout: 300_000 },
  async () => {
    const { verdict } = await run({ database: 'postgresql', lock: 'version-true', seed: 7, minutes: MINUTES });
    const kinds = verdict.violations.map(({ kind }) => kind);
    expect(kinds).toContain('lostUpdate');
    expect(kinds).toContain('unseen');
  },
);

test('nothing is left running when nobody reads the output', { timeout: 120_000 }, async () => {
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-unread-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  // run as root, the server becomes another user
  chmodSync(directory, 0o755);
  const chaos = spawn(process.execPath, [join(import.meta.dirname, '../chaos.ts'), '--minutes', '5'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: directory },
  });
  chaos.stdout.destroy();
  chaos.stderr.destroy();
  await once(chaos, 'exit');
  expect(readdirSync(directory)).toEqual([]);
  expect(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })).not.toContain(directory);
});
