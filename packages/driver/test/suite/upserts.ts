/** Upserts of entities without a key yet, and merges of a part: what comes back is what plain MikroORM brings back. */
import { EntitySchema, type Opt, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, withoutLock } from '../harness.ts';

/** With class fields, which are there from the start, as decorated entities have them. */
class Tag {
  id!: number;
  name!: string;
  note?: string | null;
  version!: Opt<number>;
}
const TagSchema = new EntitySchema<Tag>({
  class: Tag,
  properties: {
    id: { type: 'integer', primary: true, fieldName: 'tag_id' },
    name: { type: 'string', unique: true },
    note: { type: 'string', nullable: true },
    version: { type: VersionField },
  },
});
const Pair = defineEntity({
  name: 'Pair',
  properties: {
    id: p.bigint('string').primary(),
    left: p.string().length(50),
    right: p.string().length(50).nullable(),
    note: p.string().nullable(),
    version: p.type(VersionField),
  },
  uniques: [{ properties: ['left', 'right'] }],
});
const Label = defineEntity({
  name: 'Label',
  properties: { id: p.integer().primary(), name: p.string().unique(), note: p.string().nullable() },
});
const Address = defineEntity({
  embeddable: true,
  name: 'Address',
  properties: { city: p.string(), zip: p.string().nullable() },
});
const Person = defineEntity({
  name: 'Person',
  properties: {
    id: p.integer().primary(),
    name: p.string().fieldName('full_name'),
    address: () => p.embedded(Address),
    home: () => p.embedded(Address).object().nullable(),
    version: p.type(VersionField).fieldName('lock_no'),
  },
});

export function upserts(driver: TestDriver): void {
  describe('upserts of entities that have no key', () => {
    for (const version of [undefined, 4]) {
      test(`em.upsertMany, of old rows and new ones, ${version ? 'with' : 'without'} a version`, async () => {
        const { fork } = await open(driver, [TagSchema]);
        const em = fork();
        em.create(Tag, { name: 'old' });
        await em.flush();
        const other = fork();
        const data = { note: 'many', ...(version && { version }) };
        const tags = ['new', 'old', 'newer'].map((name) => other.create(Tag, { name, ...data }, { persist: false }));
        await other.upsertMany(tags);
        const stored = await fork().find(Tag, {}, { orderBy: { name: 1 } });
        const shown = (list: typeof tags) => list.map((tag) => [tag.name, tag.id, tag.note, tag.version]);
        expect(shown(tags.toSorted((a, b) => (a.name < b.name ? -1 : 1)))).toEqual(shown(stored));
        expect(stored.map((tag) => tag.version)).toEqual([version ?? 1, version ?? 1, 2]);
        tags.forEach((tag) => expect(other.getUnitOfWork().getById(Tag, tag.id)).toBe(tag));
        tags.forEach((tag) => (tag.note = 'changed'));
        await other.flush();
        expect((await fork().find(Tag, { note: 'changed' })).length).toBe(3);
      });
    }

    test('em.upsert, of an old row and a new one', async () => {
      const { fork } = await open(driver, [TagSchema]);
      const em = fork();
      em.create(Tag, { name: 'old' });
      await em.flush();
      const other = fork();
      for (const name of ['new', 'old']) {
        const tag = other.create(Tag, { name, note: 'one', version: 4 }, { persist: false });
        await other.upsert(tag);
        expect(await fork().findOneOrFail(Tag, { name })).toMatchObject({ id: tag.id, version: tag.version });
        expect(other.getUnitOfWork().getById(Tag, tag.id)).toBe(tag);
      }
    });

    test('by several unique columns, and a key that is not read as it is stored', async () => {
      const { fork } = await open(driver, [Pair]);
      const em = fork();
      em.create(Pair, { left: 'a', right: 'b' });
      await em.flush();
      const other = fork();
      const pairs = ['b', 'c'].map((right) =>
        other.create(Pair, { left: 'a', right, note: 'x', version: 5 }, { persist: false }),
      );
      await other.upsertMany(pairs);
      const stored = await fork().find(Pair, {}, { orderBy: { right: 1 } });
      expect(pairs.map((pair) => [pair.id, pair.version])).toEqual(stored.map((pair) => [pair.id, pair.version]));
      expect(stored.map((pair) => pair.version)).toEqual([2, 5]);
      pairs.forEach((pair) => (pair.note = 'y'));
      await other.flush();
      expect((await fork().find(Pair, { note: 'y' })).length).toBe(2);
    });

    test('of a class without a version: what plain MikroORM does', async () => {
      const run = async (more: object) => {
        const { fork, sent } = await open(driver, [Label], more);
        const em = fork();
        em.create(Label, { name: 'old' });
        await em.flush();
        const other = fork();
        const labels = ['new', 'old'].map((name) => other.create(Label, { name, note: 'x' }, { persist: false }));
        const statements = await sent(() => other.upsertMany(labels));
        return [statements, labels.map((label) => label.id)];
      };
      expect(await run({})).toEqual(await run({ driver: driver.plain }));
    });
  });

  describe('a merge of a part', () => {
    const merges: Record<string, [fields: string[], merged: object]> = {
      'a path into an embeddable': [['address.city'], { address: { city: 'new', zip: 'old' } }],
      'a path and a property': [['address.zip', 'name'], { name: 'new', address: { city: 'old', zip: 'new' } }],
      'columns of an embeddable': [['address_city', 'address_zip'], { address: { city: 'new', zip: 'new' } }],
      'an embeddable that is JSON': [['home'], { home: { city: 'new', zip: null } }],
      'a column': [['full_name'], { name: 'new' }],
    };
    for (const [what, [fields, merged]] of Object.entries(merges)) {
      test(`${what}: qb.insert().onConflict().merge() bumps`, async () => {
        const { fork } = await open(driver, [Person]);
        const em = fork();
        const address = (city: string) => ({ address: { city, zip: city }, home: { city, zip: null } });
        em.create(Person, { id: 1, name: 'old', ...address('old') });
        await em.flush();
        const data = { id: 1, name: 'new', ...address('new') };
        await fork()
          .createQueryBuilder(Person)
          .insert(data)
          .onConflict('id')
          .merge(fields as never)
          .execute();
        const before = { id: 1, name: 'old', ...address('old') };
        const person = await fork().findOneOrFail(Person, 1);
        expect(JSON.parse(JSON.stringify(person))).toEqual({ ...before, ...merged, version: 2 as Opt<number> });
      });
    }

    for (const fields of [['address.city'], ['address.*'], ['address'], ['name', 'address']]) {
      test(`em.upsert with onConflictMergeFields ${fields.join(', ')} is plain MikroORM's, with a bump`, async () => {
        const run = async (more: object) => {
          const { fork } = await open(driver, [Person], more);
          const em = fork();
          const address = (city: string) => ({ address: { city, zip: city }, home: { city, zip: null } });
          em.create(Person, { id: 1, name: 'old', ...address('old') });
          await em.flush();
          const data = { id: 1, name: 'new', ...address('new') };
          await fork().upsert(Person, data, { onConflictMergeFields: fields as never });
          const { version, ...stored } = JSON.parse(JSON.stringify(await fork().findOneOrFail(Person, 1)));
          return [stored, version];
        };

        const [plain] = await run(withoutLock(driver));
        expect(await run({})).toEqual([plain, 2]);
      });
    }
  });
}
