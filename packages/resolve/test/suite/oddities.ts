/** rebase() with what few entities have. */
/* oxlint-disable typescript/no-explicit-any -- entities of any shape */
import {
  type EntityManager,
  type ScalarReference,
  EntitySchema,
  RequestContext,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { rebase } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown, testUnless } from '../../../driver/test/harness.ts';

const id = () => p.integer().primary();
const version = () => p.type(VersionField);

export function oddities(driver: TestDriver): void {
  describe('rebase, odd shapes', () => {
    /** One row with these properties; both change it, and what `mine` has flushed conflicts. */
    const setUp = async (
      properties: object,
      row: object,
      mine: (item: Record<string, any>, em: EntityManager) => unknown,
      theirs: (item: Record<string, any>, em: EntityManager) => unknown,
      more: {
        entities?: object[];
        rows?: [object, object][];
        options?: object;
        populate?: string[];
        filters?: object;
      } = {},
    ) => {
      const Item = defineEntity({
        name: 'Item',
        properties: { id: id(), ...properties, version: version() },
        filters: more.filters ?? {},
      } as never) as any;
      const { fork, orm, sent } = await open(driver, [...(more.entities ?? []), Item] as never, more.options);
      const seed = fork();
      for (const [Entity, data] of more.rows ?? []) {
        seed.create(Entity as never, data as never);
      }
      seed.create(Item, { id: 1, ...row } as never);
      await seed.flush();
      const load = async (em: EntityManager): Promise<Record<string, any>> =>
        em.findOneOrFail(Item, 1, { populate: more.populate, filters: false } as never);
      const em = fork();
      const item = await load(em);
      await mine(item, em);
      const rival = fork();
      await theirs(await load(rival), rival);
      await rival.flush();
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error).toBeInstanceOf(ConcurrentUpdate);
      return { Item, orm, fork, sent, em, item, error, now: () => load(fork()) };
    };

    test('a scalar reference', async () => {
      const text = (item: Record<string, any>) => item.text as ScalarReference<string>;
      const properties = { text: p.text().lazy().ref(), other: p.text().lazy().ref(), n: p.integer() };
      const { em, item, error, now } = await setUp(
        properties,
        { text: 'text', other: 'other', n: 1 },
        (item) => (text(item).set('mine'), (item.n = 2)),
        (item) => (text(item).set('theirs'), item.other.set('theirs')),
        { populate: ['text', 'other'] },
      );
      const { clashes } = await rebase(em, error);
      expect(clashes).toMatchObject([{ property: 'text', base: 'text', mine: 'mine', theirs: 'theirs' }]);
      clashes[0]!.takeTheirs();
      expect([text(item).unwrap(), item.other.unwrap()]).toEqual(['theirs', 'theirs']);
      await em.flush();
      const stored = await now();
      expect([text(stored).unwrap(), stored.other.unwrap(), stored.n]).toEqual(['theirs', 'theirs', 2]);
    });

    test('a list of embeddables is one value; JSON and custom types inside of one are their own', async () => {
      const Box = defineEntity({
        name: 'Box',
        embeddable: true,
        properties: { a: p.json(), time: p.datetime(), n: p.bigint() },
      });
      const box = (a: unknown) => ({ a, time: new Date(1000), n: 1n });
      const { em, item, error, now } = await setUp(
        { list: () => p.embedded(Box).array(), inline: () => p.embedded(Box), boxed: () => p.embedded(Box).object() },
        { list: [box(1), box(2)], inline: box({ x: [1] }), boxed: box({ x: [1] }) },
        (item) => {
          item.list[0].a = 'mine';
          item.inline.a = { mine: 1 };
          item.boxed.a = { mine: 1 };
          item.boxed.n = 5n;
        },
        (item) => {
          item.list[1].a = 'theirs';
          item.inline.a = { theirs: 1 };
          item.inline.n = 7n;
          item.boxed.a = { theirs: 1 };
          item.boxed.time = new Date(2000);
        },
        { entities: [Box] },
      );
      const { clashes } = await rebase(em, error);
      expect(clashes).toMatchObject([
        {
          property: 'list',
          base: [{ a: 1 }, { a: 2 }],
          mine: [{ a: 'mine' }, { a: 2 }],
          theirs: [{ a: 1 }, { a: 'theirs' }],
        },
        { property: 'inline.a', base: { x: [1] }, mine: { mine: 1 }, theirs: { theirs: 1 } },
        { property: 'boxed.a', base: { x: [1] }, mine: { mine: 1 }, theirs: { theirs: 1 } },
      ]);
      expect([item.inline.n, item.boxed.n, item.boxed.time]).toEqual([7n, 5n, new Date(2000)]);
      clashes[0]!.takeTheirs();
      await em.flush();
      const stored = await now();
      expect(stored).toMatchObject({ list: [{ a: 1 }, { a: 'theirs' }], inline: { a: { mine: 1 }, n: 7n } });
      expect(stored.boxed).toMatchObject({ a: { mine: 1 }, n: 5n, time: new Date(2000) });
    });

    test('a getter, or what is not stored, in an embeddable that is stored as an object is no property of its own', async () => {
      class Name {
        first!: string;
        last!: string;
        note?: string;
        get full() {
          return `${this.first} ${this.last}`;
        }
      }
      const NameSchema = new EntitySchema({
        class: Name,
        embeddable: true,
        properties: {
          full: { type: 'string', persist: false, getter: true },
          note: { type: 'string', persist: false, nullable: true },
          first: { type: 'string' },
          last: { type: 'string' },
        },
      } as never);
      const { em, item, error, now } = await setUp(
        { n: p.integer(), name: () => p.embedded(Name as never).object() },
        { n: 1, name: { first: 'a', last: 'b' } },
        (item) => Object.assign(item.name, { first: 'mine', note: 'mine' }),
        (item) => (item.name.last = 'theirs'),
        { entities: [NameSchema] },
      );
      expect(await rebase(em, error)).toEqual({ clashes: [], deleted: [], removed: [] });
      expect([item.name.full, item.name.note]).toEqual(['mine theirs', 'mine']);
      await em.flush();
      expect((await now()).name).toMatchObject({ first: 'mine', last: 'theirs' });
    });

    test('NULLs that are read as undefined', async () => {
      const { em, item, error, now } = await setUp(
        { a: p.string().nullable(), b: p.string().nullable(), c: p.string().nullable() },
        { b: 'b' },
        async (item, em) => {
          item.c = 'saved';
          await em.flush();
          item.c = 'mine';
        },
        (item) => ((item.a = 'theirs'), (item.b = undefined)),
        { options: { forceUndefined: true } },
      );
      expect((await rebase(em, error)).clashes).toEqual([]);
      expect(item.a).toBe('theirs');
      await em.flush();
      expect(await now()).toMatchObject({ a: 'theirs', c: 'mine' });
      expect((await now()).b ?? null).toBe(null);
    });

    testUnless(driver, 'nullable generated columns')('computed columns follow', async () => {
      const { em, item, error } = await setUp(
        {
          n: p.integer(),
          m: p.integer(),
          twice: p.integer().generated('(n * 2) stored').nullable(),
          sum: p.integer().formula('n + m'),
        },
        { n: 1, m: 1 },
        (item) => (item.m = 5),
        (item) => (item.n = 10),
      );
      expect((await rebase(em, error)).clashes).toEqual([]);
      expect(item).toMatchObject({ n: 10, twice: 20 });
      await em.flush();
    });

    test('a row that a filter hides since is a changed one', async () => {
      const { em, item, error, now } = await setUp(
        { n: p.integer(), gone: p.boolean() },
        { n: 1, gone: false },
        (item) => (item.n = 2),
        (item) => (item.gone = true),
        { filters: { alive: { name: 'alive', cond: { gone: false }, default: true } } },
      );
      expect(await rebase(em, error)).toEqual({ clashes: [], deleted: [], removed: [] });
      expect(item).toMatchObject({ n: 2, gone: true });
      await em.flush();
      expect(await now()).toMatchObject({ n: 2, gone: true, version: 3 });
    });

    test('a 1:1 relation with orphan removal, and bigint keys', async () => {
      const Part = defineEntity({
        name: 'Part',
        properties: {
          id: p.bigint().primary(),
          item: () => p.oneToOne('Item' as never).mappedBy('part' as never),
          version: version(),
        },
      } as never) as any;
      const { em, error, now, fork, sent } = await setUp(
        {
          n: p.integer(),
          part: () =>
            p
              .oneToOne(Part)
              .inversedBy('item' as never)
              .nullable()
              .orphanRemoval(),
        },
        { n: 1, part: 1n },
        (item) => (item.n = 2),
        (item, em) => (item.part = em.create(Part, { id: 3n } as never)),
        { entities: [Part], rows: [1n, 2n].map((id) => [Part, { id }]), populate: ['part'] },
      );
      expect((await rebase(em, error)).clashes).toEqual([]);
      // theirs removed the orphan, and it is not for us to remove it once more
      expect((await sent(() => em.flush())).filter((sql) => sql.startsWith('delete'))).toEqual([]);
      expect(await now()).toMatchObject({ n: 2, part: { id: 3n }, version: 3 });
      expect((await fork().findAll(Part)).map(({ id }: any) => id).toSorted()).toEqual([2n, 3n]);
    });

    test('the m:n items from the inverse side', async () => {
      const Group = defineEntity({
        name: 'Group',
        tableName: 'groups',
        properties: { id: id(), items: () => p.manyToMany('Item' as never).mappedBy('groups' as never) },
      } as never) as any;
      const keys = (items: Iterable<any>) => [...items].map(({ id }) => id).toSorted();
      const { em, item, error, now } = await setUp(
        { n: p.integer(), groups: () => p.manyToMany(Group).inversedBy('items' as never) },
        { n: 1, groups: [1, 2] },
        async (item, em) => {
          await em.find(Group, {}, { populate: ['items'] } as never);
          item.n = 2;
          item.groups.add(em.getReference(Group, 3));
        },
        (item, em) => ((item.n = 3), item.groups.remove(em.getReference(Group, 1))),
        { entities: [Group], rows: [1, 2, 3].map((id) => [Group, { id }]), populate: ['groups'] },
      );
      expect((await rebase(em, error)).clashes).toHaveLength(1);
      expect(keys(item.groups)).toEqual([2, 3]);
      await em.flush();
      expect(keys((await now()).groups)).toEqual([2, 3]);
    });

    test('in a request context, and after a transaction that is gone', async () => {
      const { orm, Item, now, fork } = await setUp(
        { n: p.integer(), m: p.integer() },
        { n: 1, m: 1 },
        (item) => (item.n = 2),
        (item) => (item.m = 2),
      );
      const theirs = async () => {
        const rival = fork();
        ((await rival.findOneOrFail(Item, 1)) as any).m++;
        await rival.flush();
      };
      await RequestContext.create(orm.em, async () => {
        const item = (await orm.em.findOneOrFail(Item, 1)) as any;
        item.n = 3;
        await theirs();
        const error = (await thrown(() => orm.em.flush())) as unknown as ConcurrentUpdate;
        expect((await rebase(orm.em, error)).clashes).toEqual([]);
        await orm.em.flush();
      });
      expect(await now()).toMatchObject({ n: 3, m: 3 });

      const em = fork();
      const error = (await thrown(() =>
        em.transactional(async (tx) => {
          const item = (await tx.findOneOrFail(Item, 1)) as any;
          Object.assign(item, { n: 4, version: 1 });
        }),
      )) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toHaveLength(1);
      await expect(rebase(em, error)).rejects.toThrow(/rolled back, run the whole transaction again/);
    });
  });
}
