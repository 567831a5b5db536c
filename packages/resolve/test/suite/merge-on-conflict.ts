/** Who changes something else than others do sees no conflict, nothing is lost, and nothing is overwritten unread. */
import { inspect } from 'node:util';
import { defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, setPrecondition, touch, verify } from '@mikro-ool/core';
import { type Clash, MergeConflict, mergeOnConflict } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../../../driver/test/harness.ts';

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'] as const;
const number = () => p.integer().default(0);
const Sheet = defineEntity({
  name: 'Sheet',
  properties: {
    id: p.integer().primary(),
    a: number(),
    b: number(),
    c: number(),
    d: number(),
    e: number(),
    f: number(),
    g: number(),
    h: number(),
    version: p.type(VersionField),
  },
});

export function mergesOnConflict(driver: TestDriver): void {
  describe('mergeOnConflict', () => {
    const setUp = async () => {
      const db = await open(driver, [Sheet]);
      await db.fork().insert(Sheet, { id: 1 });
      const em = db.fork();
      const sheet = await em.findOneOrFail(Sheet, 1);
      const theirs = async (changes: Partial<Record<(typeof NAMES)[number], number>>) => {
        const rival = db.fork();
        rival.assign(await rival.findOneOrFail(Sheet, 1), changes);
        await rival.flush();
      };
      return { ...db, em, sheet, theirs, row: () => db.fork().findOneOrFail(Sheet, 1) };
    };

    for (const [way, save, expected] of [
      ['mergeOnConflict()', mergeOnConflict, 8],
      ['the control, em.flush()', (em: { flush(): Promise<void> }) => em.flush(), 1],
    ] as const) {
      test(`eight editors of eight properties, by ${way}: ${expected} saved, none of them lost`, async () => {
        const { fork, row } = await setUp();
        const editors = await Promise.all(
          NAMES.map(async (name) => {
            const em = fork();
            (await em.findOneOrFail(Sheet, 1))[name] = 1;
            return em;
          }),
        );
        const results = await Promise.allSettled(editors.map((em) => save(em)));
        const saved = await row();
        expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(expected);
        expect(NAMES.reduce((sum, name) => sum + saved[name], 0)).toBe(expected);
        expect(saved.version).toBe(1 + expected);
      });
    }

    test('what both have changed is thrown with the clash, and stays stale with all changes', async () => {
      const { em, sheet, theirs, row } = await setUp();
      Object.assign(sheet, { a: 1, b: 1 });
      await theirs({ a: 2, c: 2 });
      for (let round = 0; round < 2; round++) {
        const error = (await thrown(() => mergeOnConflict(em))) as unknown as MergeConflict;
        expect(error).toBeInstanceOf(MergeConflict);
        expect(error.conflicts).toMatchObject([{ primaryKey: 1, expected: 1, actual: 2 }]);
        expect(error.clashes).toEqual([{ property: 'a', base: 0, mine: 1, theirs: 2 }]);
        expect(inspect(error) + JSON.stringify(error)).not.toContain('theirs');
        expect(await row()).toMatchObject({ a: 2, b: 0, c: 2, version: 2 });
      }
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      await mergeOnConflict(em, { resolve: (clash) => clash.takeTheirs() });
      expect(await row()).toMatchObject({ a: 2, b: 1, c: 2, version: 3 });
      expect(sheet).toMatchObject({ a: 2, b: 1, c: 2, version: 3 });
    });

    test('resolve() settles each clash: mine, theirs, or a sum; a third writer is asked about again', async () => {
      const { em, sheet, theirs, row } = await setUp();
      Object.assign(sheet, { a: 1, b: 1, c: 1 });
      await theirs({ a: 10, b: 10, c: 10 });
      const asked: string[] = [];
      const resolve = async (clash: Clash) => {
        asked.push(`${clash.property} ${String(clash.theirs)}`);
        if (clash.property === 'b') {
          clash.takeTheirs();
        } else if (clash.property === 'c') {
          sheet.c = Number(clash.mine) + Number(clash.theirs) - Number(clash.base);
          if (asked.length === 3) {
            await theirs({ c: 100 });
          }
        }
      };
      await mergeOnConflict(em, { resolve });
      expect(asked).toEqual(['a 10', 'b 10', 'c 10', 'c 100']);
      expect(await row()).toMatchObject({ a: 1, b: 10, c: 101, version: 4 });
    });

    test('an error of resolve() leaves the row stale', async () => {
      const { em, sheet, theirs } = await setUp();
      sheet.a = 1;
      await theirs({ a: 2 });
      const failure = new Error('no idea');
      expect(await thrown(() => mergeOnConflict(em, { resolve: () => Promise.reject(failure) }))).toBe(failure);
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });

    test('rows that one side has removed are thrown, also with resolve()', async () => {
      const { em, sheet, theirs, fork, row } = await setUp();
      const resolve = () => {};
      const other = fork();
      other.remove(await other.findOneOrFail(Sheet, 1));
      await theirs({ a: 2 });
      const removed = (await thrown(() => mergeOnConflict(other, { resolve }))) as unknown as MergeConflict;
      expect([removed.clashes.length, removed.deleted.length, removed.removed.length]).toEqual([0, 0, 1]);
      expect(await row()).toMatchObject({ a: 2 });
      sheet.b = 1;
      await fork().nativeDelete(Sheet, 1);
      const deleted = (await thrown(() => mergeOnConflict(em, { resolve }))) as unknown as MergeConflict;
      expect([deleted.clashes.length, deleted.deleted.length, deleted.removed.length]).toEqual([0, 1, 0]);
      expect(deleted.conflicts).toMatchObject([{ actual: null }]);
    });

    for (const [name, say] of [
      ['touch()', touch],
      ['verify()', verify],
    ] as const) {
      test(`a decision that rests on the row by ${name} is no matter of columns: thrown as it is`, async () => {
        const { em, sheet, theirs, row } = await setUp();
        say(sheet);
        await theirs({ a: 2 });
        const error = await thrown(() => mergeOnConflict(em, { resolve: () => {} }));
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect(error).not.toBeInstanceOf(MergeConflict);
        expect(await row()).toMatchObject({ version: 2 });
      });
    }

    for (const [name, claim] of [
      ['verify()', (sheet) => verify(sheet)],
      ['a version that a client has named', (sheet) => setPrecondition(sheet, sheet.version)],
    ] as const satisfies [string, (sheet: { version: number }) => void][]) {
      test(`${name} and a change: what a rival did since is a conflict, and never merged`, async () => {
        const { em, sheet, theirs, row } = await setUp();
        sheet.version = 1; // the loaded one
        claim(sheet);
        sheet.a = 1;
        await theirs({ b: 2 });
        for (let round = 0; round < 2; round++) {
          const error = await thrown(() => mergeOnConflict(em, { resolve: () => {} }));
          expect(error).toMatchObject({ name: 'ConcurrentUpdate', conflicts: [{ expected: 1, actual: 2 }] });
        }
        expect(await row()).toMatchObject({ a: 0, b: 2, version: 2 });
        expect(sheet).toMatchObject({ a: 1, version: 1 });
      });
    }

    test('a version that was named once does not matter to later changes', async () => {
      const { em, sheet, theirs, row } = await setUp();
      setPrecondition(sheet, 1);
      sheet.a = 1;
      await mergeOnConflict(em);
      sheet.c = 1;
      await theirs({ b: 2 });
      await mergeOnConflict(em);
      expect(await row()).toMatchObject({ a: 1, b: 2, c: 1, version: 4 });
    });

    test('what the database keeps back is thrown after one more round', async () => {
      const { em, sheet, sent } = await setUp();
      sheet.a = 1;
      const stuck = [
        { entity: sheet, entityName: 'Sheet', primaryKey: 1, operation: 'update', expected: 1, actual: 1 } as const,
      ];
      let flushes = 0;
      em.flush = () => Promise.reject(new ConcurrentUpdate(stuck)).finally(() => flushes++);
      await sent(async () => expect(await thrown(() => mergeOnConflict(em))).toBeInstanceOf(ConcurrentUpdate));
      expect(flushes).toBe(2);
    });
  });
}
