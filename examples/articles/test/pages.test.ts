/** The pages, without a browser: what the forms send and what they get. */
import { expect, test } from 'vitest';
import { setUp } from './set-up.ts';

test('a form that is stale gets the comparison, and saves the merge', async () => {
  const { post, row } = await setUp();
  const base = { 'base.title': 'Article 1', 'base.body': '', version: '1' };
  expect((await post(1, { ...base, title: 'Article 1', body: 'hers\r\n<b>' })).status).toBe(303);
  const late = await post(1, { ...base, title: 'his <i>', body: '' });
  expect(late.status).toBe(409);
  expect(late.html).toContain('Theirs is taken over.');
  expect(late.html).toContain('Yours is kept.');
  expect(late.html).toContain('his &lt;i&gt;');
  expect(late.html).not.toMatch(/<i>|<b>/);
  expect(late.html).toContain('name="version" value="2"');
  expect(await row(1)).toMatchObject({ title: 'Article 1', body: 'hers\n<b>', version: 2 });
  const merge = {
    'base.title': 'Article 1',
    'base.body': 'hers\n<b>',
    version: '2',
    title: 'his <i>',
    body: 'hers\n<b>',
  };
  expect((await post(1, merge)).status).toBe(303);
  expect(await row(1)).toMatchObject({ title: 'his <i>', body: 'hers\n<b>', version: 3 });
});

test('both have changed the same: the page asks, and a third editor makes it ask again', async () => {
  const { post, row } = await setUp();
  const form = (version: string, from: string, title: string) =>
    post(1, { 'base.title': from, 'base.body': '', body: '', version, title });
  await form('1', 'Article 1', 'hers');
  const late = await form('1', 'Article 1', 'his');
  expect(late.html).toContain('Both have changed it.');
  await form('2', 'hers', 'a third');
  expect((await form('2', 'hers', 'merged')).status).toBe(409);
  expect((await form('3', 'a third', 'merged')).status).toBe(303);
  expect(await row(1)).toMatchObject({ title: 'merged', version: 4 });
});

test('an article that is gone', async () => {
  const { post, orm } = await setUp();
  await orm.em.fork().nativeDelete('Article' as never, 1 as never);
  const late = await post(1, { 'base.title': 'Article 1', 'base.body': '', version: '1', title: 'kept', body: '' });
  expect(late.status).toBe(409);
  expect(late.html).toContain('<h2>kept</h2>');
});

test('nonsense is a 400, 404 or 428, and changes nothing', async () => {
  const { post, row, url } = await setUp();
  const base = { 'base.title': 'x', 'base.body': '', title: 'y', body: '' };
  for (const version of ['', 'abc', '-1', '1.5', '1e300', String(2 ** 40), '1; drop table article']) {
    expect((await post(1, { ...base, version })).status).toBe(version === '' ? 428 : 400);
  }
  expect((await post(1, { version: '1' })).status).toBe(400);
  expect((await fetch(`${url}/articles/99/edit`)).status).toBe(404);
  expect((await fetch(`${url}/articles/x/edit`)).status).toBe(400);
  expect(await row(1)).toMatchObject({ title: 'Article 1', version: 1 });
});
