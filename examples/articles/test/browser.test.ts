/**
 * Two tabs of a real browser edit one article. `SCREENSHOTS=1` renews the pictures in docs/images.
 * Needs Chromium: Debian's `chromium`, or the one that `CHROMIUM` names.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Page, chromium } from 'playwright-core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { setUp } from './set-up.ts';

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const images = join(import.meta.dirname, '../../../docs/images');

async function picture(page: Page, name: string): Promise<void> {
  if (process.env.SCREENSHOTS) {
    await page.screenshot({ path: join(images, `${name}.png`), fullPage: true });
  }
}

describe.runIf(existsSync(executablePath))(`two tabs of ${executablePath}`, () => {
  test('the second save shows the conflict, and its merge loses nothing', async () => {
    const { url, row } = await setUp();
    const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
    onTestFinished(() => browser.close());
    const context = await browser.newContext({ javaScriptEnabled: false, viewport: { width: 900, height: 640 } });
    const [hers, his] = [await context.newPage(), await context.newPage()];
    await hers.goto(`${url}/articles/1/edit`);
    await his.goto(`${url}/articles/1/edit`);
    await picture(his, 'edit');

    await hers.getByLabel('Title').fill('Locking, optimistically');
    await hers.getByLabel('Text').fill('Two people open the same record.\nBoth save.');
    await hers.getByRole('button', { name: 'Save' }).click();
    expect(await hers.textContent('body')).toContain('Saved.');

    await his.getByLabel('Title').fill('Offline locks');
    await his.getByRole('button', { name: 'Save' }).click();
    await picture(his, 'conflict');
    expect(await his.textContent('h1')).toBe('Somebody else has saved meanwhile');
    const cells = await his
      .locator('tbody tr')
      .evaluateAll((rows) => rows.map((row) => row.textContent))
      .catch(() => []);
    expect(cells.join('\n')).toBe(
      [
        'TitleArticle 1Locking, optimisticallyOffline locksBoth have changed it. Say below what it shall be.',
        'TextTwo people open the same record.\nBoth save.Theirs is taken over.',
      ].join('\n'),
    );
    expect(await his.getByLabel('Text').inputValue()).toBe('Two people open the same record.\nBoth save.');
    expect(await row(1)).toMatchObject({ title: 'Locking, optimistically', version: 2 });

    await his.getByLabel('Title').fill('Locking offline, optimistically');
    await his.getByRole('button', { name: 'Save the merge' }).click();
    expect(await his.textContent('body')).toContain('Saved.');
    await picture(his, 'merged');
    expect(await row(1)).toMatchObject({
      title: 'Locking offline, optimistically',
      body: 'Two people open the same record.\nBoth save.',
      version: 3,
    });
  });
});
