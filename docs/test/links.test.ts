/** Every link of every page leads to a file of this repository, and to a heading that it has. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');
/** Pages on npm link by whole addresses. */
const REPOSITORY = /^https:\/\/github\.com\/mikro-ool\/mikro-ool\/(?:blob|tree)\/main\//;
/** Where no page of ours is. */
const NOT_OURS = new Set(['node_modules', 'dist', '.git', '.tmp', '.pages', '.changeset']);
const pages = globSync('**/*.md', { cwd: root, exclude: (path) => NOT_OURS.has(basename(path)) });

function read(path: string): string {
  return readFileSync(path, 'utf8').replaceAll(/^ *```.*?^ *```/gms, '');
}

/** The targets of `[text](target)` outside of code. */
function linksOf(path: string): string[] {
  const text = read(join(root, path)).replaceAll(/`[^`\n]*`/g, '');
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].map(([, target]) => target!);
}

/** What GitHub makes of a heading. */
function anchorsOf(path: string): string[] {
  return [...read(path).matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
      .replaceAll(' ', '-'),
  );
}

function isDead(page: string, link: string): boolean {
  const [target, anchor] = link.split('#');
  const ours = REPOSITORY.test(link) ? join(root, target!.replace(REPOSITORY, '')) : undefined;
  const path = ours ?? (target === '' ? join(root, page) : join(root, dirname(page), target!));
  return !existsSync(path) || (anchor !== undefined && path.endsWith('.md') && !anchorsOf(path).includes(anchor));
}

test('there are pages, and they have links', () => {
  expect(pages).toContain('docs/semantics.md');
  expect(linksOf('README.md').length).toBeGreaterThan(20);
});

test.each(pages)('%s has no dead link', (page) => {
  const local = linksOf(page).filter((link) => !/^\w+:/.test(link) || REPOSITORY.test(link));
  expect(local.filter((link) => isDead(page, link))).toEqual([]);
});
