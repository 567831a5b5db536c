/** `npx pnpm cluster`: what it prints, and that it leaves nothing behind. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { query } from './standby.ts';

const COMMAND = join(import.meta.dirname, 'cluster.ts');

function start(...args: string[]) {
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-command-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  // run as root, the servers become other users
  chmodSync(directory, 0o755);
  const child = spawn(process.execPath, [COMMAND, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: directory },
  });
  const isGone = () => {
    expect(readdirSync(directory)).toEqual([]);
    expect(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })).not.toContain(directory);
  };
  return { child, directory, isGone };
}

/** What it prints until it runs. */
async function printed({ stdout }: ReturnType<typeof start>['child']): Promise<string> {
  let text = '';
  for await (const data of stdout!) {
    text += String(data);
    if (text.includes('Ctrl-C')) {
      break;
    }
  }
  return text;
}

// 0 is shown as 0, 2000 as 2s, and 60000 as 1min
test.each(['0', '2000', '60000'])(
  'a standby %s ms behind prints URLs that work, and ends with what it has started',
  async (lag) => {
    const { child, isGone } = start('standby', '--lag', lag);
    const text = await printed(child);
    const [, primary] = /^primary: (.*)$/m.exec(text)!;
    const [, standby] = /^standby: (.*)$/m.exec(text)!;
    expect(await query({ url: primary! }, 'select pg_is_in_recovery() as is')).toEqual([{ is: false }]);
    expect(await query({ url: standby! }, 'select pg_is_in_recovery() as is')).toEqual([{ is: true }]);
    const delay = `select setting from pg_settings where name = 'recovery_min_apply_delay'`;
    expect(await query({ url: standby! }, delay)).toEqual([{ setting: lag }]);
    child.kill('SIGINT');
    await once(child, 'exit');
    isGone();
  },
);

test('leaves nothing when it is told to end before it runs', async () => {
  const { child, directory, isGone } = start('galera');
  while (readdirSync(directory).length === 0) {
    await wait(20);
  }
  child.kill('SIGTERM');
  await once(child, 'exit');
  isGone();
});

test.each([
  [['galera', '--lag', '5'], '--lag is for a standby.'],
  [['standby', '--lag', '1e99'], 'A lag is a number of milliseconds, 2147483647 at most.'],
  [['standby', '--mode', 'session'], '--mode is for pgbouncer.'],
])('%s is refused', (args, sentence) => {
  const { status, stderr } = spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8' });
  expect({ status, sentence: stderr.split('\n')[0] }).toEqual({ status: 2, sentence });
});

test('ends when nobody reads what it prints', async () => {
  const { child, isGone } = start('standby');
  child.stdout.destroy();
  child.stderr.destroy();
  await once(child, 'exit');
  isGone();
});

test('says what is not installed', () => {
  const env = { ...process.env, PATH: '' };
  const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, 'galera'], { encoding: 'utf8', env });
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  expect(stderr).toMatch(/^galera needs mariadb-server, .*\. Install what is missing: apt-get install .*rsync/);
});
