/**
 * The site: the Markdown of this repository as it is on GitHub, README first. `npx pnpm run docs` serves it.
 *
 * What a page links to is a page of the site, or else a file on GitHub; VitePress ends the build at a page that is not there.
 */
import { existsSync, globSync, readFileSync, statSync } from 'node:fs';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { slug } from 'github-slugger';
import { type DefaultTheme, defineConfig } from 'vitepress';

const root = join(import.meta.dirname, '../..');
const driver = JSON.parse(readFileSync(join(root, 'packages/driver/package.json'), 'utf8')) as {
  description: string;
  repository: { url: string };
};
const repository = driver.repository.url.replace(/^git\+(.*)\.git$/, '$1');

const ICON =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><text y=".9em" font-size="90">🔒</text></svg>';

/** The faintest grey of VitePress is not enough for everybody to read. */
const CONTRAST = 'html:root { --vp-c-text-3: var(--vp-c-text-2) }';

/** Where each page is on the site, by its path in the repository. */
const pages: Record<string, string> = Object.fromEntries(
  globSync(['{README,CHANGELOG}.md', 'docs/*.md', 'docs/api/**/*.md', 'examples/*/README.md'], { cwd: root })
    .toSorted()
    .map((path) => [path, path.replace(/^docs\//, '').replace(/README\.md$/, 'index.md')]),
);

/** Its address on the site, for links. */
function addressOf(path: string): string {
  return `/${pages[path]!.replace(/(index)?\.md$/, '')}`;
}

/** Where a link of a page leads on the site. */
function hrefOf(link: string, from: string): string {
  const [path, ...anchor] = link.split(/(?=#)/);
  const file = resolve(dirname(from), path!);
  if (/^(\w+:|#)/.test(link) || !existsSync(file)) {
    return link;
  }
  const isDirectory = statSync(file).isDirectory();
  const target = relative(root, file);
  const page = isDirectory ? join(target, 'README.md') : target;
  const href = pages[page] ? addressOf(page) : `${repository}/${isDirectory ? 'tree' : 'blob'}/main/${target}`;
  return href + anchor.join('');
}

/** The names of a module of the API reference, kind by kind, as its pages are ordered. */
function namesOf(module: string): DefaultTheme.SidebarItem[] {
  const names = Object.keys(pages).filter(
    (path) => dirname(dirname(path)) === module && basename(path) !== 'README.md',
  );
  return names.map((path) => ({ text: basename(path, '.md'), link: addressOf(path) }));
}

const modules = Object.keys(pages)
  .filter((path) => /^docs\/api\/.*\/README\.md$/.test(path))
  .map((path): DefaultTheme.SidebarItem => {
    const module = dirname(path);
    const text = relative('docs/api', module).replace('/src', '');
    return { text: `@mikro-ool/${text}`, link: addressOf(path), items: namesOf(module), collapsed: true };
  });

export default defineConfig({
  title: 'mikro-ool',
  description: driver.description,
  base: `/${basename(repository)}/`,
  cleanUrls: true,
  head: [
    ['link', { rel: 'icon', href: `data:image/svg+xml,${encodeURIComponent(ICON)}` }],
    ['style', {}, CONTRAST],
  ],
  srcDir: '..',
  srcExclude: ['CONTRIBUTING.md', '{bench,chaos,packages}/**'],
  rewrites: pages,
  markdown: {
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
    // as on GitHub: its anchors, and no attributes in braces
    anchor: { slugify: slug },
    attrs: { disable: true },
    config(md) {
      md.renderer.rules.code_block = (...args) => md.renderer.rules.fence!(...args);
      md.core.ruler.push('links', ({ tokens, env }) => {
        for (const token of tokens.flatMap(({ children }) => children ?? [])) {
          if (token.type === 'link_open') {
            token.attrSet('href', hrefOf(token.attrGet('href')!, env.realPath ?? env.path));
          }
        }
      });
    },
  },
  themeConfig: {
    search: { provider: 'local' },
    socialLinks: [{ icon: 'github', link: repository }],
    editLink: { pattern: `${repository}/edit/main/:path`, text: 'Edit this page on GitHub' },
    outline: [2, 3],
    nav: [{ text: 'API reference', link: '/api/' }],
    sidebar: [
      { text: 'What it is', link: '/' },
      {
        text: 'A new application',
        items: [
          { text: 'Getting started', link: '/getting-started' },
          { text: 'Testing', link: '/testing' },
        ],
      },
      {
        text: 'An existing application',
        items: [{ text: 'Adopting', link: '/adopting' }],
      },
      {
        text: 'In your framework',
        items: [
          { text: 'Recipes to copy', link: '/examples/recipes/' },
          { text: 'A service with pages', link: '/examples/articles/' },
        ],
      },
      {
        text: 'An HTTP API',
        items: [{ text: 'Request handlers', link: '/request-handlers' }],
      },
      {
        text: 'Beyond one row',
        items: [
          { text: 'What a version covers', link: '/what-a-version-covers' },
          { text: 'Resolving conflicts', link: '/resolving-conflicts' },
        ],
      },
      {
        text: 'Operations',
        items: [
          { text: 'Bypasses', link: '/bypasses' },
          { text: 'Clusters, poolers and replicas', link: '/scaling' },
          { text: 'Telemetry', link: '/telemetry' },
        ],
      },
      {
        text: 'Is it right for me?',
        items: [
          { text: 'When not to use it', link: '/#when-not-to-use-it' },
          { text: 'Every promise and its test', link: '/semantics' },
          { text: 'Databases', link: '/databases' },
          { text: 'SQL', link: '/sql' },
          { text: 'Performance', link: '/performance' },
          { text: 'Reliability', link: '/reliability' },
        ],
      },
      { text: 'API reference', link: '/api/', items: modules },
      { text: 'Changelog', link: '/CHANGELOG' },
    ],
  },
});
