/** Two people change the parts of one aggregate in any way: nothing is lost unseen, and exactly what overlaps is reported. */
import { ConcurrentUpdate } from '@mikro-ool/core';
import { type Rebased, MergeConflict, mergeOnConflict, rebase } from '@mikro-ool/resolve';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../../../driver/test/harness.ts';
import { Detail, Extra, Line, Note, Order, entities } from './parts.ts';

const CLASSES = { Line, Extra, Note, Detail };
type Part = Line | Extra | Note | Detail;
type Em = ReturnType<Database['fork']>;

/** A part without its objects; `of` is what it belongs to, by its name. */
interface Row {
  readonly text: string;
  readonly size: number;
  readonly of: string | undefined;
}
type Rows = Map<string, Row>;

const nameOf = (entity: object) => `${entity.constructor.name}${(entity as Part).id}`;
const parentOf = (part: Part) => (part instanceof Extra ? part.line : part.order);
const rowOf = (part: Part): Row => {
  const parent = parentOf(part) as object | null | undefined;
  return { text: part.text, size: part.size, of: parent ? nameOf(parent) : undefined };
};

/** Of the parts that there are at first. */
const NAMES = ['Line1', 'Line2', 'Line3', 'Extra1', 'Extra2', 'Extra3', 'Note1', 'Note2', 'Detail1'];
const name = fc.constantFrom(...NAMES);
const changes = fc.record({
  removed: fc.uniqueArray(name, { maxLength: 2 }),
  moved: fc.uniqueArray(fc.constantFrom<string>('Line1', 'Line2'), { maxLength: 1 }),
  set: fc.uniqueArray(fc.tuple(name, fc.constantFrom('text', 'size')), { maxLength: 5, selector: String }),
  added: fc.uniqueArray(fc.constantFrom('Line', 'Note'), { maxLength: 2 }),
});
type Changes = typeof changes extends fc.Arbitrary<infer Value> ? Value : never;
const decision = fc.record({ takesTheirs: fc.boolean(), keeps: fc.boolean(), merges: fc.boolean() });

/** What is to be written, by one of two; and what overlaps. */
function oracle(
  base: Rows,
  mine: Rows,
  theirs: Rows,
  { takesTheirs, keeps }: { takesTheirs: boolean; keeps: boolean },
) {
  const isSame = (one: Row, other: Row) => one.text === other.text && one.size === other.size && one.of === other.of;
  /** An extra goes with its line. */
  const removedWith = (part: string) => {
    const { of } = base.get(part)!;
    return of?.startsWith('Line') && !mine.has(of) ? of : part;
  };
  const names = new Set([...base.keys(), ...mine.keys(), ...theirs.keys()]);
  const [clashes, deleted, removed]: [string[], string[], Set<string>] = [[], [], new Set()];
  const merged: Rows = new Map();
  for (const part of names) {
    const [was, own, other] = [base.get(part), mine.get(part), theirs.get(part)];
    if (was && own && !other && !isSame(was, own)) {
      deleted.push(part);
    } else if (was && !own && other && !isSame(was, other)) {
      removed.add(removedWith(part));
    } else if (was && own && other) {
      const pick = <Key extends keyof Row>(key: Key): Row[Key] => {
        const isClash = own[key] !== was[key] && other[key] !== was[key] && own[key] !== other[key];
        if (isClash) {
          clashes.push(`${part}.${key === 'of' ? 'order' : key}`);
        }
        return own[key] === was[key] || (isClash && takesTheirs) ? other[key] : own[key];
      };
      merged.set(part, { text: pick('text'), size: pick('size'), of: pick('of') });
    } else if (!was) {
      merged.set(part, (own ?? other)!);
    }
  }
  for (const part of keeps ? names : []) {
    const other = theirs.get(part);
    const isKept = other && base.has(part) && !mine.has(part) && removed.has(removedWith(part));
    if (isKept) {
      merged.set(part, other);
    }
  }
  return { clashes, deleted, removed: [...removed], merged };
}

export function mergesParts(driver: TestDriver): void {
  describe('rebase, parts', () => {
    test('loses nothing unseen and reports exactly the overlaps', async () => {
      const { fork, orm } = await open(driver, entities);
      const rows = async (): Promise<Rows> => {
        const em = fork();
        const found: Rows = new Map();
        for (const Class of Object.values(CLASSES)) {
          (await em.find(Class as typeof Line, {})).forEach((part) => found.set(nameOf(part), rowOf(part)));
        }
        return found;
      };
      const load = async (em: Em) => {
        const populate = ['lines.extras', 'notes', 'detail'] as const;
        const orders = await em.find(Order, {}, { populate, orderBy: { id: 1 } });
        const [first] = orders;
        const lines = first!.lines.getItems();
        const all = [...lines, ...lines.flatMap(({ extras }) => extras.getItems()), ...first!.notes, first!.detail!];
        return { orders, parts: new Map<string, Part>(all.map((part) => [nameOf(part), part])) };
      };
      /** Returns what is there then, as far as it has been there before. */
      const change = async (em: Em, { removed, moved, set, added }: Changes, id: number): Promise<Rows> => {
        const { orders, parts } = await load(em);
        const [first, second] = orders as unknown as [Order, Order];
        const gone = new Set<object>();
        for (const part of removed.map((one) => parts.get(one)!)) {
          gone.add(part);
          if (part instanceof Line) {
            part.extras.getItems().forEach((extra) => gone.add(extra));
          }
          if (part instanceof Note) {
            first.notes.remove(part);
          } else if (part instanceof Detail) {
            first.detail = null;
          } else {
            em.remove(part);
          }
        }
        const left = [...parts].filter(([, part]) => !gone.has(part));
        for (const [one, part] of left) {
          if (moved.includes(one)) {
            (part as Line).order = second;
          }
          for (const [, property] of set.filter(([other]) => other === one)) {
            Object.assign(part, property === 'text' ? { text: `by ${id}` } : { size: id });
          }
        }
        const news = added.map((kind) => em.create(CLASSES[kind as 'Line'], { id, order: first }));
        return new Map([...left.map(([, part]) => part), ...news].map((part) => [nameOf(part), rowOf(part)]));
      };
      const clear = async () => {
        for (const Class of [Extra, Line, Note, Detail, Order]) {
          await orm.em.fork().nativeDelete(Class as typeof Line, {});
        }
        const seed = fork();
        const lines = [1, 2, 3].map((id) => ({ id, extras: [{ id }] }));
        seed.create(Order, { id: 1, lines, notes: [{ id: 1 }, { id: 2 }], detail: { id: 1 } } as never);
        seed.create(Order, { id: 2 } as never);
        await seed.flush();
      };
      const names = (entries: readonly { readonly entity: object }[]) => entries.map(({ entity }) => nameOf(entity));

      const seen = { clashes: 0, deleted: 0, removed: 0 };
      const run = async (
        my: Changes,
        their: Changes,
        how: { takesTheirs: boolean; keeps: boolean; merges: boolean },
      ) => {
        await clear();
        const base = await rows();
        const [em, rival] = [fork(), fork()];
        const mine = await change(em, my, 50);
        await change(rival, their, 60);
        await rival.flush();
        const theirs = await rows();
        const expected = oracle(base, mine, theirs, how);
        const decide = ({ clashes, deleted, removed }: Rebased) => {
          const found = clashes.map(({ entity, property }) => `${nameOf(entity)}.${property}`);
          expect(found.toSorted()).toEqual(expected.clashes.toSorted());
          expect(names(deleted).toSorted()).toEqual(expected.deleted.toSorted());
          expect(names(removed).toSorted()).toEqual(expected.removed.toSorted());
          clashes.filter(() => how.takesTheirs).forEach((clash) => clash.takeTheirs());
          deleted.forEach((one) => one.drop());
          removed.filter(() => how.keeps).forEach((one) => one.keep());
        };
        let error: unknown = await em.flush().catch((reason: unknown) => reason);
        if (!error) {
          return; // one of them has changed nothing
        }
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        (['clashes', 'deleted', 'removed'] as const).forEach((key) => (seen[key] += expected[key].length));
        const isOpen = expected.deleted.length + expected.removed.length > 0;
        if (how.merges && isOpen) {
          expect(await thrown(() => mergeOnConflict(em, { resolve: () => {} }))).toBeInstanceOf(MergeConflict);
          expect(await rows()).toEqual(theirs);
          error = await thrown(() => em.flush());
        }
        if (how.merges && !isOpen) {
          await mergeOnConflict(em, { resolve: (clash) => (how.takesTheirs ? clash.takeTheirs() : undefined) });
        } else {
          decide(await rebase(em, error as ConcurrentUpdate));
          // what they have given to the other root makes that one stale, too
          await mergeOnConflict(em);
        }
        expect(await rows()).toEqual(expected.merged);
      };
      const runs = { numRuns: 25, seed: 1 };
      await fc.assert(fc.asyncProperty(changes, changes, decision, run), runs);
      expect(Math.min(...Object.values(seen)), 'how often the rarest of them was to be decided').toBeGreaterThan(0);
    });
  });
}
