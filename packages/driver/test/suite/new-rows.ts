/** `new VersionField({ start: 'random' })`: a row that is created again under the key of a deleted one has another version. */
import { type EntityManager, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Seat {
  id!: number;
  guest!: string;
  note: Opt<string> = '';
  version!: Opt<number>;
}
const SeatSchema = defineEntity({
  class: Seat,
  properties: {
    id: p.integer().primary(),
    guest: p.string(),
    note: p.string().default(''),
    version: p.type(new VersionField({ start: 'random' })).fieldName('no'),
  },
});
const Small = defineEntity({
  name: 'Small',
  properties: {
    id: p.integer().primary(),
    guest: p.string(),
    version: p.type(new VersionField({ start: 'random' })).columnType('smallint'),
  },
});
class Animal {
  id!: number;
  name!: string;
  version!: number;
}
class Dog extends Animal {
  breed!: string;
}

export function newRows(driver: TestDriver): void {
  const setUp = () => open(driver, [SeatSchema]);
  type Em = ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>;
  const ids = [1, 2, 3];
  const rows = () => ids.map((id) => ({ id, guest: `g${id}` }));

  const ways: [string, (em: Em) => Promise<unknown>][] = [
    [
      'em.create',
      (em) => {
        rows().forEach((row) => em.create(Seat, row));
        return em.flush();
      },
    ],
    [
      'em.insert of data',
      async (em) => {
        for (const row of rows()) {
          await em.insert(Seat, row);
        }
      },
    ],
    [
      'em.insert of entities',
      async (em) => {
        for (const row of rows()) {
          await em.insert(em.create(Seat, row, { persist: false }));
        }
      },
    ],
    ['em.insertMany of data', (em) => em.insertMany(Seat, rows())],
    ['em.insertMany of entities', (em) => em.insertMany(rows().map((row) => em.create(Seat, row, { persist: false })))],
    [
      'em.upsert',
      async (em) => {
        for (const row of rows()) {
          await em.upsert(Seat, row);
        }
      },
    ],
    ['em.upsertMany', (em) => em.upsertMany(Seat, rows())],
    [
      'em.upsert of entities, ignoring what exists',
      async (em) => {
        for (const row of rows()) {
          await em.upsert(Seat, row, { onConflictAction: 'ignore' });
        }
      },
    ],
    ['qb.insert', (em) => em.createQueryBuilder(Seat).insert(rows()).execute()],
    [
      'qb.insert of one',
      async (em) => {
        for (const row of rows()) {
          await em.createQueryBuilder(Seat).insert(row).execute();
        }
      },
    ],
    ['onConflict().merge()', (em) => em.createQueryBuilder(Seat).insert(rows()).onConflict('id').merge().execute()],
  ];
  const versions = async (em: EntityManager) => {
    const seats = await em.find(Seat, {}, { orderBy: { id: 'asc' } });
    return seats.map((seat) => seat.version);
  };

  describe('versions that start at random', () => {
    for (const [name, write] of ways) {
      test(`${name}: versions of new rows differ, and leave room`, async () => {
        const { fork } = await setUp();
        const seen: number[] = [];
        for (let round = 0; round < 4; round++) {
          const em = fork();
          await write(em);
          const now = await versions(fork());
          seen.push(...now);
          // memory knows them, too
          for (const seat of em.getUnitOfWork().getIdentityMap().getStore(em.getMetadata().get(Seat)).values()) {
            (seat as { guest: string }).guest += '!';
          }
          await em.flush();
          await fork().nativeDelete(Seat, {});
        }
        expect(new Set(seen).size).toBe(12);
        expect(seen.every((version) => version >= 1 && version <= 2 ** 30)).toBe(true);
      });
    }

    test('an explicit version is kept, and a row that exists moves by one', async () => {
      const { fork } = await setUp();
      const em = fork();
      em.create(Seat, { id: 1, guest: 'a', version: 7 });
      await em.flush();
      await fork().insertMany(Seat, [
        { id: 2, guest: 'b', version: 8 },
        { id: 3, guest: 'c' },
      ]);
      const [, , third] = await versions(fork());
      await fork().upsert(Seat, { id: 1, guest: 'upserted' });
      await fork().upsertMany(Seat, [
        { id: 2, guest: 'upserted' },
        { id: 3, guest: 'upserted' },
      ]);
      expect(await versions(fork())).toEqual([8, 9, third! + 1]);
      const seat = await fork().upsert(Seat, { id: 1, guest: 'again', version: 3 });
      expect(seat.version).toBe(9);
      await fork().createQueryBuilder(Seat).insert({ id: 1, guest: 'qb' }).onConflict('id').merge().execute();
      await fork().createQueryBuilder(Seat).insert({ id: 1, guest: 'qb' }).onConflict('id').merge(['guest']).execute();
      expect((await versions(fork()))[0]).toBe(11);
    });

    test('upserted entities have the version of their row', async () => {
      const { fork } = await setUp();
      const em = fork();
      const one = await em.upsert(Seat, { id: 1, guest: 'a' });
      const [two, three] = await em.upsertMany(Seat, [
        { id: 2, guest: 'b' },
        { id: 3, guest: 'c' },
      ]);
      expect([one.version, two!.version, three!.version]).toEqual(await versions(fork()));
    });

    test('whoever had the deleted row conflicts with the one that was created again', async () => {
      const { fork } = await setUp();
      const make = async (guest: string) => {
        const em = fork();
        em.create(Seat, { id: 1, guest });
        await em.flush();
      };
      await make('first');
      const [changing, removing] = [fork(), fork()];
      (await changing.findOneOrFail(Seat, 1)).guest = 'mine';
      removing.remove(await removing.findOneOrFail(Seat, 1));
      const em = fork();
      em.remove(await em.findOneOrFail(Seat, 1));
      await em.flush();
      await make('second');
      for (const stale of [changing, removing]) {
        expect(await thrown(() => stale.flush())).toBeInstanceOf(ConcurrentUpdate);
      }
      expect((await fork().findOneOrFail(Seat, 1)).guest).toBe('second');

      // replaced in one flush
      const again = fork();
      const seat = await again.findOneOrFail(Seat, 1);
      const { version } = seat;
      again.remove(seat);
      const next = Object.assign(new Seat(), { id: 1, guest: 'third' });
      again.persist(next);
      await again.flush();
      expect(next.version).not.toBe(version);
      expect(await versions(fork())).toEqual([next.version]);
    });

    test('em.clone makes a new row', async () => {
      const { fork } = await setUp();
      await fork().insert(Seat, { id: 100, guest: 'a' });
      const em = fork();
      const seat = await em.findOneOrFail(Seat, 100);
      const copy = await em.clone(seat);
      expect(copy.version).not.toBe(seat.version);
      expect(copy.version).toBeGreaterThan(1);
      expect((await fork().findOneOrFail(Seat, { id: { $ne: 100 } })).version).toBe(copy.version);
    });

    test('a new row that was rolled back starts anew, and its version is not left behind', async () => {
      const { fork } = await setUp();
      const em = fork();
      const seat = em.create(Seat, { id: 1, guest: 'a' });
      await fork().insert(Seat, { id: 2, guest: 'b' });
      em.create(Seat, { id: 2, guest: 'twice' });
      await thrown(() => em.flush());
      expect(seat.version).toBe(undefined);
    });

    test('in a smallint', async () => {
      const { fork } = await open(driver, [Small]);
      await fork().insertMany(
        Small,
        Array.from({ length: 50 }, (_, i) => ({ id: i + 1, guest: 'a' })),
      );
      const seen = (await fork().find(Small, {})).map((row) => row.version);
      expect(new Set(seen).size).toBeGreaterThan(40);
      expect(seen.every((version) => version >= 1 && version < 2 ** 14)).toBe(true);
    });

    for (const inheritance of ['tpt', 'sti'] as const) {
      test(`with inheritance (${inheritance})`, async () => {
        const { fork } = await open(driver, [
          defineEntity({
            class: Animal,
            ...(inheritance === 'tpt'
              ? { inheritance }
              : { discriminatorColumn: 'kind', discriminatorValue: 'animal' }),
            properties: {
              id: p.integer().primary(),
              name: p.string(),
              version: p.type(new VersionField({ start: 'random' })),
            },
          } as never),
          defineEntity({
            class: Dog,
            extends: Animal,
            ...(inheritance === 'sti' ? { discriminatorValue: 'dog' } : {}),
            properties: { breed: p.string() },
          } as never),
        ]);
        const em = fork();
        const dogs = [1, 2, 3].map((id) => em.create(Dog, { id, name: 'a', breed: 'b' } as never));
        const animal = em.create(Animal, { id: 4, name: 'a' } as never);
        await em.flush();
        const made = [...dogs, animal].map((one) => one.version);
        expect(new Set(made).size).toBe(4);
        dogs.forEach((dog) => (dog.breed = 'c'));
        await em.flush();
        const found = await fork().find(Animal, {}, { orderBy: { id: 'asc' } });
        expect(found.map((one) => one.version)).toEqual(made.map((version, i) => (i < 3 ? version + 1 : version)));
      });
    }
  });
}
