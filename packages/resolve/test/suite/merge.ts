/** The three-way merge, on random changes: nothing is lost, exactly the overlaps are reported, exactly the merge is written. */
import { defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { rebase } from '@mikro-ool/resolve';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../../../driver/test/harness.ts';

const Owner = defineEntity({ name: 'Owner', properties: { id: p.integer().primary() } });
const Box = defineEntity({
  name: 'Box',
  embeddable: true,
  properties: { text: p.string().nullable(), size: p.integer() },
});
const Item = defineEntity({
  name: 'Item',
  properties: {
    id: p.integer().primary().autoincrement(),
    text: p.string(),
    number: p.integer().nullable(),
    flag: p.boolean(),
    owner: () => p.manyToOne(Owner).nullable(),
    inline: () => p.embedded(Box),
    object: () => p.embedded(Box).object(),
    version: p.type(VersionField),
  },
});

/** An item without nesting: the very unit of the merge. */
interface Flat {
  text: string;
  number: number | null;
  flag: boolean;
  owner: number | null;
  'inline.text': string | null;
  'inline.size': number;
  'object.text': string | null;
  'object.size': number;
}
const text = fc.constantFrom('', 'a', 'b', "it's");
const number = fc.constantFrom(0, 1, 2, -1);
const shape = {
  text,
  number: fc.option(number),
  flag: fc.boolean(),
  owner: fc.option(fc.constantFrom(1, 2, 3)),
  'inline.text': fc.option(text),
  'inline.size': number,
  'object.text': fc.option(text),
  'object.size': number,
};
const whole: fc.Arbitrary<Flat> = fc.record(shape);
const change: fc.Arbitrary<Partial<Flat>> = fc.record(shape, { requiredKeys: [] });
const choice = fc.constantFrom('mine', 'theirs');

export function merges(driver: TestDriver): void {
  describe('merge', () => {
    test('loses nothing and reports exactly the overlaps', async () => {
      const { fork } = await open(driver, [Owner, Box, Item]);
      type Em = ReturnType<typeof fork>;
      type Loaded = InstanceType<typeof Item.class>;
      const nested = (em: Em, flat: Flat) => ({
        text: flat.text,
        number: flat.number,
        flag: flat.flag,
        owner: flat.owner === null ? null : em.getReference(Owner, flat.owner),
        inline: { text: flat['inline.text'], size: flat['inline.size'] },
        object: { text: flat['object.text'], size: flat['object.size'] },
      });
      const apply = (em: Em, item: Loaded, { owner, ...rest }: Partial<Flat>) => {
        for (const [key, value] of Object.entries(rest)) {
          const [first, second] = key.split('.') as [keyof Loaded, string | undefined];
          Object.assign(second ? (item[first] as object) : item, { [second ?? first]: value });
        }
        if (owner !== undefined) {
          item.owner = owner === null ? null : em.getReference(Owner, owner);
        }
      };
      const flatten = (item: Loaded): Flat => ({
        text: item.text,
        number: item.number ?? null,
        flag: item.flag,
        owner: item.owner?.id ?? null,
        'inline.text': item.inline.text ?? null,
        'inline.size': item.inline.size,
        'object.text': item.object.text ?? null,
        'object.size': item.object.size,
      });
      const seed = fork();
      [1, 2, 3].forEach((id) => seed.create(Owner, { id }));
      await seed.flush();

      let conflicts = 0;
      let reported = 0;
      const run = async (base: Flat, mine: Partial<Flat>, theirs: Partial<Flat>, taken: string) => {
        const creator = fork();
        const { id } = creator.create(Item, nested(creator, base) as never) as Loaded & { id: number };
        await creator.flush();
        const key = id ?? [...creator.getUnitOfWork().getIdentityMap()].map((e) => (e as Loaded).id).at(-1);
        const em = fork();
        const item = (await em.findOneOrFail(Item, { id: key })) as Loaded;
        apply(em, item, mine);
        const rival = fork();
        const row = (await rival.findOneOrFail(Item, { id: key })) as Loaded;
        apply(rival, row, theirs);
        await rival.flush();
        const version = row.version;
        const failure: unknown = await em.flush().then(
          () => undefined,
          (error: unknown) => error,
        );
        const changed = (by: Partial<Flat>) => (Object.keys(by) as (keyof Flat)[]).filter((k) => by[k] !== base[k]);
        expect(failure instanceof ConcurrentUpdate).toBe(changed(mine).length > 0 && changed(theirs).length > 0);
        if (!failure) {
          return;
        }
        conflicts++;
        const { clashes, ...rest } = await rebase(em, failure as ConcurrentUpdate);
        expect(rest).toEqual({ deleted: [], removed: [] });
        const overlap = changed(mine).filter((k) => changed(theirs).includes(k) && mine[k] !== theirs[k]);
        expect(clashes.map(({ property }) => property).toSorted()).toEqual(overlap.toSorted());
        reported += overlap.length;
        for (const clash of clashes) {
          const k = clash.property as keyof Flat;
          const key = (value: unknown) =>
            k === 'owner' ? ((value as { id: number } | null)?.id ?? null) : (value ?? null);
          expect([clash.base, clash.mine, clash.theirs].map(key)).toEqual([base[k], mine[k], theirs[k]]);
          if (taken === 'theirs') {
            clash.takeTheirs();
          }
        }
        const merged = { ...base };
        for (const k of changed(theirs)) {
          Object.assign(merged, { [k]: theirs[k] });
        }
        for (const k of changed(mine).filter((k) => taken === 'mine' || !overlap.includes(k))) {
          Object.assign(merged, { [k]: mine[k] });
        }
        expect(flatten(item)).toEqual(merged);
        await em.flush();
        const stored = (await fork().findOneOrFail(Item, { id: key })) as Loaded;
        expect(flatten(stored)).toEqual(merged);
        const wrote = JSON.stringify(merged) !== JSON.stringify({ ...base, ...theirs });
        expect(stored.version).toBe(version + (wrote ? 1 : 0));
        expect(item.version).toBe(stored.version);
      };
      await fc.assert(fc.asyncProperty(whole, change, change, choice, run), { numRuns: 200 });
      expect(conflicts, 'without a conflict nothing was merged').toBeGreaterThan(50);
      expect(reported).toBeGreaterThan(50);
    });
  });
}
