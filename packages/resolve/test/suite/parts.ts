/** rebase() of the root of an aggregate, one of whose parts somebody has removed: its version stands for the part. */
import { type Collection, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { MergeConflict, mergeOnConflict, rebase } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../../../driver/test/harness.ts';

export class Order {
  id!: number;
  lines!: Collection<Line>;
  notes!: Collection<Note>;
  detail!: Detail | null;
  version!: Opt<number>;
}
export class Line {
  id!: number;
  text!: Opt<string>;
  size!: Opt<number>;
  order!: Order;
  extras!: Collection<Extra>;
}
export class Extra {
  id!: number;
  text!: Opt<string>;
  size!: Opt<number>;
  line!: Line;
}
export class Note {
  id!: number;
  text!: Opt<string>;
  size!: Opt<number>;
  order!: Order | null;
}
export class Detail {
  id!: number;
  text!: Opt<string>;
  size!: Opt<number>;
  order!: Order | null;
}
const OrderSchema = defineEntity({
  class: Order,
  tableName: 'orders',
  properties: {
    id: p.integer().primary(),
    lines: () => p.oneToMany(Line).mappedBy('order'),
    notes: () => p.oneToMany(Note).mappedBy('order').orphanRemoval(),
    detail: () => p.oneToOne(Detail).mappedBy('order').orphanRemoval().nullable(),
    version: p.type(new VersionField({ aggregate: ['lines', 'lines.extras', 'notes', 'detail'] })),
  },
});
const content = () => ({ id: p.integer().primary(), text: p.string().default('old'), size: p.integer().default(0) });
const LineSchema = defineEntity({
  class: Line,
  properties: {
    ...content(),
    order: () => p.manyToOne(Order),
    extras: () => p.oneToMany(Extra).mappedBy('line'),
  },
});
const ExtraSchema = defineEntity({
  class: Extra,
  properties: { ...content(), line: () => p.manyToOne(Line).deleteRule('cascade') },
});
const NoteSchema = defineEntity({
  class: Note,
  properties: { ...content(), order: () => p.manyToOne(Order).nullable() },
});
const DetailSchema = defineEntity({
  class: Detail,
  properties: { ...content(), order: () => p.oneToOne(Order).inversedBy('detail').nullable() },
});

/** An order with its parts. */
export const entities = [OrderSchema, LineSchema, ExtraSchema, NoteSchema, DetailSchema] as never;

type Em = ReturnType<Database['fork']>;
type Change = (order: Order, em: Em) => unknown;

/** By how it is removed: the class of the part, and the part itself. */
const REMOVALS: Record<string, { Part: typeof Line | typeof Note | typeof Detail; part: (order: Order) => { text: string }; remove: Change }> = {
  'em.remove()': { Part: Line, part: (order) => order.lines[0]!, remove: (order, em) => em.remove(order.lines[0]!) },
  'orphan removal': { Part: Note, part: (order) => order.notes[0]!, remove: (order) => order.notes.remove(order.notes[0]!) },
  'a 1:1 that is no more': { Part: Detail, part: (order) => order.detail!, remove: (order) => (order.detail = null) },
}; // oxfmt-ignore

export function parts(driver: TestDriver): void {
  describe('rebase, parts that somebody has removed', () => {
    const setUp = async () => {
      const db = await open(driver, entities);
      const seed = db.fork();
      const lines = [1, 2].map((n) => ({ id: n, extras: [{ id: n }] }));
      seed.create(Order, { id: 1, lines, notes: [{ id: 1 }, { id: 2 }], detail: { id: 1 } } as never);
      seed.create(Order, { id: 2 } as never);
      await seed.flush();
      const load = (em: Em) =>
        em.findOneOrFail(Order, 1, { populate: ['lines.extras', 'notes', 'detail'], orderBy: { lines: { id: 1 } } });
      /** Mine is unsaved, theirs is in the database. */
      const both = async (mine: Change, theirs: Change) => {
        const [em, rival] = [db.fork(), db.fork()];
        const order = await load(em);
        await mine(order, em);
        await theirs(await load(rival), rival);
        await rival.flush();
        return { em, order };
      };
      return { ...db, load, both };
    };
    const stale = async (em: Em) => {
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      return rebase(em, error);
    };

    for (const [how, { Part, part, remove }] of Object.entries(REMOVALS)) {
      describe(how, () => {
        const change: Change = (order) => (part(order).text = 'theirs');

        test('by me, and they have changed it: it is reported, and kept, or removed all the same', async () => {
          const { both, fork } = await setUp();
          const { em, order } = await both(remove, change);
          const { clashes, deleted, removed } = await stale(em);
          expect([clashes, deleted, removed.map(({ entity }) => entity.constructor)]).toEqual([[], [], [Part]]);
          removed[0]!.keep();
          await em.flush();
          expect(await fork().findOne(Part, 1)).toMatchObject({ text: 'theirs', order: { id: 1 } });
          expect(order.version).toBe(2);

          const again = await setUp();
          const second = await again.both(remove, change);
          expect((await stale(second.em)).removed).toHaveLength(1);
          await second.em.flush();
          expect(await again.fork().findOne(Part, 1)).toBeNull();
          expect(second.order.version).toBe(3);
        });

        test('by me, and they have changed it: mergeOnConflict() does not remove it unseen', async () => {
          const { both, fork } = await setUp();
          const { em } = await both(remove, change);
          const error = (await thrown(() => mergeOnConflict(em, { resolve: () => {} }))) as unknown as MergeConflict;
          expect(error).toBeInstanceOf(MergeConflict);
          expect(error.removed).toHaveLength(1);
          expect(await fork().findOne(Part, 1)).toMatchObject({ text: 'theirs' });
          // and is as stale as before, and as removed
          expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        });

        test('by me, and they have changed another part: nothing to decide', async () => {
          const { both, fork, load } = await setUp();
          const { em } = await both(remove, (order) => (order.lines[1]!.text = 'theirs'));
          await mergeOnConflict(em);
          expect(await fork().findOne(Part, 1)).toBeNull();
          expect((await load(fork())).lines.getItems().map(({ text }) => text)).toContain('theirs');
        });

        test('by them, and I have changed another part: nothing to decide', async () => {
          const { both, fork } = await setUp();
          const { em } = await both((order) => (order.lines[1]!.text = 'mine'), remove);
          expect(await stale(em)).toEqual({ clashes: [], deleted: [], removed: [] });
          await em.flush();
          expect(await fork().findOne(Part, 1)).toBeNull();
          expect(await fork().findOne(Line, 2)).toMatchObject({ text: 'mine' });
        });

        test('by them, in a transaction in a transaction: none of the EntityManagers inserts it again', async () => {
          const { both, fork } = await setUp();
          const { em } = await both((order) => (order.lines[1]!.text = 'mine'), remove);
          await em.transactional((outer) => outer.transactional((inner) => mergeOnConflict(inner)));
          await em.flush();
          expect(await fork().findOne(Part, 1)).toBeNull();
          expect(await fork().findOne(Line, 2)).toMatchObject({ text: 'mine' });
        });

        test('by them, and I have changed it: it is reported', async () => {
          const { both, fork } = await setUp();
          const { em } = await both((order) => (part(order).text = 'mine'), remove);
          const { clashes, deleted, removed } = await stale(em);
          expect([clashes, deleted.map(({ entity }) => entity.constructor), removed]).toEqual([[], [Part], []]);
          deleted[0]!.drop();
          await em.flush();
          expect(await fork().findOne(Part, 1)).toBeNull();
        });

        test('by both', async () => {
          const { both, sent } = await setUp();
          const { em } = await both(remove, remove);
          expect(await stale(em)).toEqual({ clashes: [], deleted: [], removed: [] });
          expect(await sent(() => em.flush())).toEqual([]);
        });
      });
    }

    test('a 1:1 part, the key on the root: keep() gives it back to the root', async () => {
      class Letter {
        id!: number;
        seal!: unknown;
      }
      class Seal {
        id!: number;
        text!: string;
      }
      for (const isRef of [false, true]) {
        const relation = p
          .oneToOne(Seal)
          .inversedBy('letter' as never)
          .orphanRemoval()
          .nullable();
        const LetterSchema = defineEntity({
          class: Letter,
          properties: {
            id: p.integer().primary(),
            seal: () => (isRef ? relation.ref() : relation) as never,
            version: p.type(new VersionField({ aggregate: ['seal'] })),
          } as never,
        });
        const SealSchema = defineEntity({
          class: Seal,
          properties: {
            id: p.integer().primary(),
            text: p.string(),
            letter: () => p.oneToOne(Letter).mappedBy('seal').nullable(),
          } as never,
        });
        const { fork } = await open(driver, [LetterSchema, SealSchema]);
        const seed = fork();
        seed.create(Letter, { id: 1, seal: seed.create(Seal, { id: 1, text: 'old' }) } as never);
        await seed.flush();
        const em = fork();
        const mine = await em.findOneOrFail(Letter, 1, { populate: ['seal'] as never });
        mine.seal = null;
        const rival = fork();
        await rival.findOneOrFail(Letter, 1);
        (await rival.findOneOrFail(Seal, 1)).text = 'theirs';
        await rival.flush();
        const { removed } = await stale(em);
        removed[0]!.keep();
        await em.flush();
        const [seal] = await fork().find(Seal, {});
        expect(seal).toMatchObject({ id: 1, text: 'theirs' });
        expect(await fork().findOneOrFail(Letter, 1)).toMatchObject({ seal: { id: 1 } });
      }
    });

    test('a part of a removed part that they have changed: what was removed is reported', async () => {
      const { both, fork } = await setUp();
      const { em, order } = await both(
        (mine, own) => own.remove(mine.lines[0]!),
        (theirs) => (theirs.lines[0]!.extras[0]!.text = 'theirs'),
      );
      const { removed } = await stale(em);
      expect(removed.map(({ entity }) => entity)).toEqual([expect.any(Line)]);
      removed[0]!.keep();
      await em.flush();
      expect(await fork().findOne(Extra, 1)).toMatchObject({ text: 'theirs', line: { id: 1 } });
      expect(order.version).toBe(2);
    });

    test('a removed part to which they have given a part: what was removed is reported, or theirs would go with it', async () => {
      const puts: Change[] = [
        (theirs, other) => other.create(Extra, { id: 9, line: theirs.lines[0]! }),
        (theirs) => (theirs.lines[1]!.extras[0]!.line = theirs.lines[0]!),
      ];
      for (const put of puts) {
        const { both, fork } = await setUp();
        const { em } = await both((mine, own) => own.remove(mine.lines[0]!), put);
        const theirs = await fork().find(Extra, {}, { orderBy: { id: 1 } });
        const { removed } = await stale(em);
        expect(removed.map(({ entity }) => entity)).toEqual([expect.any(Line)]);
        removed[0]!.keep();
        await em.flush();
        const extras = await fork().find(Extra, {}, { orderBy: { id: 1 } });
        expect(extras.map(({ id, line }) => [id, line.id])).toEqual(theirs.map(({ id, line }) => [id, line.id]));
      }
    });

    test('a part that they have removed, and that I have given a part: it is reported; drop() drops what cannot be without', async () => {
      const puts: Change[] = [
        (mine, own) => own.create(Extra, { id: 9, line: mine.lines[0]! }),
        (mine) => (mine.lines[1]!.extras[0]!.line = mine.lines[0]!),
      ];
      for (const put of puts) {
        for (const decision of ['drop', 'recreate'] as const) {
          const { both, fork } = await setUp();
          const { em } = await both(put, (theirs, other) => other.remove(theirs.lines[0]!));
          const error = (await thrown(() => mergeOnConflict(em, { resolve: () => {} }))) as unknown as MergeConflict;
          expect(error.deleted.map(({ entity }) => entity)).toEqual([expect.any(Line)]);
          const { deleted } = await stale(em);
          deleted[0]![decision]();
          await em.flush();
          const extras = await fork().find(Extra, {}, { orderBy: { id: 1 } });
          const isNew = put === puts[0];
          const recreated = isNew ? [[2, 2], [9, 1]] : [[2, 1]]; // oxfmt-ignore
          expect(extras.map(({ id, line }) => [id, line.id])).toEqual(decision === 'drop' ? [[2, 2]] : recreated);
          expect(await fork().count(Line)).toBe(decision === 'drop' ? 1 : 2);
        }
      }
    });

    test('a part that they have removed with what it belonged to: recreate() brings that back, drop() forgets it', async () => {
      for (const decision of ['recreate', 'drop'] as const) {
        const { both, fork } = await setUp();
        const { em } = await both(
          (mine) => (mine.lines[0]!.extras[0]!.text = 'mine'),
          (theirs, other) => other.remove(theirs.lines[0]!),
        );
        const { deleted } = await stale(em);
        expect(deleted.map(({ entity }) => entity)).toEqual([expect.any(Extra)]);
        deleted[0]![decision]();
        await em.flush();
        const isBack = decision === 'recreate';
        expect(await fork().findOne(Line, 1)).toEqual(
          isBack ? expect.objectContaining({ order: expect.any(Order) }) : null,
        );
        expect(await fork().findOne(Extra, 1)).toEqual(isBack ? expect.objectContaining({ text: 'mine' }) : null);
        expect(em.getUnitOfWork().getById(Line, 1 as never)?.id).toBe(isBack ? 1 : undefined);
      }
    });

    test('a part that they have removed, and to which I have added a link: it is reported, also where the links were not loaded', async () => {
      const Label = defineEntity({ name: 'Label', properties: { id: p.integer().primary() } });
      const Page = defineEntity({
        name: 'Page',
        properties: { id: p.integer().primary(), book: () => p.manyToOne(Book), labels: () => p.manyToMany(Label) },
      });
      const Book = defineEntity({
        name: 'Book',
        properties: {
          id: p.integer().primary(),
          pages: () => p.oneToMany(Page).mappedBy('book'),
          version: p.type(new VersionField({ aggregate: ['pages', 'pages.labels'] })),
        },
      });
      for (const [populate, isChanged] of [
        [['pages'], true],
        [['pages.labels'], true],
        [['pages.labels'], false],
      ] as const) {
        const { fork } = await open(driver, [Label, Page, Book]);
        const seed = fork();
        seed.create(Label, { id: 1 });
        seed.create(Book, { id: 1, pages: [{ id: 1 }, { id: 2 }] } as never);
        await seed.flush();
        const [em, rival] = [fork(), fork()];
        const mine = await em.findOneOrFail(Book, 1, { populate: populate as never });
        const [page, other] = [1, 2].map((id) => mine.pages.getItems().find((one) => one.id === id)!);
        page!.labels.add(em.getReference(Label, 1));
        if (!isChanged) {
          page!.labels.remove(em.getReference(Label, 1));
          em.remove(other!);
        }
        rival.remove(await rival.findOneOrFail(Page, 1, { populate: ['book'] }));
        await rival.flush();
        const { deleted } = await stale(em);
        expect(deleted.map(({ entity }) => entity)).toEqual(isChanged ? [page] : []);
        deleted.forEach((one) => one.drop());
        await em.flush();
        expect(await fork().count(Page)).toBe(isChanged ? 1 : 0);
      }
    });

    test('a part that I have changed by a reference: what it was is not known, so theirs is a clash, also the second time', async () => {
      const { both, fork } = await setUp();
      const em = fork();
      const order = await em.findOneOrFail(Order, 1);
      const detail = order.detail!;
      detail.text = 'mine';
      await both(
        () => {},
        (theirs) => Object.assign(theirs.detail!, { text: 'theirs', size: 5 }),
      );
      const clash = { property: 'text', base: undefined, mine: 'mine', theirs: 'theirs' };
      for (let round = 0; round < 2; round++) {
        const error = (await thrown(() => mergeOnConflict(em))) as unknown as MergeConflict;
        expect(error.clashes).toEqual([clash]);
        expect(detail.text).toBe('mine');
      }
      expect((await stale(em)).clashes).toEqual([clash]);
      await em.flush();
      expect(await fork().findOne(Detail, 1)).toMatchObject({ text: 'mine', size: 5 });
      expect(order.version).toBe(3);
    });

    test('an orphan that they have given to another root: it is removed, and that it belongs to nobody is no clash', async () => {
      const { both, fork } = await setUp();
      const { em } = await both(
        (mine) => mine.notes.remove(mine.notes[0]!),
        async (theirs, other) =>
          (theirs.notes[0]!.order = await other.findOneOrFail(Order, 2, { populate: ['notes'] })),
      );
      const { clashes, removed } = await stale(em);
      expect([clashes, removed.map(({ entity }) => entity)]).toEqual([[], [expect.any(Note)]]);
      removed[0]!.keep();
      await mergeOnConflict(em);
      expect(await fork().findOne(Note, 1)).toMatchObject({ order: { id: 2 } });
    });

    test('a part that only they have removed, of which I have removed a part: nothing to decide', async () => {
      const { both, fork } = await setUp();
      const { em } = await both(
        (mine, own) => own.remove(mine.lines[0]!.extras[0]!),
        (theirs, other) => other.remove(theirs.lines[0]!),
      );
      await mergeOnConflict(em);
      expect(await fork().count(Line)).toBe(1);
    });

    test('a part that I have given to another root is merged with what they have changed of it', async () => {
      const { both, fork } = await setUp();
      const { em } = await both(
        async (order, own) => (order.lines[0]!.order = await own.findOneOrFail(Order, 2, { populate: ['lines'] })),
        (theirs) => (theirs.lines[0]!.text = 'theirs'),
      );
      expect(await stale(em)).toEqual({ clashes: [], deleted: [], removed: [] });
      await em.flush();
      expect(await fork().findOne(Line, 1)).toMatchObject({ text: 'theirs', order: { id: 2 } });
    });
  });
}
