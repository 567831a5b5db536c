/**
 * Two tabs of a real browser edit one article, without JavaScript; and axe-core looks at every page. `SCREENSHOTS=1` renews
 * the pictures in docs/images. Needs Chromium: Debian's `chromium`, or the one that `CHROMIUM` names.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { AxeBuilder } from '@axe-core/playwright';
import { type Browser, type BrowserContext, type BrowserContextOptions, type Page, chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { setUp } from './set-up.ts';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const images = join(import.meta.dirname, '../../../docs/images');

async function picture(page: Page, name: string): Promise<void> {
  if (process.env.SCREENSHOTS) {
    await page.screenshot({ path: join(images, `${name}.png`), fullPage: true });
  }
}

/** What keeps people out, by axe-core, which needs JavaScript: so it looks at a copy. */
async function barriers(page: Page, copy: Page): Promise<string[]> {
  await copy.setContent(await page.content());
  // there are no frames, which the other mode opens a second page for; and nobody reads what has passed
  const axe = new AxeBuilder({ page: copy }).setLegacyMode().options({ resultTypes: ['violations'] });
  const { violations } = await axe.analyze();
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
}

describe.runIf(existsSync(executablePath))(`two tabs of ${executablePath}`, () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
  });
  afterAll(() => browser?.close());

  /** Tabs of somebody's own. */
  async function open(options?: BrowserContextOptions): Promise<BrowserContext> {
    const context = await browser.newContext(options);
    onTestFinished(() => context.close());
    return context;
  }

  test('the second save is told who was faster, and chooses; nothing is lost', async () => {
    const { url, row } = await setUp();
    const context = await open({ javaScriptEnabled: false, viewport: { width: 900, height: 640 } });
    const [hers, his] = [await context.newPage(), await context.newPage()];
    await hers.goto(url);
    expect(await hers.textContent('main')).toContain('in two tabs');
    await hers.getByRole('link', { name: 'Article 1' }).click();
    await his.goto(hers.url());
    await picture(his, 'edit');

    await hers.getByLabel('Title').fill('Locking, optimistically');
    await hers.getByLabel('Text').fill('Two people open the same record.\nBoth save.');
    await hers.getByLabel('Your name').fill('Ada');
    await hers.getByRole('button', { name: 'Save' }).click();
    expect(await hers.getByRole('status').textContent()).toBe('Saved.');
    expect(await hers.getByLabel('Your name').inputValue()).toBe('Ada');

    await his.getByLabel('Title').fill('Offline locks');
    await his.getByLabel('Your name').fill('Bob');
    await his.getByRole('button', { name: 'Save' }).click();
    expect(await his.textContent('h1')).toBe('Ada saved this article before you');
    expect(await his.getByRole('group', { name: 'Title: you both changed it' }).isVisible()).toBe(true);
    expect(await his.textContent('section')).toContain('only Ada changed it');
    expect(await row(1)).toMatchObject({ title: 'Locking, optimistically', version: 2 });

    // without a choice the browser does not send it
    await his.getByRole('button', { name: 'Save' }).click();
    expect(await his.textContent('h1')).toBe('Ada saved this article before you');
    // by the keyboard alone
    await his.getByRole('radio', { name: 'Keep mine' }).focus();
    await his.keyboard.press('ArrowDown');
    expect(await his.getByRole('radio', { name: "Use Ada's" }).isChecked()).toBe(true);
    await his.keyboard.press('ArrowUp');
    await picture(his, 'conflict');
    await his.keyboard.press('Enter');
    await his.waitForURL(/saved/);
    await picture(his, 'merged');
    expect(await row(1)).toMatchObject({
      title: 'Offline locks',
      body: 'Two people open the same record.\nBoth save.',
      version: 3,
      editor: 'Bob',
    });
  });

  test('axe-core finds no barrier on any page', async () => {
    const { url, orm } = await setUp();
    const context = await open({ javaScriptEnabled: false });
    const [hers, his, cys] = [await context.newPage(), await context.newPage(), await context.newPage()];
    const copy = await (await open()).newPage();
    const look = async (page: Page, heading: string) => {
      expect(await page.textContent('h1')).toBe(heading);
      expect(await barriers(page, copy)).toEqual([]);
    };
    const change = async (page: Page, title: string) => {
      await page.getByLabel('Title').fill(title);
      await page.getByRole('button', { name: 'Save' }).click();
    };
    await hers.goto(url);
    await look(hers, 'Articles');
    for (const page of [hers, his, cys]) {
      await page.goto(`${url}/articles/1/edit`);
    }
    await change(hers, 'hers');
    await look(hers, 'Edit the article');
    await change(his, 'his');
    await look(his, 'Somebody saved this article before you');
    await cys.getByRole('button', { name: 'Delete this article' }).click();
    await look(cys, 'Somebody saved this article before you deleted it');
    await orm.em.fork().nativeDelete('Article' as never, 1 as never);
    await change(hers, 'late');
    await look(hers, 'Somebody deleted this article');
    // and axe-core does find some
    await hers.goto(`data:text/html,<html><h1>x</h1><input name="a">`);
    expect((await barriers(hers, copy)).join()).toContain('label');
  });
});
