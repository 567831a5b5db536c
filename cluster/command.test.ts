/** `npx pnpm cluster`: what it prints, and that it leaves nothing behind. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { query } from './standby.ts';

const COMMAND = join(import.meta.dirname, 'cluster.ts');

function start() {
  const directory = mkdtempSync(join(tmpdir(), 'mikro-ool-command-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  // run as root, the servers become other users
  chmodSync(directory, 0o755);
  const child = spawn(process.execPath, [COMMAND, 'standby', '--lag', '2000'], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, TMPDIR: directory },
  });
  const isGone = () => {
    expect(readdirSync(directory)).toEqual([]);
    expect(execFileSync('ps', ['-eo', 'args'], { encoding: 'utf8' })).not.toContain(directory);
  };
  return { child, isGone };
}

test('prints URLs that work, and ends with what it has started when it is told to', async () => {
  const { child, isGone } = start();
  let text = '';
  for await (const data of child.stdout) {
    text += String(data);
    if (text.includes('Ctrl-C')) {
      break;
    }
  }
  const [, primary] = /^primary: (.*)$/m.exec(text)!;
  const [, standby] = /^standby: (.*)$/m.exec(text)!;
  expect(await query({ url: primary! }, 'select pg_is_in_recovery() as is')).toEqual([{ is: false }]);
  expect(await query({ url: standby! }, 'select pg_is_in_recovery() as is')).toEqual([{ is: true }]);
  expect(await query({ url: standby! }, 'show recovery_min_apply_delay')).toEqual([{ recovery_min_apply_delay: '2s' }]);
  child.kill('SIGINT');
  await once(child, 'exit');
  isGone();
});

test('ends when nobody reads what it prints', async () => {
  const { child, isGone } = start();
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
