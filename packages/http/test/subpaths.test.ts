/** A subpath loads its own framework and no other, runs in Node as it stands, and the main one loads none. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

const directory = join(import.meta.dirname, '..');
const OURS = ['@mikro-ool/core', '@mikro-orm/core', 'node:crypto'];

test.each([
  ['index', []],
  ['express', []],
  ['fastify', []],
  ['hono', []],
  ['nestjs', ['@nestjs/common', '@nestjs/core', 'rxjs']],
])('%s', async (name, frameworks) => {
  const entry = join(directory, 'src', `${name}.ts`);
  const { metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    metafile: true,
    write: false,
  });
  const imports = Object.values(metafile.inputs).flatMap((input) => input.imports);
  const others = imports.filter(({ external }) => external).map(({ path }) => path);
  expect([...new Set(others)].filter((path) => !OURS.includes(path)).toSorted()).toEqual(frameworks);
  execFileSync(process.execPath, ['--input-type=module', '-e', `await import(${JSON.stringify(entry)})`]);
});
