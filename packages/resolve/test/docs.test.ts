/** What docs/resolving-conflicts.md shows is what happens: its blocks are one program, with what it prints. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { outputOf } from '../../driver/test/program.ts';

test('docs/resolving-conflicts.md runs as it stands and prints what it says', async () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/resolving-conflicts.md'), 'utf8');
  const blocks = (language: string) =>
    [...page.matchAll(/^```(\w*)\n(.*?)^```/gms)].filter((match) => match[1] === language).map((match) => match[2]!);
  const printed = await outputOf(blocks('ts').join('\n'), import.meta.dirname);
  expect(blocks('').length).toBeGreaterThan(5);
  expect(printed).toBe(blocks('').join(''));
});
