/** Undoing in memory what was undone in the database: cases beyond the plain ones in undo.ts. */
import { type Collection, FlushMode, type Opt, TransactionPropagation, defineEntity, helper, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Person {
  id!: number;
  name!: string;
  slot!: number | null;
  home!: { city: string; zip: string } | null;
  partner!: Person | null;
  boss!: Person | null;
  friends!: Collection<Person>;
  pets!: Collection<Pet>;
  version!: Opt<number>;
}
class Pet {
  name!: string;
  owner!: Person;
  age!: number;
  version!: Opt<number>;
}
class Log {
  id!: number;
  line!: string;
}
const Home = defineEntity({ name: 'Home', embeddable: true, properties: { city: p.string(), zip: p.string() } });
const entities = [
  defineEntity({
    class: Person,
    properties: {
      id: p.integer().primary(),
      name: p.string(),
      slot: p.integer().unique().nullable(),
      home: () => p.embedded(Home).nullable(),
      partner: () => p.oneToOne(Person).nullable(),
      boss: () => p.manyToOne(Person).nullable(),
      friends: () => p.manyToMany(Person),
      pets: () => p.oneToMany(Pet).mappedBy('owner').orphanRemoval(),
      version: p.type(VersionField),
    },
  }),
  // a foreign key in the key, and a key that may change
  defineEntity({
    class: Pet,
    properties: {
      owner: () => p.manyToOne(Person).primary(),
      name: p.string().primary(),
      age: p.integer(),
      version: p.type(VersionField),
    },
  }),
  defineEntity({ class: Log, properties: { id: p.integer().primary(), line: p.string().unique() } }),
  Home,
];

export function rollbacks(driver: TestDriver): void {
  /** Ann, Bob and Cid (1, 2, 3), each with a pet, all at version 1; slots 10, 20, 30. */
  const setUp = async () => {
    const db = await open(driver, entities as never);
    const seed = db.fork();
    ['Ann', 'Bob', 'Cid'].forEach((name, i) => {
      const person = seed.create(Person, {
        id: i + 1,
        name,
        slot: (i + 1) * 10,
        home: { city: 'X', zip: '1' },
      } as never);
      seed.create(Pet, { owner: person, name: 'Rex', age: i });
    });
    await seed.flush();
    const connection = db.fork().getConnection();
    const state = async () => ({
      people: await connection.execute('select * from person order by id'),
      friends: await connection.execute('select * from person_friends order by 1, 2'),
      pets: await connection.execute('select * from pet order by owner_id, name'),
      log: await connection.execute('select * from log order by id'),
    });
    const row = async (id: number) => {
      const [person] = await connection.execute<Record<string, unknown>[]>(`select * from person where id = ${id}`);
      return person;
    };
    const load = async (em = db.fork()) => {
      const [ann, bob, cid] = await em.find(Person, {}, { populate: ['pets', 'friends'], orderBy: { id: 'asc' } });
      return { em, ann: ann!, bob: bob!, cid: cid! };
    };
    return { ...db, state, row, load };
  };
  const stop = async () => {
    throw new Error('changed my mind');
  };

  describe('rollback', () => {
    test('new entities that refer to each other, removals, 1:1 and unique values that move, embedded values', async () => {
      const { load, fork, state, sent } = await setUp();
      const { em, ann, bob, cid } = await load();
      const before = await state();
      const [dan, eve] = [4, 5].map((id) => em.create(Person, { id, name: 'new' } as never));
      dan!.boss = eve!;
      eve!.boss = dan!;
      eve!.friends.add(dan!, ann);
      dan!.slot = 20;
      bob.slot = null;
      ann.partner = bob;
      bob.home!.city = 'Y';
      ann.pets.removeAll();
      em.remove(cid);
      await fork().nativeUpdate(Person, { id: 2 }, { name: 'theirs' });
      const theirs = { ...before, people: (await state()).people };
      for (let attempt = 0; attempt < 2; attempt++) {
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect(await state()).toEqual(theirs);
        expect([ann.slot, bob.slot, dan!.slot, dan!.boss, eve!.boss]).toEqual([10, null, 20, eve, dan]);
        expect([ann, bob, cid, dan, eve].map((person) => person!.version)).toEqual([1, 1, 1, undefined, undefined]);
        expect(eve!.friends.getItems()).toEqual([dan, ann]);
      }
      await em.refresh(bob);
      bob.slot = null;
      bob.home!.city = 'Y';
      await em.flush();
      const { people, friends, pets } = await state();
      expect(people).toMatchObject([
        { id: 1, slot: 10, partner_id: 2, version: 2 },
        { id: 2, slot: null, home_city: 'Y', name: 'theirs', version: 3 },
        { id: 4, slot: 20, boss_id: 5, version: 1 },
        { id: 5, slot: null, boss_id: 4, version: 1 },
      ]);
      expect(friends.length).toBe(2);
      expect(pets).toMatchObject([{ owner_id: 2 }]);
      expect(await sent(() => em.flush())).toEqual([]);
    });

    test('composite keys, a key that changes, and a row that goes with its parent', async () => {
      const { load, state } = await setUp();
      const { em, ann, bob, cid } = await load();
      bob.friends.add(cid);
      ann.boss = cid;
      await em.flush();
      const [rex] = bob.pets.getItems();
      const before = await state();
      const change = () => {
        rex!.name = 'Max';
        em.create(Pet, { owner: ann, name: 'Tom', age: 1 });
        em.remove(cid);
      };
      await em.begin();
      change();
      await em.flush();
      expect([ann.boss, bob.friends.getItems(), cid.pets.getItems()]).toEqual([undefined, [], []]);
      await em.rollback();
      expect([ann.boss, bob.friends.getItems(), cid.pets.getItems().length, rex!.name]).toEqual([cid, [cid], 1, 'Rex']);
      change();
      cid.version = 7;
      expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      expect(await state()).toEqual(before);
      expect([ann.boss, bob.friends.getItems(), cid.pets.getItems().length]).toEqual([cid, [cid], 1]);
      expect([rex!.version, rex!.name]).toEqual([1, 'Max']);
      cid.version = 1;
      await em.flush();
      expect((await state()).pets).toMatchObject([
        { owner_id: 1, name: 'Rex', version: 1 },
        { owner_id: 1, name: 'Tom', version: 1 },
        { owner_id: 2, name: 'Max', version: 2 },
      ]);
    });

    test('a whole transaction that is run again, on the same EntityManager and entities', async () => {
      const { load, state, fork } = await setUp();
      const { em, ann, cid } = await load();
      const before = await state();
      const work = (end: () => Promise<void>) =>
        em.transactional(async (tx) => {
          tx.remove(cid);
          ann.friends.add(await tx.findOneOrFail(Person, 2));
          tx.create(Person, { id: 9, name: 'new', boss: ann } as never);
          await tx.flush();
          ann.name = 'Anna';
          await tx.flush();
          await end();
        });
      await thrown(() => work(stop));
      expect(await state()).toEqual(before);
      expect([ann.version, cid.version, helper(cid).__managed]).toEqual([1, 1, true]);
      expect(em.getUnitOfWork().getById(Person, 3)).toBe(cid);
      expect(em.getUnitOfWork().getById(Person, 9)).toBeUndefined();
      await work(async () => {});
      expect((await state()).people).toMatchObject([
        { id: 1, name: 'Anna', version: 2 },
        { id: 2, version: 1 },
        { id: 9, version: 1 },
      ]);
      expect(await fork().count(Pet)).toBe(2);
      ann.name = 'Annie';
      await em.flush();
      expect(ann.version).toBe(3);
    });

    test('a savepoint that is released into a transaction which rolls back', async () => {
      const { load, state } = await setUp();
      const { em, ann, bob } = await load();
      const before = await state();
      await thrown(() =>
        em.transactional(async (tx) => {
          ann.name = 'Anna';
          await tx.transactional(async (inner) => {
            bob.name = 'Bobby';
            inner.create(Person, { id: 9, name: 'new' } as never);
            inner.remove((await inner.findOneOrFail(Pet, { owner: 3, name: 'Rex' })) as Pet);
          });
          expect(bob.version).toBe(2);
          await stop();
        }),
      );
      expect(await state()).toEqual(before);
      expect([ann.name, ann.version, bob.name, bob.version]).toEqual(['Ann', 1, 'Bob', 1]);
      await em.flush();
      expect(await state()).toEqual(before);
    });

    test('what the user changed after the flush stays as the user left it', async () => {
      const { load, row, state } = await setUp();
      const { em, ann, bob, cid } = await load();
      await em.begin();
      ann.name = 'Anna';
      ann.friends.add(bob, cid);
      await em.flush();
      ann.name = 'Annie';
      ann.version = 7;
      ann.friends.remove(cid);
      bob.name = 'Bobby';
      await em.rollback();
      expect([ann.name, ann.version, ann.friends.getItems()]).toEqual(['Annie', 7, []]);
      ann.version = 1;
      await em.flush();
      expect([await row(1), await row(2)]).toMatchObject([
        { name: 'Annie', version: 2 },
        { name: 'Bobby', version: 2 },
      ]);
      expect((await state()).friends).toHaveLength(0);
    });

    test('em.clear() forgets, also what a rollback would bring back', async () => {
      const { load, state, fork } = await setUp();
      const { em, ann, cid } = await load();
      const before = await state();
      await em.begin();
      em.create(Person, { id: 9, name: 'new' } as never);
      em.remove(cid);
      ann.name = 'Anna';
      await em.flush();
      em.clear();
      await em.rollback();
      expect(ann.version).toBe(1);
      expect(em.getUnitOfWork().getIdentityMap().keys()).toEqual([]);
      await em.flush();
      expect(await state()).toEqual(before);
      expect(await fork().count(Person)).toBe(3);
    });

    test('an error before the first statement: a listener, a validation', async () => {
      const { load, state } = await setUp();
      const { em, ann, bob, cid } = await load();
      let fail = true;
      em.getEventManager().registerSubscriber({
        onFlush: () => {
          if (fail) {
            throw new Error('not today');
          }
        },
      });
      em.create(Person, { id: 9, name: 'new' } as never);
      em.remove(cid);
      [ann.slot, bob.slot] = [20, null];
      expect((await thrown(() => em.flush())).message).toBe('not today');
      expect([ann.slot, bob.slot]).toEqual([20, null]);
      fail = false;
      ann.name = Symbol('no name') as never;
      await thrown(() => em.flush());
      ann.name = 'Ann';
      await em.flush();
      expect((await state()).people).toMatchObject([
        { id: 1, slot: 20, version: 2 },
        { id: 2, slot: null, version: 2 },
        { id: 9, version: 1 },
      ]);
    });

    test('listeners that compute change sets in the flush', async () => {
      const { load, row } = await setUp();
      const { em, ann, bob } = await load();
      let stamp = 0;
      em.getEventManager().registerSubscriber({
        onFlush: ({ uow }) => {
          ann.slot = 100 + ++stamp;
          uow.computeChangeSet(ann);
          bob.slot = 200 + stamp;
          uow.recomputeSingleChangeSet(bob);
        },
      });
      bob.name = 'Bobby';
      bob.version = 7;
      await thrown(() => em.flush());
      bob.version = 1;
      await em.flush();
      expect([await row(1), await row(2)]).toMatchObject([
        { slot: 102, version: 2 },
        { slot: 202, name: 'Bobby', version: 2 },
      ]);
    });

    test('a listener that fails after the COMMIT: what is in the database stays in memory', async () => {
      const { load, row, sent } = await setUp();
      for (const event of ['afterTransactionCommit', 'afterFlush']) {
        const { em, ann } = await load();
        em.getEventManager().registerSubscriber({ [event]: stop });
        ann.name += '!';
        const next = ann.version + 1;
        await thrown(() => em.flush());
        expect([ann.version, (await row(1))!.version]).toEqual([next, next]);
        expect((await sent(() => thrown(() => em.flush()).catch(() => {}))).join()).not.toContain('update');
      }
    });

    for (const event of ['afterCreate', 'afterUpdate', 'afterDelete'] as const) {
      for (const around of ['begin', 'implicitTransactions: false'] as const) {
        test(`a listener that fails after the one row was written (${event}, ${around}): memory says what the database says`, async () => {
          const options = around === 'begin' ? {} : { implicitTransactions: false };
          const db = await open(driver, entities as never, options);
          const seed = db.fork();
          seed.create(Person, { id: 1, name: 'Ann' } as never);
          await seed.flush();
          const em = db.orm.em.fork({ freshEventManager: true });
          const ann = await em.findOneOrFail(Person, 1);
          let failing = true;
          em.getEventManager().registerSubscriber({
            [event]: async () => {
              if (failing) {
                failing = false;
                await stop();
              }
            },
          });
          if (around === 'begin') {
            await em.begin();
          }
          if (event === 'afterCreate') {
            em.create(Person, { id: 2, name: 'Bob' } as never);
          } else if (event === 'afterUpdate') {
            ann.name = 'Anna';
          } else {
            em.remove(ann);
          }
          expect((await thrown(() => em.flush())).message).toBe('changed my mind');
          await (around === 'begin' ? em.commit() : em.flush());
          const people = await db.fork().find(Person, {}, { orderBy: { id: 'asc' } });
          const expected = {
            afterCreate: [
              ['Ann', 1],
              ['Bob', 1],
            ],
            afterUpdate: [['Anna', 2]],
            afterDelete: [],
          };
          expect(people.map(({ name, version }) => [name, version])).toEqual(expected[event]);
        });
      }
    }

    test('a ROLLBACK that a listener stops: what memory has taken back is not committed', async () => {
      const { orm, fork } = await setUp();
      const em = orm.em.fork({ freshEventManager: true });
      let stops = true;
      em.getEventManager().registerSubscriber({
        beforeTransactionRollback: () => {
          if (stops) {
            throw new Error('stopped');
          }
        },
      });
      const ann = await em.findOneOrFail(Person, 1);
      await em.begin();
      ann.name = 'Anna';
      await em.flush();
      expect((await thrown(() => em.rollback())).message).toBe('stopped');
      expect(ann).toMatchObject({ name: 'Ann', version: 1 });
      expect((await thrown(() => em.commit())).message).toBe('stopped');
      stops = false;
      await em.rollback();
      expect(await fork().findOneOrFail(Person, 1)).toMatchObject({ name: 'Ann', version: 1 });
      ann.name = 'Anne';
      await em.flush();
      expect(await fork().findOneOrFail(Person, 1)).toMatchObject({ name: 'Anne', version: 2 });
    });

    test('a new entity that is among the items of its own collection', async () => {
      const { load, state } = await setUp();
      const { em, ann } = await load();
      const dan = em.create(Person, { id: 4, name: 'new' } as never);
      dan.friends.add(ann, dan);
      await thrown(() =>
        em.transactional(async (tx) => {
          await tx.flush();
          await stop();
        }),
      );
      expect((await state()).friends).toEqual([]);
      await em.flush();
      expect((await state()).people).toHaveLength(3);
      em.persist(dan);
      await em.flush();
      expect((await state()).friends).toHaveLength(2);
    });

    test('entities stay those of the EntityManager outside, whatever transactions inside roll back', async () => {
      const { load, state } = await setUp();
      const { em, ann } = await load();
      await thrown(() =>
        em.transactional(async (tx) => {
          await tx.transactional(async () => {});
          await stop();
        }),
      );
      ann.pets.removeAll();
      await em.flush();
      expect((await state()).pets).toMatchObject([{ owner_id: 2 }, { owner_id: 3 }]);
    });

    // one connection cannot have two transactions
    if (driver.concurrent) {
      test('a transaction of its own (REQUIRES_NEW) is undone without the one around it, and the other way round', async () => {
        const { load, row } = await setUp();
        const { em, ann, bob } = await load();
        await em.transactional(async (tx) => {
          ann.name = 'Anna';
          await tx.flush();
          await thrown(() =>
            tx.transactional(
              async (own) => {
                (await own.findOneOrFail(Person, 2)).name = 'Bobby';
                await own.flush();
                await stop();
              },
              { propagation: TransactionPropagation.REQUIRES_NEW, clear: true },
            ),
          );
          expect([ann.version, bob.version]).toEqual([2, 1]);
        });
        expect([await row(1), await row(2)]).toMatchObject([{ version: 2 }, { version: 1 }]);
      });
    }

    test('without a transaction, what is in the database stays in memory', async () => {
      const db = await open(driver, entities as never, { implicitTransactions: false });
      const em = db.fork();
      const [one] = [1, 2].map((id) => em.create(Log, { id, line: `line ${id}` }));
      await em.flush();
      em.create(Log, { id: 3, line: 'line 3' });
      one!.line = 'line 2';
      await thrown(() => em.flush());
      one!.line = 'line 4';
      await em.flush();
      const rows = await em.fork().find(Log, {}, { orderBy: { id: 'asc' } });
      expect(rows.map((log) => log.line)).toEqual(['line 4', 'line 2', 'line 3']);
    });

    test('what a transaction created that rolls back is not pending outside, whatever it removed', async () => {
      const { load, fork, state } = await setUp();
      const { em, cid } = await load();
      const before = await state();
      await thrown(() =>
        em.transactional(async (tx) => {
          tx.create(Person, { id: 9, name: 'new' } as never);
          tx.remove(cid);
          await tx.flush();
          await stop();
        }),
      );
      await em.flush();
      expect(await state()).toEqual(before);
      expect(await fork().count(Person)).toBe(3);
    });

    test('orphans of outside that a transaction removed are where they were', async () => {
      const { load, state } = await setUp();
      const { em, ann } = await load();
      const before = await state();
      ann.pets.removeAll();
      await thrown(() =>
        em.transactional(async (tx) => {
          await tx.flush();
          await stop();
        }),
      );
      expect([ann.pets.length, ann.pets.isDirty()]).toEqual([1, false]);
      await em.flush();
      expect(await state()).toEqual(before);
      ann.pets.removeAll();
      await em.flush();
      expect((await state()).pets).toMatchObject([{ owner_id: 2 }, { owner_id: 3 }]);
    });

    test('a row that a refresh found gone does not come back', async () => {
      const { load, state, fork } = await setUp();
      const { em, ann, cid } = await load();
      await fork().nativeDelete(Pet, { owner: 3 });
      await fork().nativeDelete(Person, 3);
      await em.begin();
      ann.name = 'Anna';
      await em.flush();
      cid.pets.getItems().forEach((pet) => em.getUnitOfWork().unsetIdentity(pet));
      expect(await em.refresh(cid)).toBeNull();
      await em.rollback();
      await em.flush();
      expect((await state()).people).toMatchObject([{ id: 1, name: 'Ann', version: 1 }, { id: 2 }]);
    });

    test('a new entity with a given key is found by it, before and after a flush that fails', async () => {
      const { load, fork } = await setUp();
      const { em, ann } = await load();
      await fork().nativeUpdate(Person, 1, { name: 'theirs' });
      ann.name = 'ours';
      const dan = em.create(Person, { id: 9, name: 'new' } as never);
      await thrown(() => em.flush());
      expect(await em.findOne(Person, 9, { flushMode: FlushMode.COMMIT })).toBe(dan);
    });

    test('what was created and removed in a transaction that rolls back was never there', async () => {
      const { fork, state, sent } = await setUp();
      const em = fork();
      await em.begin();
      const dan = em.create(Person, { id: 9, name: 'new' } as never);
      await em.flush();
      em.remove(dan);
      await em.flush();
      await em.rollback();
      expect(dan.version).toBeUndefined();
      expect(await sent(() => em.flush())).toEqual([]);
      expect((await state()).people).toHaveLength(3);
    });
  });
}
