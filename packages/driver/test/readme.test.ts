/** What the README shows is what happens. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { outputOf } from './program.ts';

const readme = readFileSync(join(import.meta.dirname, '../../../README.md'), 'utf8');

test('the first program runs as it stands and prints what the README says', async () => {
  const [, program] = readme.match(/```ts\n(.*?)```/s)!;
  const [, output] = readme.match(/It prints:\n\n```\n(.*?)```/s)!;
  expect(program!.trim().split('\n').length).toBeLessThanOrEqual(20);
  expect(await outputOf(program!, import.meta.dirname)).toBe(output);
});

test('code stands within the first 15 lines', () => {
  expect(readme.split('\n').slice(0, 15).join('\n')).toContain('```ts');
});
