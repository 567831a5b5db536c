/** Independent rows: winners are committed, losers stay as they are and are named. */
import { type Collection, type Opt, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
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

    test('in an open transaction it is refused', async () => {
      const { em } = await setUp(1);
      const error = await thrown(() => em.transactional((tx) => flushEach(tx)));
      expect(error.message).toContain('open transaction');
    });
  });
}

type Em = ReturnType<Database['fork']>;
