/** Which ORMs tests have one after another: those that are as new, and no others. */
import { type EntityManager, defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { describe, expect, onTestFinished, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { session } from './drivers/server.ts';
import { type Database, openNew } from './harness.ts';
import { giveBack, take } from './kept.ts';

const Author = defineEntity({ name: 'Author', properties: { id: p.integer().primary(), name: p.string() } });
const Book = defineEntity({
  name: 'Book',
  properties: { id: p.integer().primary(), author: () => p.manyToOne(Author) },
});

const writeRows = async ({ fork }: Database) => {
  const em = fork() as EntityManager;
  em.create(Book, { author: em.create(Author, { name: 'Ann' }) });
  await em.flush();
};

/** What a test may do, after which its ORM is not handed on. */
const changes: Record<string, (db: Database) => unknown> = {
  DDL: ({ fork }) => fork().execute('create table more (id int)'),
  'a setting of the session': ({ fork }) => fork().execute("set lock_timeout = '3s'"),
  'a function with a side effect': ({ fork }) => fork().execute("select set_config('lock_timeout', '3s', false)"),
  'a lock of the session': ({ fork }) => fork().execute('select pg_advisory_lock(1)'),
  'a subscriber': ({ orm }) => orm.em.getEventManager().registerSubscriber({ onFlush: () => {} }),
  'a transaction that is left open': async ({ orm }) => {
    const { clientUrl, dbName } = orm.config.getAll();
    const other = session({ driver: PostgreSqlDriver, clientUrl: clientUrl!, dbName: dbName! });
    await other('begin', "insert into author (name) values ('Bea')");
  },
  'another ORM that takes over a class': async () => {
    const other = await openNew(postgresql, [Author]);
    await other.close();
  },
};

describe('an ORM that a test gives back', () => {
  test('is handed on with empty tables, and keys from 1, when it has been sent rows', async () => {
    const kept = await openNew(postgresql, [Author, Book]);
    onTestFinished(kept.close);
    for (let i = 0; i < 2; i++) {
      await writeRows(kept.db);
      expect(await kept.db.fork().find(Book, {}, { populate: ['author'] })).toMatchObject([
        { id: 1, author: { id: 1, name: 'Ann' } },
      ]);
      await giveBack('rows', kept);
      expect(await take('rows')).toBe(kept);
      expect(await kept.db.fork().count(Author)).toBe(0);
    }
  });

  for (const [what, change] of Object.entries(changes)) {
    test(`is not handed on after ${what}`, async () => {
      const kept = await openNew(postgresql, [Author, Book]);
      await writeRows(kept.db);
      await change(kept.db);
      await giveBack(what, kept);
      expect(await take(what)).toBeUndefined();
      expect(await kept.db.orm.isConnected()).toBe(false);
    });
  }
});
