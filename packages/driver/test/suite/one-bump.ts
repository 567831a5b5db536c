/** One flush, one bump: however many statements MikroORM needs for a row, memory and database end at the same number. */
import { Collection, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, VersionNotLoaded } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Team {
  id!: number;
  name!: string;
  members = new Collection<Member>(this);
  version!: Opt<number>;
}
class Member {
  id!: number;
  name!: string;
  slug!: string | null;
  email!: string | null;
  desk!: Desk | null;
  mentor!: Member | null;
  friends = new Collection<Member>(this);
  team!: Team | null;
  version!: Opt<number>;
}
class Desk {
  id!: number;
  place!: string;
  member!: Member | null;
  version!: Opt<number>;
}
const version = () => p.type(VersionField);
const schemas = (orphanRemoval: boolean) => [
  defineEntity({
    class: Team,
    properties: {
      id: p.integer().primary().autoincrement(),
      name: p.string(),
      members: () => p.oneToMany(Member).mappedBy('team').orphanRemoval(orphanRemoval),
      version,
    },
  }),
  defineEntity({
    class: Member,
    properties: {
      id: p.integer().primary().autoincrement(),
      name: p.string(),
      slug: p.string().unique().nullable(),
      email: p.string().unique().nullable(),
      desk: () => p.oneToOne(Desk).owner().inversedBy('member').nullable(),
      mentor: () => p.manyToOne(Member).nullable(),
      friends: () => p.manyToMany(Member),
      team: () => p.manyToOne(Team).nullable(),
      version,
    },
  }),
  defineEntity({
    class: Desk,
    properties: {
      id: p.integer().primary().autoincrement(),
      place: p.string(),
      member: () => p.oneToOne(Member).mappedBy('desk').nullable(),
      version,
    },
  }),
];

type Entity = Member | Desk | Team;
type Em = Awaited<ReturnType<typeof open>>['fork'] extends () => infer T ? T : never;
interface Loaded {
  em: Em;
  a: Member;
  b: Member;
  c: Member;
  desks: [Desk, Desk, Desk];
  team: Team;
}

/** What a flush does, and the versions afterwards of what it names; everything else stays at 1. */
interface Story {
  name: string;
  /** Uniqueness is checked at the end of the transaction: a swap of two values needs it. */
  deferred?: true;
  work(loaded: Loaded): [Entity, number][];
}

const create = (em: Em, data: Partial<Member>) => em.create(Member, data as never) as Member;

const stories: Story[] = [
  {
    name: 'a value moves to a row that exists, and nothing else changes',
    work: ({ a, b }) => {
      b.slug = a.slug;
      a.slug = null;
      return [
        [a, 2],
        [b, 2],
      ];
    },
  },
  {
    name: 'a value moves against the order of the keys',
    work: ({ a, b }) => {
      a.slug = b.slug;
      b.slug = null;
      return [
        [a, 2],
        [b, 2],
      ];
    },
  },
  {
    name: 'a value moves, and both rows change otherwise too',
    work: ({ a, b }) => {
      b.slug = a.slug;
      a.slug = null;
      a.name = b.name = 'changed';
      return [
        [a, 2],
        [b, 2],
      ];
    },
  },
  {
    name: 'a value moves along three rows',
    work: ({ a, b, c }) => {
      c.slug = b.slug;
      b.slug = a.slug;
      a.slug = null;
      a.name = b.name = c.name = 'changed';
      return [
        [a, 2],
        [b, 2],
        [c, 2],
      ];
    },
    deferred: true,
  },
  {
    name: 'a value moves to a new row',
    work: ({ em, a }) => {
      const fresh = create(em, { name: 'new', slug: a.slug });
      a.slug = null;
      return [
        [a, 2],
        [fresh, 1],
      ];
    },
  },
  {
    name: 'two values are swapped',
    deferred: true,
    work: ({ a, b }) => {
      [a.slug, b.slug] = [b.slug, a.slug];
      return [
        [a, 2],
        [b, 2],
      ];
    },
  },
  {
    name: 'two values are swapped, and another one is cleared',
    deferred: true,
    work: ({ a, b }) => {
      [a.slug, b.slug] = [b.slug, a.slug];
      b.email = null;
      a.name = b.name = 'changed';
      return [
        [a, 2],
        [b, 2],
      ];
    },
  },
  {
    name: 'two 1:1 relations are swapped by their owners; the other side has no column',
    deferred: true,
    work: ({ a, b, desks: [x, y] }) => {
      a.desk = y;
      b.desk = x;
      return [
        [a, 2],
        [b, 2],
        [x, 1],
        [y, 1],
      ];
    },
  },
  {
    name: 'two 1:1 relations are swapped by the other side',
    deferred: true,
    work: ({ a, b, desks: [x, y] }) => {
      x.member = b;
      y.member = a;
      return [
        [a, 2],
        [b, 2],
        [x, 1],
        [y, 1],
      ];
    },
  },
  {
    name: 'a 1:1 relation moves, and all change otherwise too',
    work: ({ a, b, desks: [x] }) => {
      a.desk = null;
      b.desk = x;
      b.name = x.place = 'changed';
      return [
        [a, 2],
        [b, 2],
        [x, 2],
      ];
    },
  },
  {
    name: 'a 1:1 relation to a new row',
    work: ({ em, a, desks: [x] }) => {
      const fresh = em.create(Desk, { place: 'new' } as never) as Desk;
      a.desk = fresh;
      return [
        [a, 2],
        [fresh, 1],
        [x, 1],
      ];
    },
  },
  {
    name: 'new rows refer to each other',
    work: ({ em }) => {
      const [x, y, z] = [create(em, { name: 'x' }), create(em, { name: 'y' }), create(em, { name: 'z' })];
      x.mentor = y;
      y.mentor = z;
      z.mentor = x;
      return [
        [x, 1],
        [y, 1],
        [z, 1],
      ];
    },
  },
  {
    name: 'a new row refers to itself',
    work: ({ em }) => {
      const fresh = create(em, { name: 'self' });
      fresh.mentor = fresh;
      return [[fresh, 1]];
    },
  },
  {
    name: 'a row and a new one refer to each other',
    work: ({ em, a }) => {
      const fresh = create(em, { name: 'new', mentor: a });
      a.mentor = fresh;
      return [
        [a, 2],
        [fresh, 1],
      ];
    },
  },
  {
    name: 'new rows of a self-referencing M:N, and an imported version',
    work: ({ em }) => {
      const x = create(em, { name: 'x' });
      const y = create(em, { name: 'y', version: 42 });
      x.friends.add(y);
      y.friends.add(x);
      y.mentor = x;
      x.mentor = y;
      return [
        [x, 1],
        [y, 42],
      ];
    },
  },
  {
    name: 'M:N: neither side has a column',
    work: ({ a, b }) => {
      a.friends.add(b);
      return [
        [a, 1],
        [b, 1],
      ];
    },
  },
  {
    name: '1:M: the row with the foreign key is bumped, whichever side was changed, and a new one is not',
    work: ({ em, a, b, team }) => {
      team.members.remove(a);
      b.team = null;
      const fresh = create(em, { name: 'new' });
      team.members.add(fresh);
      return [
        [team, 1],
        [a, 2],
        [b, 2],
        [fresh, 1],
      ];
    },
  },
];

export function oneBump(driver: TestDriver): void {
  const setUp = async ({ deferred = false, orphanRemoval = false } = {}) => {
    const db = await open(driver, schemas(orphanRemoval));
    if (deferred) {
      // a database that checks uniqueness at the end does as much as one without the index while a flush runs
      const connection = db.fork().getConnection();
      for (const column of ['slug', 'email', 'desk_id']) {
        const name = `member_${column}_unique`;
        await connection.execute(driver.dropUnique('member', name, column));
      }
    }
    const seed = db.fork();
    const team = seed.create(Team, { name: 'team' });
    for (const name of ['a', 'b', 'c']) {
      const desk = seed.create(Desk, { place: name } as never);
      seed.create(Member, { name, slug: name, email: name, desk, team } as never);
    }
    await seed.flush();
    const load = async (em = db.fork()): Promise<Loaded> => {
      const [loadedTeam] = await em.find(Team, {}, { populate: ['members.desk'] });
      const members = await em.find(Member, {}, { orderBy: { id: 'asc' }, populate: ['friends'] });
      const [a, b, c] = members as unknown as [Member, Member, Member];
      return { em, a, b, c, desks: [a.desk!, b.desk!, c.desk!], team: loadedTeam! };
    };
    /** All versions by table and key. */
    const stored = async () => {
      const versions = new Map<string, number>();
      for (const table of ['team', 'member', 'desk']) {
        const rows = await db
          .fork()
          .getConnection()
          .execute<{ id: number; version: number }[]>(`select id, version from ${table}`);
        rows.forEach((row) => versions.set(`${table} ${row.id}`, row.version));
      }
      return versions;
    };
    return { ...db, load, stored };
  };
  const keyOf = (entity: Entity) => `${entity.constructor.name.toLowerCase()} ${entity.id}`;

  describe('one flush, one bump', () => {
    for (const { name, deferred, work } of stories) {
      test(name, async () => {
        const { load, stored, sent } = await setUp({ deferred });
        const loaded = await load();
        const expected = work(loaded);
        await loaded.em.flush();
        const versions = await stored();
        for (const [key, number] of versions) {
          expect([key, number]).toEqual([key, expected.find(([entity]) => keyOf(entity) === key)?.[1] ?? 1]);
        }
        for (const [entity, number] of expected) {
          expect([keyOf(entity), entity.version]).toEqual([keyOf(entity), number]);
        }
        // what was written is what was meant, and memory is based on it
        const fresh = await load();
        const state = (l: Loaded) =>
          [l.a, l.b, l.c].map((m) => [m.slug, m.email, m.desk?.id, m.mentor?.id, m.team?.id, m.name]);
        expect(state(fresh)).toEqual(state(loaded));
        expect(await sent(() => loaded.em.flush())).toEqual([]);
        expected.forEach(([entity]) => ('name' in entity ? (entity.name = 'next') : (entity.place = 'next')));
        await loaded.em.flush();
        expect(expected.map(([entity]) => entity.version)).toEqual(expected.map(([, number]) => number + 1));
      });

      test(`${name}: refused as a whole when a row of it is stale`, async () => {
        const { load, stored, fork } = await setUp({ deferred });
        const loaded = await load();
        const existing = work(loaded).filter(
          ([entity, number]) => number > 1 && [loaded.a, loaded.b, loaded.c].includes(entity as Member),
        );
        const [stale] = existing.at(-1) ?? [undefined];
        if (!stale) {
          return;
        }
        await fork().nativeUpdate(Member, { id: stale.id }, { name: 'theirs' });
        const before = await stored();
        for (let attempt = 0; attempt < 2; attempt++) {
          expect(await thrown(() => loaded.em.flush())).toMatchObject({
            conflicts: [{ entity: stale, expected: 1, actual: 2 }],
          });
          expect(await stored()).toEqual(before);
          expect(existing.map(([entity]) => entity.version)).toEqual(existing.map(() => 1));
        }
      });
    }

    for (const orphanRemoval of [false, true]) {
      test(`a collection that was never loaded is replaced, and a row of it is removed${orphanRemoval ? ' (orphan removal)' : ''}`, async () => {
        const { load, fork, stored } = await setUp({ orphanRemoval });
        const { a, b, team } = await load();
        const em = fork();
        const [keep, gone] = [await em.findOneOrFail(Member, a.id), await em.findOneOrFail(Member, b.id)];
        (await em.findOneOrFail(Team, team.id)).members.set([keep]);
        em.remove(gone);
        await em.flush();
        const versions = await stored();
        expect(versions.has(keyOf(b))).toBe(false);
        expect([keep.version, versions.get(keyOf(keep))]).toEqual([1, 1]);

        const stale = fork();
        const late = await stale.findOneOrFail(Member, keep.id);
        await fork().nativeUpdate(Member, { id: keep.id }, { name: 'theirs' });
        (await stale.findOneOrFail(Team, team.id)).members.set([]);
        stale.remove(late);
        expect(await thrown(() => stale.flush())).toMatchObject({
          conflicts: [{ operation: 'delete', expected: 1, actual: 2 }],
        });
        expect((await stored()).get(keyOf(keep))).toBe(2);
      });
    }

    test('a reference that is added to a collection is written where its version is known', async () => {
      const { load, fork, stored } = await setUp();
      const { a } = await load();
      const blind = fork();
      blind.create(Team, { name: 'new' }).members.add(blind.getReference(Member, a.id));
      expect(await thrown(() => blind.flush())).toBeInstanceOf(VersionNotLoaded);
      for (const [claim, error] of [
        [7, ConcurrentUpdate],
        [1, undefined],
      ] as const) {
        const em = fork();
        const member = em.assign(em.getReference(Member, a.id), { version: claim });
        em.create(Team, { name: 'new' }).members.add(member);
        if (error) {
          expect(await thrown(() => em.flush())).toBeInstanceOf(error);
        } else {
          await em.flush();
          expect([member.version, (await stored()).get(keyOf(member))]).toEqual([2, 2]);
        }
      }
    });
  });
}
