/** Every command that has options says so, and takes no other. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
const COMMANDS = ['bench', 'chaos', 'cluster', 'compat', 'demo', 'matrix', 'soak', 'start', 'upstream'];

function run(name: string, option: string) {
  const [, ...args] = scripts[name]!.split(' ');
  return spawnSync(process.execPath, [...args, option], { cwd: root, encoding: 'utf8' });
}

test.each(COMMANDS)('npx pnpm %s --help prints its options', (name) => {
  const { status, stdout, stderr } = run(name, '--help');
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(new RegExp(`^Usage: npx pnpm ${name}`));
  expect(stdout).toContain('--help');
});

test.each(COMMANDS)('npx pnpm %s refuses an option that it does not have', (name) => {
  const { status, stdout, stderr } = run(name, '--no-such-option');
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toContain("Unknown option '--no-such-option'");
  expect(stderr).toContain('Usage:');
});
