/** Independent rows: winners are committed, losers stay as they are and are named. */
import {
  type Collection,
  type EntityManager,
  type EntitySchema,
  type EventSubscriber,
  type FlushEventArgs,
  type Opt,
  type UnitOfWork,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { VersionField, touch, verify } from '@mikro-ool/core';
import { flushEach } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../../../driver/test/harness.ts';

class Row {
  id!: number;
  text!: string;
  parent!: Row | null;
  tags!: Collection<Tag>;
  version!: Opt<number>;
}
class Tag {
  id!: number;
  name!: Opt<string>;
}
const TagSchema = defineEntity({
  class: Tag,
  properties: { id: p.integer().primary(), name: p.string().default('') },
});
const RowSchema = defineEntity({
  class: Row,
  properties: {
    id: p.integer().primary(),
    text: p.string(),
    parent: () => p.manyToOne(Row).nullable(),
    tags: () => p.manyToMany(Tag),
    version: p.type(VersionField),
  },
});

export function flushesEach(driver: TestDriver): void {
  describe('flushEach', () => {
    const setUp = async (count: number) => {
      const db = await open(driver, [RowSchema, TagSchema]);
      const seed = db.fork();
      for (let id = 1; id <= count; id++) {
        seed.create(Row, { id, text: 'old' });
      }
      seed.create(Tag, { id: 1 });
      await seed.flush();
      const em = db.fork();
      const rows = await em.find(Row, {}, { orderBy: { id: 'asc' } });
      const theirs = async (ids: number[]) => {
        const rival = db.fork();
        (await rival.find(Row, { id: { $in: ids } })).forEach((row) => (row.text = 'theirs'));
        await rival.flush();
      };
      const texts = async () => (await db.fork().find(Row, {}, { orderBy: { id: 'asc' } })).map(({ text }) => text);
      return { ...db, em, rows, theirs, texts };
    };

    test('300 changed rows, 20 of them stale: 280 are saved by one UPDATE, 20 are named by one SELECT', async () => {
      const { em, rows, theirs, texts, sent } = await setUp(300);
      const stale = Array.from({ length: 20 }, (_, i) => 1 + i * 15);
      await theirs(stale);
      rows.forEach((row) => (row.text = 'mine'));
      let result: Awaited<ReturnType<typeof flushEach>> = { saved: [], conflicts: [] };
      const log = await sent(async () => (result = await flushEach(em)));
      const kinds = [/^select/, /^(with|update)/].map((kind) => log.filter((sql) => kind.test(sql)).length);
      expect(kinds).toEqual([1, driver.batches ? 1 : 280]);
      const { saved, conflicts } = result;
      expect(saved).toHaveLength(280);
      expect(conflicts.map(({ primaryKey }) => primaryKey).toSorted((a, b) => Number(a) - Number(b))).toEqual(stale);
      expect(conflicts).toContainEqual({
        entityName: 'Row',
        primaryKey: 1,
        operation: 'update',
        expected: 1,
        actual: 2,
      });
      expect(new Set(conflicts.map(({ entity }) => entity)).has(rows[0]!)).toBe(true);
      expect(JSON.stringify(conflicts)).not.toContain('mine');
      const all = await texts();
      expect([all.filter((text) => text === 'mine').length, all.filter((text) => text === 'theirs').length]).toEqual([
        280, 20,
      ]);
      // the losers are as they were: unsaved, and as stale as before
      expect(rows[0]).toMatchObject({ text: 'mine', version: 1 });
      expect((await thrown(() => em.flush())).conflicts).toHaveLength(driver.batches ? 20 : 1);
    });

    test('a row that becomes stale after the SELECT, or is gone, is found by the flush', async () => {
      const { em, rows, theirs, texts, fork } = await setUp(4);
      rows.forEach((row) => (row.text = 'mine'));
      await fork().nativeDelete(Row, 4);
      await theirs([1]);
      const flush = em.flush.bind(em);
      let flushes = 0;
      em.flush = async () => {
        if (flushes++ === 0) {
          await theirs([2]);
        }
        await flush();
      };
      const { saved, conflicts } = await flushEach(em);
      expect(saved).toEqual([rows[2]]);
      expect(conflicts.map(({ primaryKey, actual }) => [primaryKey, actual]).toSorted()).toEqual([
        [1, 2],
        [2, 2],
        [4, null],
      ]);
      expect(await texts()).toEqual(['theirs', 'theirs', 'mine']);
    });

    test('nothing has changed: nothing is sent', async () => {
      const { em, sent } = await setUp(2);
      expect(await sent(async () => expect(await flushEach(em)).toEqual({ saved: [], conflicts: [] }))).toEqual([]);
    });

    for (const [what, change, message] of [
      ['a new entity', (em, rows) => void em.create(Row, { id: 9, text: 'new', parent: rows[0] }), 'Row is new'],
      ['a new entity behind a relation', (_em, [row]) => (row!.parent = Object.assign(new Row(), { id: 9 })), 'is new'],
      ['a removed entity', (em, rows) => void em.remove(rows[1]!), 'Row is to be removed'],
      ['a collection', (em, [row]) => row!.tags.set([em.getReference(Tag, 1)]), 'in its collection tags'],
      ['an entity without a version', (em) => (em.getUnitOfWork().getById(Tag, 1)!.name = 'x'), 'no VersionField'],
    ] as const satisfies [string, (em: Em, rows: Row[]) => unknown, string][]) {
      test(`${what} is refused before any SQL`, async () => {
        const { em, rows, sent, texts } = await setUp(2);
        await em.findOneOrFail(Tag, 1);
        await em.populate(rows, ['tags']);
        rows[0]!.text = 'mine';
        change(em, rows);
        const log = await sent(async () => {
          const error = await thrown(() => flushEach(em));
          expect(error).toMatchObject({ name: 'ValidationError', message: expect.stringContaining(message) });
        });
        expect(log).toEqual([]);
        expect(await texts()).toEqual(['old', 'old']);
      });
    }

    test('a new entity in the relation of an embeddable is refused before any SQL', async () => {
      const Place = defineEntity({
        name: 'Place',
        embeddable: true,
        properties: { tag: () => p.manyToOne(TagSchema).nullable() },
      });
      const Visit = defineEntity({
        name: 'Visit',
        properties: { id: p.integer().primary(), place: () => p.embedded(Place), version: p.type(VersionField) },
      });
      const { fork, sent } = await open(driver, [Visit, Place, TagSchema] as EntitySchema[]);
      await fork().insert(Visit, { id: 1, place: {} });
      const em = fork();
      const visit = await em.findOneOrFail(Visit, 1);
      visit.place.tag = Object.assign(new Tag(), { id: 5, name: 'new' });
      expect(
        await sent(async () => expect((await thrown(() => flushEach(em))).message).toContain('Tag is new')),
      ).toEqual([]);
      expect(await fork().count(Tag)).toBe(0);
    });

    test('a unique value that moves from one row to another is refused before any SQL', async () => {
      const Page = defineEntity({
        name: 'Page',
        properties: { id: p.integer().primary(), slug: p.string().unique(), version: p.type(VersionField) },
      });
      const { fork, sent } = await open(driver, [Page] as EntitySchema[]);
      const slugs = async () => (await fork().find(Page, {}, { orderBy: { id: 1 } })).map(({ slug }) => slug);
      await fork().insertMany(Page, [
        { id: 1, slug: 'a' },
        { id: 2, slug: 'b' },
      ]);
      const em = fork();
      const [one, two] = await em.find(Page, {}, { orderBy: { id: 1 } });
      Object.assign(one!, { slug: 'c' });
      Object.assign(two!, { slug: 'a' });
      const message = expect.stringContaining('Page has to be written after another row');
      expect(await sent(async () => expect(await thrown(() => flushEach(em))).toMatchObject({ message }))).toEqual([]);
      expect(await slugs()).toEqual(['a', 'b']);
      await em.flush();
      expect(await slugs()).toEqual(['c', 'a']);
    });

    for (const [event, add] of [
      ['beforeFlush', (em) => em.persist(em.create(Row, { id: 9, text: 'audit' }))],
      ['onFlush', (em, uow) => uow.computeChangeSet(em.create(Row, { id: 9, text: 'audit' }))],
      ['onFlush', (em, uow) => uow.computeChangeSet(em.create(Tag, { id: 9 }))],
    ] as const satisfies ['beforeFlush' | 'onFlush', (em: EntityManager, uow: UnitOfWork) => unknown][]) {
      test(`what a listener for ${event} adds is refused before any SQL, also one that was registered later`, async () => {
        const { em, rows, sent, texts } = await setUp(2);
        await flushEach(em);
        let isOn = true;
        const listener = { [event]: (args: FlushEventArgs) => void (isOn && add(args.em, args.uow)) };
        em.getEventManager().registerSubscriber(listener as EventSubscriber);
        rows[0]!.text = 'mine';
        const log = await sent(async () => {
          expect((await thrown(() => flushEach(em))).message).toContain(' is new, and flushEach()');
        });
        expect(log).toEqual([]);
        isOn = false;
        expect(await texts()).toEqual(['old', 'old']);
      });
    }

    test('what a listener changes of another row with a version is saved along', async () => {
      const { em, rows, theirs, texts } = await setUp(3);
      em.getEventManager().registerSubscriber({ beforeFlush: () => void (rows[1]!.text = 'listener') });
      await theirs([3]);
      rows[0]!.text = 'mine';
      rows[2]!.text = 'mine';
      const { saved, conflicts } = await flushEach(em);
      expect([saved, conflicts.length]).toEqual([[rows[0], rows[1]], 1]);
      expect(await texts()).toEqual(['mine', 'listener', 'theirs']);
    });

    test('a loser that is changed while the flush runs stays dirty, and one that is read again is up to date', async () => {
      const { em, rows, theirs, texts } = await setUp(4);
      rows.forEach((row) => (row.text = 'mine'));
      await theirs([1, 2, 3]);
      let updates = 0;
      em.getEventManager().registerSubscriber({
        async afterUpdate({ entity }) {
          if (entity === rows[3] && updates++ === 0) {
            rows[0]!.text = 'later';
            await em.refresh(rows[1]!);
            touch(rows[2]!);
          }
        },
      });
      const { saved } = await flushEach(em);
      expect([saved, updates]).toEqual([[rows[3]], 1]);
      expect(rows.map(({ text, version }) => `${text} ${version}`)).toEqual([
        'later 1',
        'theirs 2',
        'mine 1',
        'mine 2',
      ]);
      const { saved: none, conflicts } = await flushEach(em);
      expect([none, conflicts.map(({ entity }) => entity)]).toEqual([[], [rows[0], rows[2]]]);
      rows[1]!.text = 'again';
      expect((await flushEach(em)).saved).toEqual([rows[1]]);
      await em.refresh(rows[0]!);
      rows[0]!.text = 'later';
      expect((await flushEach(em)).saved).toEqual([rows[0]]);
      expect(await texts()).toEqual(['later', 'again', 'theirs', 'mine']);
    });

    test('a touched row, and a claim alone, are rows like others', async () => {
      const { em, rows, theirs, fork } = await setUp(4);
      touch(rows[0]!);
      touch(rows[1]!);
      await theirs([2, 3]);
      rows[2]!.version = 7;
      rows[3]!.text = 'mine';
      for (const expected of [[rows[0], rows[3]], []]) {
        const { saved, conflicts } = await flushEach(em);
        expect(saved).toEqual(expected);
        expect(conflicts).toMatchObject([
          { primaryKey: 2, operation: 'update', expected: 1, actual: 2 },
          { primaryKey: 3, operation: 'check', expected: 7, actual: 2 },
        ]);
      }
      expect(await fork().findOne(Row, 1)).toMatchObject({ text: 'old', version: 2 });
    });

    test('a part of an aggregate whose root is stale: nothing is saved', async () => {
      const Shelf = defineEntity({
        name: 'Shelf',
        properties: {
          id: p.integer().primary(),
          books: () => p.oneToMany(Book).mappedBy('shelf'),
          version: p.type(new VersionField({ aggregate: ['books'] })),
        },
      });
      const Book = defineEntity({
        name: 'Book',
        properties: {
          id: p.integer().primary(),
          text: p.string(),
          shelf: () => p.manyToOne(Shelf),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [Shelf, Book] as EntitySchema[]);
      const seed = fork();
      [1, 2].forEach((id) => seed.create(Shelf, { id, books: [{ id, text: 'old' }] }));
      await seed.flush();
      const em = fork();
      const books = await em.find(Book, {}, { populate: ['shelf'], orderBy: { id: 'asc' } });
      touch(seed.getReference(Shelf, 2));
      await seed.flush();
      books.forEach((book) => (book.text = 'ours'));
      expect(await thrown(() => flushEach(em))).toMatchObject({
        conflicts: [{ entityName: 'Shelf', primaryKey: 2, expected: 1, actual: 2, parts: ['books'] }],
      });
      expect((await fork().find(Book, {})).map(({ text, version }) => [text, version])).toEqual([
        ['old', 1],
        ['old', 1],
      ]);
      await em.refresh(books[1]!.shelf);
      expect((await flushEach(em)).saved).toEqual(books);
      expect(books.map(({ shelf, version }) => [shelf.version, version])).toEqual([
        [2, 2],
        [3, 2],
      ]);
    });

    test('a verified row that is stale: nothing is saved', async () => {
      const { em, rows, theirs, texts } = await setUp(2);
      verify(rows[1]!);
      rows[0]!.text = 'mine';
      await theirs([2]);
      expect(await thrown(() => flushEach(em))).toMatchObject({ conflicts: [{ primaryKey: 2, operation: 'check' }] });
      expect(await texts()).toEqual(['old', 'theirs']);
    });

    test('it waits for a flush that is under way, and flushes that come later wait for it', async () => {
      const { em, rows, theirs, texts } = await setUp(4);
      await theirs([3]);
      rows[0]!.text = 'first';
      const first = em.flush();
      rows[1]!.text = 'each';
      rows[2]!.text = 'each';
      const each = flushEach(em);
      rows[3]!.text = 'each';
      const last = em.flush();
      const results = await Promise.allSettled([first, each, last]);
      // what was assigned before a flush has its turn is a part of it
      expect(results.map(({ status }) => status)).toEqual(['rejected', 'fulfilled', 'rejected']);
      const { saved, conflicts } = await each;
      expect(conflicts.map(({ primaryKey }) => primaryKey)).toEqual([3]);
      expect(saved).toEqual([rows[0], rows[1], rows[3]]);
      expect(await texts()).toEqual(['first', 'each', 'theirs', 'each']);
    });

    test('a flush under way with new entities is not taken for its own', async () => {
      const { em, rows, texts } = await setUp(1);
      em.create(Row, { id: 2, text: 'new' });
      const flush = em.flush();
      const each = flushEach(em);
      rows[0]!.text = 'mine';
      await Promise.all([flush, each]);
      expect(await texts()).toEqual(['mine', 'new']);
    });

    test('in an open transaction it is refused', async () => {
      const { em } = await setUp(1);
      const error = await thrown(() => em.transactional((tx) => flushEach(tx)));
      expect(error.message).toContain('open transaction');
    });
  });
}

type Em = ReturnType<Database['fork']>;
