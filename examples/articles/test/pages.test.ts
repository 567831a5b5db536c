/** The pages, without a browser: what the forms send and what they get. */
import { expect, test } from 'vitest';
import { setUp } from './set-up.ts';

const base = { 'base.title': 'Article 1', 'base.body': '', version: '1', title: 'Article 1', body: '' };

test('different things were changed: both are shown, and kept', async () => {
  const { post, row } = await setUp();
  expect((await post(1, { ...base, body: 'hers\r\n<b>', editor: 'Ada <i>' })).status).toBe(303);
  const late = await post(1, { ...base, title: 'his <i>', editor: 'Bob' });
  expect(late.status).toBe(409);
  expect(late.html).toMatch(
    /Ada &lt;i&gt; saved it on <time datetime="20\S+Z">20\S+ at \d\d:\d\d UTC<\/time>, while you had it open/,
  );
  expect(late.html).toContain('Text: only Ada &lt;i&gt; changed it</h2><blockquote>hers\n&lt;b&gt;</blockquote>');
  expect(late.html).toContain('Title: only you changed it</h2><blockquote>his &lt;i&gt;</blockquote>');
  expect(late.html).not.toMatch(/<i>|<b>|type="radio"/);
  expect(late.html).toContain('name="version" value="2"');
  expect(await row(1)).toMatchObject({ title: 'Article 1', body: 'hers\n<b>', version: 2, editor: 'Ada <i>' });
  const merge = {
    'base.title': 'Article 1',
    'base.body': 'hers\n<b>',
    version: '2',
    title: 'his <i>',
    body: 'hers\n<b>',
  };
  expect((await post(1, { ...merge, editor: 'Bob' })).status).toBe(303);
  expect(await row(1)).toMatchObject({ title: 'his <i>', body: 'hers\n<b>', version: 3, editor: 'Bob' });
});

test('both changed the same: mine, theirs or something else, by a choice and without typing it again', async () => {
  for (const [picked, title] of [
    ['mine', 'his'],
    ['theirs', 'hers'],
    ['other', 'both'],
  ] as const) {
    const { post, row } = await setUp();
    await post(1, { ...base, title: 'hers', editor: 'Ada' });
    const late = await post(1, { ...base, title: 'his', editor: 'Bob' });
    expect(late.html.match(/type="radio" name="choice.title" value="\w+" required/g)).toHaveLength(3);
    expect(late.html).toContain('Use Ada&#39;s');
    const form = {
      ...base,
      'base.title': 'hers',
      version: '2',
      title: 'his',
      'asked.title': '1',
      'other.title': 'both',
    };
    expect((await post(1, form)).status).toBe(400); // nothing is decided by not choosing
    expect(await row(1)).toMatchObject({ title: 'hers', version: 2 });
    expect((await post(1, { ...form, 'choice.title': picked, editor: 'Bob' })).status).toBe(303);
    expect((await row(1))!.title).toBe(title);
  }
});

test('a third editor saves while the second one chooses: it is asked again, and what the third wrote was read by nobody', async () => {
  const { post, row } = await setUp();
  await post(1, { ...base, title: 'hers', editor: 'Ada' });
  await post(1, { ...base, title: 'his', editor: 'Bob' });
  await post(1, { ...base, 'base.title': 'hers', version: '2', title: "a third's", editor: 'Cy' });
  const chosen = {
    ...base,
    'base.title': 'hers',
    version: '2',
    title: 'his',
    'asked.title': '1',
    'choice.title': 'mine',
  };
  const again = await post(1, { ...chosen, editor: 'Bob' });
  expect(again.status).toBe(409);
  expect(again.html).toContain('<h1>Cy saved this article before you</h1>');
  expect(again.html).toContain('a third&#39;s');
  expect(await row(1)).toMatchObject({ title: "a third's", version: 3 });
  expect((await post(1, { ...chosen, 'base.title': "a third's", version: '3' })).status).toBe(303);
  expect(await row(1)).toMatchObject({ title: 'his', version: 4 });
});

test('a save that changes nothing writes nothing', async () => {
  const { post, row } = await setUp();
  expect((await post(1, { ...base, editor: 'Ada' })).status).toBe(303);
  expect(await row(1)).toMatchObject({ version: 1, editor: '' });
});

test('an article that was deleted: nothing that was written is lost, and it can be saved as a new one', async () => {
  const { post, orm, row } = await setUp();
  await orm.em.fork().nativeDelete('Article' as never, 1 as never);
  const late = await post(1, { ...base, title: 'kept', body: 'text', editor: 'Bob' });
  expect(late.status).toBe(409);
  expect(late.html).toContain('<h1>Somebody deleted this article</h1>');
  expect(late.html).toMatch(/name="title" value="kept"(.|\n)*>\ntext<\/textarea>/);
  expect(await row(1)).toBeNull();
  const { status, location } = await post('/articles', { title: 'kept', body: 'text', editor: 'Bob' });
  expect([status, location]).toEqual([303, '/articles/4/edit?saved&by=Bob']);
  expect(await row(4)).toMatchObject({ title: 'kept', body: 'text', version: 1 });
});

test('what somebody has saved is read before it is deleted', async () => {
  const { post, row } = await setUp();
  await post(1, { ...base, title: 'hers', editor: 'Ada' });
  const late = await post('/articles/1/delete', { version: '1' });
  expect(late.status).toBe(409);
  expect(late.html).toContain('Ada saved this article before you deleted it');
  expect(late.html).toContain('<h2>hers</h2>');
  expect(await row(1)).not.toBeNull();
  for (let turn = 0; turn < 2; turn++) {
    // the second time it is gone already, which is what was wanted
    expect(await post('/articles/1/delete', { version: '2' })).toMatchObject({ status: 303, location: '/' });
    expect(await row(1)).toBeNull();
  }
});

test('nonsense is a 400, 404 or 428, and changes nothing', async () => {
  const { post, row, url } = await setUp();
  for (const version of ['', 'abc', '-1', '1.5', '1e300', String(2 ** 40), '1; drop table article']) {
    const status = version === '' ? 428 : 400;
    expect((await post(1, { ...base, title: 'y', version })).status).toBe(status);
    expect((await post('/articles/1/delete', { version })).status).toBe(status);
  }
  expect((await post(1, { version: '1' })).status).toBe(400);
  expect((await post(1, { ...base, 'choice.title': 'hers' })).status).toBe(400);
  expect((await fetch(`${url}/articles/99/edit`)).status).toBe(404);
  expect((await fetch(`${url}/articles/x/edit`)).status).toBe(400);
  expect(await row(1)).toMatchObject({ title: 'Article 1', version: 1 });
});
