/** A statement without a transaction around it: all of its rows are written or none, whatever the database has on the table. */
import { type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Item {
  id!: number;
  n!: number;
  version!: Opt<number>;
}
const ItemSchema = defineEntity({
  class: Item,
  properties: { id: p.integer().primary(), n: p.integer(), version: p.type(VersionField) },
});

const ROWS = [1, 2, 3, 4, 5];

export function alone(driver: TestDriver): void {
  describe('a single statement', () => {
    const setUp = async (sql: string[] = []) => {
      const db = await open(driver, [ItemSchema]);
      const seed = db.fork();
      ROWS.forEach((id) => seed.create(Item, { id, n: 0 }));
      await seed.flush();
      // what is no plain table is asked for once, and what is made later is seen all the same
      (await seed.find(Item, {})).forEach((item) => (item.n = 1));
      await seed.flush();
      (await seed.find(Item, {})).forEach((item) => (item.n = 0));
      await seed.flush();
      for (const statement of sql) {
        await db.fork().getConnection().execute(statement);
      }
      const em = db.fork();
      const items = await em.find(Item, {}, { orderBy: { id: 'asc' } });
      const stored = async () => (await db.fork().find(Item, {}, { orderBy: { id: 'asc' } })).map(({ n }) => n);
      return { ...db, em, items, stored };
    };

    for (const [what, make] of Object.entries(driver.keepsBack ?? {})) {
      test(`${what} keeps back one updated row of five: none is written, and the sentence says so`, async () => {
        const { em, items, stored } = await setUp(make('item', 'update', 3));
        items.forEach((item) => (item.n = 7));
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect(error.message).toContain('was not written, although it has that version now');
        expect(await stored()).toEqual([0, 0, 0, 0, 0]);
        expect(items.map(({ version }) => version)).toEqual([3, 3, 3, 3, 3]);
        items[2]!.n = 0;
        await em.flush();
        expect(await stored()).toEqual([7, 7, 0, 7, 7]);
      });

      test(`${what} keeps back one removed row of five: none is removed`, async () => {
        const { em, items, stored } = await setUp(make('item', 'delete', 3));
        items.forEach((item) => em.remove(item));
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect(await stored()).toEqual([0, 0, 0, 0, 0]);
      });
    }

    test('a key of another integer type than the entity says', async () => {
      const { em, items, stored, fork } = await setUp(driver.widens?.('item', 'id') ?? []);
      items.forEach((item) => (item.n = 7));
      await em.flush();
      expect(await stored()).toEqual([7, 7, 7, 7, 7]);
      await fork().nativeUpdate(Item, 2, { n: 8 });
      items.forEach((item) => em.remove(item));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 4, actual: 5 }] });
      expect(await stored()).toEqual([7, 8, 7, 7, 7]);
    });
  });
}
