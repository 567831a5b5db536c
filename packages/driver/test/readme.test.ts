/** What the README shows is what happens. */
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';

const readme = readFileSync(join(import.meta.dirname, '../../../README.md'), 'utf8');

test('the first program runs as it stands and prints what the README says', async () => {
  const [, program] = readme.match(/```ts\n(.*?)```/s)!;
  const [, output] = readme.match(/It prints:\n\n```\n(.*?)```/s)!;
  expect(program!.trim().split('\n').length).toBeLessThanOrEqual(20);
  const file = join(import.meta.dirname, `readme-program-${process.pid}.ts`);
  writeFileSync(file, program!);
  onTestFinished(() => rmSync(file));
  const { stdout } = await promisify(execFile)(process.execPath, [file]);
  expect(stdout).toBe(output);
});

test('code stands within the first 15 lines', () => {
  expect(readme.split('\n').slice(0, 15).join('\n')).toContain('```ts');
});
