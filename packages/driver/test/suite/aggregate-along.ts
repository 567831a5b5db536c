/** Aggregates: what is between a root and its parts, what MikroORM writes later or elsewhere, and rows of other classes. */
import { type EntityManager, type EntitySchema, type Opt, defineEntity, p } from '@mikro-orm/core';
import { type ConcurrentUpdate, VersionField, VersionNotLoaded } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const version = (...aggregate: string[]) => p.type(new VersionField({ aggregate }));
const id = p.integer().primary();

/** The parts of a club are those of its teams: these are not listed themselves. */
const Club = defineEntity({
  name: 'Club',
  properties: {
    id,
    teams: () => p.oneToMany(Team).mappedBy('club'),
    version: version('teams.players', 'teams.badge', 'teams.fans'),
  },
});
const Team = defineEntity({
  name: 'Team',
  properties: {
    id,
    text: p.string().nullable(),
    club: () => p.manyToOne(Club).nullable(),
    players: () => p.oneToMany(Player).mappedBy('team'),
    badge: () => p.oneToOne(Badge).inversedBy('team').nullable(),
    fans: () => p.manyToMany(Fan),
  },
});
const Player = defineEntity({ name: 'Player', properties: { id, team: () => p.manyToOne(Team).nullable() } });
const Badge = defineEntity({
  name: 'Badge',
  properties: { id, text: p.string().nullable(), team: () => p.oneToOne(Team).mappedBy('badge').nullable() },
});
const Fan = defineEntity({ name: 'Fan', properties: { id } });
const clubs = [Club, Team, Player, Badge, Fan] as EntitySchema[];

const load = async (em: EntityManager) => {
  const orderBy = { id: 'asc' } as const;
  const [one, two] = await em.find(Club, {}, { populate: ['teams.players', 'teams.badge', 'teams.fans'], orderBy });
  return { em, one: one!, two: two!, team: one!.teams[0]!, other: two!.teams[0]! };
};
type Clubs = Awaited<ReturnType<typeof load>>;

export function aggregatesAlong(driver: TestDriver): void {
  describe('aggregates, what is between a root and its parts', () => {
    /** Each with the versions of both clubs afterwards. */
    const writes: Record<string, readonly [(clubs: Clubs) => unknown, readonly number[]]> = {
      'what is between moves, and takes its parts along': [({ team, two }) => (team.club = two), [2, 2]],
      'it is let go': [({ team }) => (team.club = null), [2, 1]],
      'it changes otherwise': [({ team }) => (team.text = 'new'), [1, 1]],
      'it is new, and has no parts': [({ em, one }) => em.create(Team, { id: 9, club: one }), [1, 1]],
      'it is new, and has the key of a part': [
        ({ em, one }) => em.create(Team, { id: 9, club: one, badge: em.getReference(Badge, 3) }),
        [2, 1],
      ],
      'it has the key of another part': [({ other, em }) => (other.badge = em.getReference(Badge, 3)), [1, 2]],
      'it hands over such a key': [({ team, other }) => (other.badge = team.badge), [2, 2]],
      'it is removed, and had the key of a part': [({ em, one }) => em.remove(one.teams[1]!), [2, 1]],
      'a part of it changes, the key on the other side': [({ team }) => (team.badge!.text = 'new'), [2, 1]],
    };
    for (const [name, [work, expected]] of Object.entries(writes)) {
      test(`${name}: ${expected.join(', ')}`, async () => {
        const { fork } = await open(driver, clubs);
        const seed = fork();
        for (const n of [1, 2]) {
          seed.create(Club, { id: n, teams: [{ id: n, badge: { id: n }, players: [{ id: n }], fans: [{ id: n }] }] });
        }
        seed.create(Badge, { id: 3 });
        await seed.flush();
        await seed.insert(Badge, { id: 4 });
        await seed.insert(Team, { id: 3, club: 1, badge: 4 });
        const loaded = await load(fork());
        await work(loaded);
        await loaded.em.flush();
        const found = await fork().find(Club, {}, { orderBy: { id: 'asc' } });
        expect(found.map((club) => club.version)).toEqual(expected);
        expect([loaded.one.version, loaded.two.version]).toEqual(expected);
        await loaded.em.flush();
        expect((await fork().find(Club, {}, { orderBy: { id: 'asc' } })).map((club) => club.version)).toEqual(expected);
      });
    }

    test('it moves, and what it belonged to is not loaded: what to load is said from there', async () => {
      const { fork } = await open(driver, clubs);
      const seed = fork();
      [1, 2].forEach((n) => seed.create(Club, { id: n, teams: [{ id: n }] }));
      await seed.flush();
      const em = fork();
      const team = await em.findOneOrFail(Team, 1);
      team.club = await em.findOneOrFail(Club, 2);
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(VersionNotLoaded);
      expect(error.message).toMatch(/changed along with Team\.club: load it with populate: \['club'\]/);
    });

    test('it was new, and belonged to nobody', async () => {
      const { fork } = await open(driver, clubs);
      const em = fork();
      const [club, team] = [em.create(Club, { id: 1 }), em.create(Team, { id: 1 })];
      await em.flush();
      em.create(Player, { id: 1, team });
      await em.flush();
      expect(club.version).toBe(1);
      team.club = club;
      await em.flush();
      expect([club.version, (await fork().findOneOrFail(Club, 1)).version]).toEqual([2, 2]);
    });

    test('a collection between, emptied without being loaded', async () => {
      const { fork } = await open(driver, clubs);
      const seed = fork();
      seed.create(Club, { id: 1, teams: [{ id: 1, players: [{ id: 1 }] }] });
      await seed.flush();
      const em = fork();
      (await em.findOneOrFail(Club, 1)).teams.removeAll();
      await em.flush();
      expect((await fork().findOneOrFail(Club, 1)).version).toBe(2);
    });
  });

  describe('aggregates, and what MikroORM knows, forgets or writes later', () => {
    const Order = defineEntity({
      name: 'Order',
      tableName: 'orders',
      properties: {
        id,
        code: p.string().nullable().unique(),
        shelf: p.integer().default(0),
        place: p.integer().nullable(),
        favouriteId: () => p.manyToOne(Tag).mapToPk().nullable(),
        subject: () => p.manyToOne([Tag, Story]).nullable(),
        lines: () => p.oneToMany(Line).mappedBy('order'),
        invoice: () => p.oneToOne(Invoice).mappedBy('order').nullable(),
        tags: () => p.manyToMany(Tag).inversedBy('orders'),
        address: () => p.oneToOne(Address).inversedBy('order').nullable(),
        marks: () => p.manyToMany(Tag).mappedBy('marked'),
        gifts: () => p.manyToMany(Tag),
        wishes: () => p.manyToMany(Tag),
        parcels: () => p.oneToMany(Parcel).mappedBy('order'),
        seal: () => p.oneToOne(Seal).mappedBy('order').nullable(),
        version: version('lines', 'lines.notes', 'tags', 'marks', 'gifts', 'address', 'seal', 'parcels'),
      },
      uniques: [{ properties: ['shelf', 'place'] }],
    });
    const Line = defineEntity({
      name: 'Line',
      tableName: 'order_line',
      properties: {
        id,
        text: p.string().nullable(),
        order: () => p.manyToOne(Order).nullable(),
        address: () => p.manyToOne(Address).nullable(),
        notes: () => p.oneToMany(Note).mappedBy('line'),
      },
    });
    const Note = defineEntity({ name: 'Note', properties: { id, line: () => p.manyToOne(Line) } });
    const Tag = defineEntity({
      name: 'Tag',
      properties: {
        id,
        orders: () => p.manyToMany(Order).mappedBy('tags'),
        marked: () => p.manyToMany(Order).inversedBy('marks'),
      },
    });
    const Invoice = defineEntity({
      name: 'Invoice',
      properties: { id, order: () => p.oneToOne(Order).nullable(), tag: () => p.manyToOne(Tag).nullable() },
    });
    const Address = defineEntity({
      name: 'Address',
      properties: { id, street: p.string().nullable(), order: () => p.oneToOne(Order).mappedBy('address').nullable() },
    });
    const Story = defineEntity({ name: 'Story', properties: { id: p.integer().primary().autoincrement() } });
    const Seal = defineEntity({ name: 'Seal', properties: { id, order: () => p.oneToOne(Order).nullable() } });
    const Parcel = defineEntity({
      name: 'Parcel',
      properties: { id, order: () => p.manyToOne(Order), version: p.type(VersionField) },
    });
    const setUp = async () => {
      const db = await open(driver, [Order, Line, Note, Tag, Invoice, Address, Seal, Parcel, Story] as EntitySchema[]);
      const em = db.fork();
      for (const n of [1, 2]) {
        em.create(Order, {
          id: n,
          code: `code ${n}`,
          place: n,
          lines: [{ id: n }],
          tags: [{ id: n }],
          marks: [{ id: 10 + n }],
          address: { id: n },
        });
      }
      await em.flush();
      const mine = db.fork();
      const find = (n: number) =>
        mine.findOneOrFail(Order, n, {
          populate: ['lines', 'tags.orders', 'marks.marked', 'gifts', 'wishes', 'address', 'invoice', 'seal'],
        });
      const [one, two] = [await find(1), await find(2)];
      const versions = async () => {
        const found = await db.fork().find(Order, {}, { orderBy: { id: 'asc' } });
        expect(
          [one, two].flatMap((order) => (found.some((row) => row.id === order.id) ? [order.version] : [])),
        ).toEqual(found.map((order) => order.version));
        return found.map((order) => order.version);
      };
      return { ...db, em: mine, one, two, versions };
    };

    test('a new m:n item that another new row refers to: MikroORM links it at the end', async () => {
      const { em, one, versions } = await setUp();
      const persist = false;
      const tag = em.create(Tag, { id: 9 }, { persist });
      one.invoice = em.create(Invoice, { id: 9, tag }, { persist });
      one.gifts.add(tag);
      // not listed
      one.wishes.add(tag);
      await em.flush();
      expect(await versions()).toEqual([2, 1]);
    });

    test('a part that had no root is given one, and gets a part of its own', async () => {
      const { em, one, versions } = await setUp();
      const line = em.create(Line, { id: 9 });
      await em.flush();
      line.order = one;
      em.create(Note, { id: 9, line });
      await em.flush();
      expect(await versions()).toEqual([2, 1]);
    });

    test('a root that was removed, and the other side of its m:n, which is loaded', async () => {
      const { em, one, versions } = await setUp();
      em.remove(one.lines[0]!).remove(one);
      await em.flush();
      expect(await versions()).toEqual([1]);
      await em.flush();
      expect(await versions()).toEqual([1]);
    });

    test('a unique value that one root gives up for another, along with a part of each', async () => {
      const { em, one, two, versions } = await setUp();
      one.code = null;
      two.code = 'code 1';
      [one, two].forEach((order, i) => em.create(Line, { id: 8 + i, order }));
      await em.flush();
      expect([one.code, two.code, await versions()]).toEqual([null, 'code 1', [2, 2]]);
      expect((await em.fork().findOneOrFail(Order, 2)).code).toBe('code 1');
    });

    test('unique values together that one root gives up for another, which has a new part', async () => {
      const { em, one, two, versions } = await setUp();
      one.place = 7;
      two.place = 1;
      em.create(Line, { id: 9, order: two });
      await em.flush();
      expect(await versions()).toEqual([2, 2]);
    });

    test('a root that takes the key of a new row as a value, and has a new part', async () => {
      const { em, one, versions } = await setUp();
      em.create(Tag, { id: 9 });
      one.favouriteId = 9 as never;
      em.create(Line, { id: 9, order: one });
      await em.flush();
      expect(await versions()).toEqual([2, 1]);
    });

    test('a root that refers to a new row of one of several classes, and has a new part', async () => {
      const { em, one, versions } = await setUp();
      one.subject = em.create(Story, {});
      em.create(Line, { id: 9, order: one });
      await em.flush();
      expect(await versions()).toEqual([2, 1]);
      const found = await em.fork().findOneOrFail(Order, 1, { populate: ['subject'] });
      expect(found.subject?.id).toBe(one.subject.id);
    });

    test('a root that takes the key of a row that was there is written before its new part', async () => {
      const { em, one, two, sent } = await setUp();
      one.favouriteId = 1 as never;
      em.create(Line, { id: 9, order: one });
      em.remove(two.marks[0]!);
      const tables = (await sent(() => em.flush())).map((sql) => sql.match(/^(?:update|insert into) \W(\w+)/)?.[1]);
      expect(tables.filter((table) => table)).toEqual(['orders', 'order_line']);
    });

    test('a 1:1 part, the key on the root, that was let go and changes later', async () => {
      const { fork } = await setUp();
      const em = fork();
      const address = await em.findOneOrFail(Address, 1);
      const order = await em.findOneOrFail(Order, 1);
      order.address = null;
      await em.flush();
      address.street = 'x';
      await em.flush();
      expect([order.version, (await fork().findOneOrFail(Order, 1)).version]).toEqual([2, 2]);
    });

    test('a 1:1 part, the key on the root, whose root was removed before', async () => {
      const { fork } = await setUp();
      await fork().nativeDelete(Line, 1);
      const em = fork();
      const address = await em.findOneOrFail(Address, 1);
      em.remove(await em.findOneOrFail(Order, 1));
      await em.flush();
      address.street = 'x';
      await em.flush();
      expect((await fork().findOneOrFail(Address, 1)).street).toBe('x');
    });

    test('1:1 parts that move together, of which MikroORM writes one later', async () => {
      const { fork } = await setUp();
      await fork().insertMany(Order, [{ id: 3 }, { id: 4 }]);
      await fork().insertMany(
        Seal,
        [1, 2].map((n) => ({ id: n, order: n })),
      );
      const em = fork();
      const orders = await em.find(Order, {}, { populate: ['seal'], orderBy: { id: 'asc' } });
      const [first, second] = [orders[0]!.seal!, orders[1]!.seal!];
      first.order = orders[2]!;
      second.order = orders[3]!;
      await em.flush();
      const found = await fork().find(Order, {}, { orderBy: { id: 'asc' } });
      expect(found.map((order) => order.version)).toEqual([2, 2, 2, 2]);
      expect(orders.map((order) => order.version)).toEqual([2, 2, 2, 2]);
    });

    test('a 1:1 part that loses its root to another one, which does not keep it', async () => {
      const { fork } = await setUp();
      await fork().insert(Seal, { id: 1, order: 1 });
      await fork().insert(Seal, { id: 2 });
      const em = fork();
      const order = await em.findOneOrFail(Order, 1, { populate: ['seal'] });
      const other = await em.findOneOrFail(Seal, 2);
      other.order = order;
      other.order = null;
      await em.flush();
      const [row] = await fork().find(Seal, { order: 1 });
      expect([order.version, (await fork().findOneOrFail(Order, 1)).version]).toEqual(row ? [1, 1] : [2, 2]);
    });

    test('a 1:1 part, the key on the root, that changes while its root takes another one', async () => {
      const { em, one, two, versions } = await setUp();
      const address = two.address!;
      address.street = 'x';
      await em.flush();
      expect(await versions()).toEqual([1, 2]);
      two.address = one.address;
      address.street = 'y';
      await em.flush();
      expect(await versions()).toEqual([2, 3]);
    });

    test('a version that is assigned to a part, and nothing else, is compared only', async () => {
      const { fork, versions } = await setUp();
      await fork().insert(Parcel, { id: 1, order: 1 });
      const em = fork();
      const parcel = em.getReference(Parcel, 1);
      parcel.version = 1 as never;
      await em.flush();
      expect(await versions()).toEqual([1, 1]);
    });

    test('an m:n item that is taken away from the side that owns the links', async () => {
      const { fork } = await setUp();
      const em = fork();
      const order = await em.findOneOrFail(Order, 1);
      (await em.findOneOrFail(Tag, 11, { populate: ['marked'] })).marked.removeAll();
      await em.flush();
      expect([order.version, (await fork().findOneOrFail(Order, 1)).version]).toEqual([2, 2]);
    });

    test('a key of the root itself is its own column: a conflict names no parts', async () => {
      const { em, fork, one } = await setUp();
      one.address = null;
      await fork().nativeUpdate(Order, 1, { shelf: 7 });
      const error = await thrown(() => em.flush());
      expect((error as unknown as ConcurrentUpdate).conflicts[0]!.parts).toBeUndefined();
    });

    test('an m:n item that is given a root by its key: the root itself is to be loaded', async () => {
      const { fork } = await setUp();
      const em = fork();
      em.create(Tag, { id: 9 }).orders.add(em.getReference(Order, 1));
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(VersionNotLoaded);
      expect(error.message).toMatch(/Load the entity first/);
    });

    const refused: Record<string, (em: EntityManager, fork: () => EntityManager) => Promise<unknown>> = {
      'a part of which only a column was loaded': async (em) =>
        Object.assign(await em.findOneOrFail(Address, 1, { fields: ['street'] }), { street: 'new' }),
      'a new part of a root that another EntityManager has loaded': async (em, fork) =>
        em.create(Line, { id: 9, order: await fork().findOneOrFail(Order, 1) }),
      'a part, the key on the root, that another row refers to by the same name': async (em) => {
        await em.findOneOrFail(Order, 2);
        (await em.findOneOrFail(Line, 2)).text = 'new';
        (await em.findOneOrFail(Address, 1, { fields: ['street'] })).street = 'new';
      },
    };
    for (const [name, work] of Object.entries(refused)) {
      test(`${name}: refused before any SQL`, async () => {
        const { fork, sent } = await setUp();
        await fork().nativeUpdate(Line, 2, { address: 1 });
        const em = fork();
        await work(em, fork);
        let error: unknown;
        expect(await sent(async () => (error = await thrown(() => em.flush())))).toEqual([]);
        expect(error).toBeInstanceOf(VersionNotLoaded);
        // trying again changes nothing
        expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded);
      });
    }
  });

  describe('aggregates, and classes that share a table', () => {
    test('a part of a row of another class, which has no version', async () => {
      class Animal {
        id!: number;
        visits!: object;
      }
      class Cat extends Animal {
        version!: Opt<number>;
      }
      class Dog extends Animal {}
      class Visit {
        id!: number;
        cost!: number;
        animal!: Animal;
      }
      const animal: EntitySchema = defineEntity({
        class: Animal,
        discriminatorColumn: 'kind',
        discriminatorValue: 'animal',
        properties: { id, kind: p.string(), visits: () => p.oneToMany(visit).mappedBy('animal') },
      } as never) as EntitySchema;
      const cat = defineEntity({
        class: Cat,
        extends: animal,
        discriminatorValue: 'cat',
        properties: { version: version('visits') },
      } as never) as EntitySchema;
      const dog = defineEntity({
        class: Dog,
        extends: animal,
        discriminatorValue: 'dog',
        properties: {},
      } as never) as EntitySchema;
      const visit: EntitySchema = defineEntity({
        class: Visit,
        properties: { id, cost: p.integer(), animal: () => p.manyToOne(animal) },
      } as never) as EntitySchema;
      const { fork } = await open(driver, [animal, cat, dog, visit]);
      const seed = fork();
      for (const [i, Class] of [Cat, Dog].entries()) {
        seed.create(Visit, { id: i + 1, cost: 1, animal: seed.create(Class, { id: i + 1 } as never) } as never);
      }
      await seed.flush();
      const em = fork();
      await em.find(Animal, {});
      const visits = await em.find(Visit, {});
      visits.forEach((one) => one.cost++);
      expect(visits).toHaveLength(2);
      await em.flush();
      expect(await fork().findOneOrFail(Cat, 1)).toMatchObject({ version: 2 });
    });

    test('joined tables: a unique value of the upper one, given up for a root that has a new part', async () => {
      class Asset {
        id!: number;
        code!: string;
        parts!: object;
        version!: Opt<number>;
      }
      class Car extends Asset {
        plate!: Opt<string>;
      }
      class Wheel {
        id!: number;
        asset!: Asset;
      }
      const asset: EntitySchema = defineEntity({
        class: Asset,
        inheritance: 'tpt',
        properties: {
          id,
          code: p.string().unique(),
          parts: () => p.oneToMany(wheel).mappedBy('asset'),
          version: version('parts'),
        },
      } as never) as EntitySchema;
      const car = defineEntity({
        class: Car,
        extends: asset,
        properties: { plate: p.string().default('') },
      } as never) as EntitySchema;
      const wheel: EntitySchema = defineEntity({
        class: Wheel,
        properties: { id, asset: () => p.manyToOne(asset) },
      } as never) as EntitySchema;
      const { fork } = await open(driver, [asset, car, wheel]);
      const seed = fork();
      [1, 2].forEach((n) => seed.create(Car, { id: n, code: `c${n}` } as never));
      await seed.flush();
      const em = fork();
      const [one, two] = await em.find(Car, {}, { orderBy: { id: 1 } as never });
      Object.assign(one!, { code: 'c3', plate: 'x' });
      Object.assign(two!, { code: 'c1', plate: 'x' });
      em.create(Wheel, { id: 1, asset: two } as never);
      await em.flush();
      const found = await fork().find(Car, {}, { orderBy: { id: 1 } as never });
      expect(found.map(({ code, version: now }) => [code, now])).toEqual([
        ['c3', 2],
        ['c1', 2],
      ]);
    });

    test('a path of one class only', async () => {
      class Pet {
        id!: number;
        version!: Opt<number>;
      }
      class Dog extends Pet {
        toys!: object;
      }
      class Toy {
        id!: number;
        dog!: Dog;
      }
      const pet: EntitySchema = defineEntity({
        class: Pet,
        inheritance: 'tpt',
        properties: { id, version: version('toys') },
      } as never) as EntitySchema;
      const dog: EntitySchema = defineEntity({
        class: Dog,
        extends: pet,
        properties: { toys: () => p.oneToMany(toy).mappedBy('dog') },
      } as never) as EntitySchema;
      const toy: EntitySchema = defineEntity({
        class: Toy,
        properties: { id, dog: () => p.manyToOne(dog) },
      } as never) as EntitySchema;
      const { fork } = await open(driver, [pet, dog, toy]);
      const em = fork();
      em.create(Pet, { id: 1 } as never);
      const root = em.create(Dog, { id: 2 } as never);
      await em.flush();
      em.create(Toy, { id: 1, dog: root } as never);
      await em.flush();
      expect([root.version, (await fork().findOneOrFail(Dog, 2)).version]).toEqual([2, 2]);
    });
  });
}
