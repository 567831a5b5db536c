/** What docs/resolving-conflicts.md shows is what happens: its blocks are one program, with what it prints. */
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';

test('docs/resolving-conflicts.md runs as it stands and prints what it says', async () => {
  const page = readFileSync(join(import.meta.dirname, '../../../docs/resolving-conflicts.md'), 'utf8');
  const blocks = (language: string) =>
    [...page.matchAll(/^```(\w*)\n(.*?)^```/gms)].filter((match) => match[1] === language).map((match) => match[2]!);
  const file = join(import.meta.dirname, `docs-program-${process.pid}.ts`);
  writeFileSync(file, blocks('ts').join('\n'));
  onTestFinished(() => rmSync(file));
  const { stdout } = await promisify(execFile)(process.execPath, [file]);
  expect(blocks('').length).toBeGreaterThan(5);
  expect(stdout).toBe(blocks('').join(''));
});
