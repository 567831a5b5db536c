/** Cloudflare D1, in the program that Cloudflare's own tools run it by. It has no transactions. */
import { defineEntity, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, VersionField, verify } from '@mikro-ool/core';
import { D1Dialect } from 'kysely-d1';
import { Miniflare } from 'miniflare';
import { expect, onTestFinished, test } from 'vitest';
import { Counter, connect } from './storm.ts';

const Note = defineEntity({
  name: 'Note',
  properties: { id: p.integer().primary(), text: p.string(), version: p.type(VersionField) },
});

/** A database with counters 1 to 3 and a note. */
async function open() {
  const cloud = new Miniflare({ modules: true, script: 'export default {}', d1Databases: ['DB'] });
  onTestFinished(() => cloud.dispose());
  const database = await cloud.getD1Database('DB');
  const orm = await connect(SqliteDriver, 'mikro-ool', {
    dbName: 'd1',
    entities: [Counter, Note],
    driverOptions: new D1Dialect({ database }),
  });
  onTestFinished(() => orm.close(true));
  const schema = await orm.schema.getCreateSchemaSQL();
  for (const sql of [
    ...schema.split(';').filter((one) => one.trim()),
    'insert into counter (id) values (1), (2), (3)',
    `insert into note (id, text) values (1, 'saved')`,
  ]) {
    await database.prepare(sql).run();
  }
  const rows = async <Row>(sql: string) => (await database.prepare(sql).all()).results as Row[];
  const counters = 'select n, version from counter order by id';
  const notes = 'select text from note order by id';
  return {
    fork: () => orm.em.fork(),
    stored: async () => ({
      counters: (await rows<{ n: number; version: number }>(counters)).map(({ n, version }) => [n, version]),
      notes: (await rows<{ text: string }>(notes)).map(({ text }) => text),
    }),
  };
}

test('a flush of one statement is saved and checked: rows of one class that are changed, removed, or new', async () => {
  const { fork, stored } = await open();
  const one = fork();
  (await one.findOneOrFail(Counter, 1)).n = 1;
  const [slow, all] = [fork(), fork()];
  const [early, some] = [await slow.find(Counter, {}), await all.find(Counter, {})];
  await one.flush();
  // the first of them is stale, so none is written
  early.forEach((counter) => (counter.n = 20));
  const error = await slow.flush().catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(ConcurrentUpdate);
  expect((error as ConcurrentUpdate).conflicts).toMatchObject([{ primaryKey: 1, expected: 1, actual: 2 }]);
  expect((await stored()).counters).toEqual([
    [1, 2],
    [0, 1],
    [0, 1],
  ]);
  await all.refresh(some[0]!);
  some.forEach((counter) => (counter.n = 10));
  await all.flush();
  all.remove(some[2]!);
  await all.flush();
  all.create(Note, { id: 2, text: 'new' });
  await all.flush();
  expect(await stored()).toEqual({
    counters: [
      [10, 3],
      [10, 2],
    ],
    notes: ['saved', 'new'],
  });
});

test('a flush of more than one statement is refused in a sentence before any SQL, and pending', async () => {
  const { fork, stored } = await open();
  const em = fork();
  const counter = await em.findOneOrFail(Counter, 1);
  const note = await em.findOneOrFail(Note, 1);
  counter.n = 10;
  note.text = 'changed';
  await expect(em.flush()).rejects.toThrow(
    /^This flush \((Counter, Note|Note, Counter)\) takes a transaction, and there are none here.*Flush rows of one class at a time/,
  );
  expect(await stored()).toEqual({ counters: Array.from({ length: 3 }, () => [0, 1]), notes: ['saved'] });
  // one after the other, each by itself
  em.assign(note, { text: 'saved' });
  await em.flush();
  expect((await stored()).counters[0]).toEqual([10, 2]);
});

test('what has to hold until COMMIT, and a transaction of yours, are refused, too', async () => {
  const { fork, stored } = await open();
  const em = fork();
  verify(await em.findOneOrFail(Note, 1));
  (await em.findOneOrFail(Counter, 1)).n = 10;
  await expect(em.flush()).rejects.toThrow(
    /^This flush \(Counter, Note\) takes a transaction, and there are none here/,
  );
  expect((await stored()).counters[0]).toEqual([0, 1]);
  await expect(fork().transactional(async () => {})).rejects.toThrow(/^There are no transactions here\. Leave /);
});
