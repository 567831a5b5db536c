/** What stands on the pages is what happens: every block of code is type-checked, and every program run. */
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, expect, test } from 'vitest';
import { type Page, writePages } from './pages.ts';

const docs = join(import.meta.dirname, '..');
const readme = readFileSync(join(docs, '../README.md'), 'utf8');
const pages = writePages();
afterAll(() => rmSync(join(docs, '.pages'), { recursive: true }));

/** Started in examples/recipes/test/page.test.ts, with its curl lines; it goes on until it is told to stop. */
const SERVICES = ['request-handlers'];
/** Pages whose program is a file of tests. */
const TESTS = ['testing'];
/** Pages that say that their program is JavaScript as it stands. */
const JAVASCRIPT = ['README', 'getting-started'];

async function run(program: string, args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(program, args, { cwd: docs }).catch((error) => {
    throw new Error(`${error.stdout}\n${error.stderr}`);
  });
  return stdout;
}

test.each(['typescript', 'typescript-5'])(
  'all code of the pages is strict for %s',
  async (compiler) => {
    const tsconfig = join(docs, '.pages/tsconfig.json');
    writeFileSync(
      tsconfig,
      JSON.stringify({
        compilerOptions: {
          ...{
            target: 'es2024',
            lib: ['es2024'],
            module: 'nodenext',
            types: ['node'],
            noEmit: true,
            skipLibCheck: true,
          },
          ...{ strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: false },
          ...{ erasableSyntaxOnly: true, allowImportingTsExtensions: true, noUnusedLocals: true },
        },
      }),
    );
    await run(process.execPath, [join(docs, 'node_modules', compiler, 'bin/tsc'), '-p', tsconfig]);
  },
  300_000,
);

const programs = pages.filter(({ name, program }) => program !== '' && ![...SERVICES, ...TESTS].includes(name));

test.each(programs)('the program of $name runs as it stands and prints what the page says', async (page: Page) => {
  const file = join(page.directory, JAVASCRIPT.includes(page.name) ? 'page.mjs' : 'page.ts');
  writeFileSync(file, page.program);
  expect(await run(process.execPath, [file])).toBe(page.output);
});

test.each(pages.filter(({ name }) => TESTS.includes(name)))('the tests of $name are green', async (page: Page) => {
  const file = join(page.directory, 'page.test.ts');
  writeFileSync(file, page.program);
  const vitest = join(docs, '../node_modules/vitest/vitest.mjs');
  await run(process.execPath, [vitest, 'run', '--root', page.directory]);
});

test('README is short, and its program stands on the first screen', () => {
  const lines = readme.split('\n');
  expect(lines.length).toBeLessThanOrEqual(91);
  expect(lines.slice(0, 15).join('\n')).toContain('```ts');
});
