/**
 * The site, as it is published: every page is opened by clicking, and every link and anchor leads somewhere. Needs Chromium:
 * Debian's `chromium`, or the one that `CHROMIUM` names.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { AxeBuilder } from '@axe-core/playwright';
import { type Browser, type BrowserContextOptions, type Page, chromium } from 'playwright-core';
import { serve } from 'vitepress';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const root = join(import.meta.dirname, '../..');
const FILE_ON_GITHUB = /^https:\/\/github\.com\/mikro-ool\/mikro-ool\/(?:blob|tree|edit)\/main\/([^#]*)/;
const PHONE = { width: 390, height: 844 };

/** What others may lead to on the page that is open, and where it leads itself. */
function look(page: Page) {
  return page.evaluate(async () => {
    const links = [...document.querySelectorAll<HTMLAnchorElement>('a[href]')];
    const inContent = links.filter((link) => link.closest('.VPContent') && link.checkVisibility());
    await Promise.allSettled([...document.images].map((image) => image.decode()));
    return {
      ids: [...document.querySelectorAll('[id]')].map(({ id }) => id),
      links: links.map(({ href }) => href),
      visible: inContent.map(({ href }) => href.replace(/#.*/, '')),
      brokenImages: [...document.images].filter(({ naturalWidth }) => naturalWidth === 0).map(({ src }) => src),
      isTooWide: document.documentElement.scrollWidth > innerWidth,
    };
  });
}

/** Until the page of an address is there, or the one that says that there is none. */
async function arrive(page: Page, url: string): Promise<void> {
  await page.waitForSelector(`.NotFound, .vp-doc[class~="${new URL(url).pathname.replaceAll(/[./]+/g, '_')}"]`);
}

/** Follows a link that can be seen. */
async function click(page: Page, url: string): Promise<void> {
  const { pathname } = new URL(url);
  const links = page.locator('.VPContent').locator(`a[href="${pathname}"], a[href^="${pathname}#"]`);
  await links.filter({ visible: true }).first().click();
  await arrive(page, url);
}

/** What keeps people out, by axe-core; not of VitePress's button that shows a key and does not say it. */
async function barriers(page: Page): Promise<string[]> {
  // there are no frames, which the other mode opens a second page for; and nobody reads what has passed
  const axe = new AxeBuilder({ page }).setLegacyMode().options({ resultTypes: ['violations'] });
  const { violations } = await axe.exclude('.DocSearch-Button').analyze();
  const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  return serious.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
}

describe.runIf(existsSync(executablePath))(`the site in ${executablePath}`, () => {
  let home: string;
  let browser: Browser;
  let stop: () => void;

  beforeAll(async () => {
    // Vitest's NODE_ENV would make it another site
    const options = { cwd: root, encoding: 'utf8', env: { ...process.env, NODE_ENV: 'production' } } as const;
    const { status, stdout, stderr } = spawnSync('node_modules/.bin/vitepress', ['build', 'docs'], options);
    expect(status, stdout + stderr).toBe(0);
    const { server } = await serve({ root: join(root, 'docs'), port: 0 });
    stop = () => server!.close();
    home = `http://127.0.0.1:${(server!.address() as AddressInfo).port}/mikro-ool/`;
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  }, 300_000);

  afterAll(async () => {
    await browser?.close();
    stop?.();
  });

  /** The start page; nothing that is opened from it may write an error to the console. */
  async function open(options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ reducedMotion: 'reduce', ...options });
    const page = await context.newPage();
    const errors: string[] = [];
    page.on('console', (message) => void (message.type() === 'error' && errors.push(message.text())));
    page.on('pageerror', ({ message }) => void errors.push(message));
    onTestFinished(async () => {
      await context.close();
      expect(errors).toEqual([]);
    });
    await page.goto(home);
    await page.waitForFunction(() => '__vue_app__' in document.querySelector('#app')!);
    return page;
  }

  test('every page is found by clicking, on a telephone, and no link or anchor is dead', async () => {
    const page = await open({ viewport: PHONE });
    const found = new Map<string, Awaited<ReturnType<typeof look>>>();
    // on and on, and back only where a page leads on to others
    const explore = async (from: string): Promise<void> => {
      const here = await look(page);
      found.set(from, here);
      for (const to of here.visible.filter((link) => link.startsWith(home))) {
        if (!found.has(to)) {
          if (page.url().split('#')[0] !== from) {
            await page.goto(from);
          }
          await click(page, to);
          await explore(to);
        }
      }
    };
    await explore(home);

    const isDead = (link: string): boolean => {
      const file = FILE_ON_GITHUB.exec(link)?.[1];
      const [place, anchor] = link.split('#');
      const target = found.get(place!);
      return link.startsWith(new URL(home).origin)
        ? !target || (anchor !== undefined && !target.ids.includes(decodeURIComponent(anchor)))
        : file !== undefined && !existsSync(join(root, file));
    };
    const flaws = [...found].map(([from, { links, brokenImages, isTooWide }]) => {
      const dead = [...new Set(links)].filter((link) => isDead(link));
      return { from, dead, brokenImages, isTooWide };
    });
    expect
      .soft(flaws.filter(({ dead, brokenImages, isTooWide }) => dead.length + brokenImages.length > 0 || isTooWide))
      .toEqual([]);
    const built = globSync('**/*.html', { cwd: join(root, 'docs/.vitepress/dist'), exclude: ['404.html'] });
    const places = built.map((file) => home + file.replace(/(^|\/)index\.html$/, '$1').replace(/\.html$/, ''));
    expect([...found.keys()].toSorted()).toEqual(places.toSorted());
  }, 600_000);

  test('the search finds a name, and leads to it', async () => {
    const page = await open();
    await page.keyboard.press('Control+k');
    await page.locator('#localsearch-input').fill('ConcurrentUpdate');
    const result = page.locator('.VPLocalSearchBox .result', { hasText: 'Class: ConcurrentUpdate' }).first();
    await result.click();
    await page.waitForURL(/\/api\/core\/src\/classes\/ConcurrentUpdate/);
    await arrive(page, page.url());
    expect(await page.textContent('.VPContent h1')).toContain('Class: ConcurrentUpdate');
  });

  test('axe-core finds no barrier, light or dark', async () => {
    const page = await open({ colorScheme: 'light' });
    const places = ['', 'performance', 'api/resolve/src/functions/mergeOnConflict'];
    for (const dark of [false, true]) {
      for (const place of places) {
        await page.goto(home + place);
        expect(await page.evaluate(() => document.documentElement.classList.contains('dark'))).toBe(dark);
        expect(await barriers(page), place).toEqual([]);
      }
      await page.getByRole('switch').filter({ visible: true }).first().click();
    }
  }, 300_000);
});
