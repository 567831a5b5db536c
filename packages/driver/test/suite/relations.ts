/** Relations that lead MikroORM to a row that nobody touched, or by another column than the primary key. */
import { EntitySchema, LoadStrategy, OptimisticLockError, type Ref, defineEntity, p, ref, wrap } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, VersionNotLoaded } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

interface Pet {
  id: number;
  name: string;
  owner?: Person | null;
  version?: number;
}
interface Person {
  id: number;
  name: string;
  pet?: Pet | null;
  version?: number;
}

const id = { type: 'integer', primary: true } as const;
const name = { type: 'string', default: '' } as const;
const version = { type: VersionField } as const;

/** A person and a pet, where one of them has the foreign key; the version is declared after the relation, or before. */
function personAndPet(owning: 'person' | 'pet', more: object = {}, first: object = {}, last: object = { version }) {
  const owns = (relation: string) => ({ inversedBy: relation, nullable: true });
  const isOwned = (relation: string) => ({ mappedBy: relation, nullable: true });
  const PetSchema: EntitySchema<Pet> = new EntitySchema<Pet>({
    name: 'Pet',
    properties: {
      id,
      name,
      ...first,
      owner: { kind: '1:1', entity: () => PersonSchema, ...(owning === 'pet' ? owns('pet') : isOwned('pet')) },
      ...last,
    } as never,
  });
  const PersonSchema: EntitySchema<Person> = new EntitySchema<Person>({
    name: 'Person',
    properties: {
      id,
      name,
      ...first,
      pet: { kind: '1:1', entity: () => PetSchema, ...(owning === 'pet' ? isOwned('owner') : owns('owner')), ...more },
      ...last,
    } as never,
  });
  return { PetSchema, PersonSchema };
}

export function relations(driver: TestDriver): void {
  /** Person 1 with pet 7, and pet 8, which nobody has. */
  const setUp = async (...shape: Parameters<typeof personAndPet>) => {
    const schemas = personAndPet(...shape);
    const db = await open(driver, [schemas.PersonSchema, schemas.PetSchema]);
    const em = db.fork();
    const pet = em.create(schemas.PetSchema, { id: 7, name: 'rex' });
    const person = em.create(schemas.PersonSchema, { id: 1, name: 'ann' });
    person.pet = pet;
    em.create(schemas.PetSchema, { id: 8, name: 'tom' });
    await em.flush();
    return { ...db, ...schemas };
  };

  describe('one to one, where a join leads back to the row that is being read', () => {
    for (const owning of ['person', 'pet'] as const) {
      for (const [order, first, last] of [
        ['after', {}, { version }],
        ['before', { version }, {}],
      ] as const) {
        for (const strategy of Object.values(LoadStrategy)) {
          test(`${owning} has the key, the version is declared ${order} the relation, ${strategy}`, async () => {
            const { fork, PersonSchema, PetSchema } = await setUp(owning, {}, first, last);
            const em = fork();
            const [person] = await em.find(PersonSchema, {}, { populate: ['pet.owner'] as never, strategy });
            expect([person!.version, person!.pet!.version, person!.pet!.owner === person]).toEqual([1, 1, true]);
            const again = await em.find(PetSchema, { id: 7 }, { populate: ['owner.pet'] as never, strategy });
            expect(again[0]).toBe(person!.pet);
            const other = fork();
            const [pet] = await other.find(PetSchema, { id: 7 }, { populate: ['owner.pet'] as never, strategy });
            expect([pet!.version, pet!.owner!.version]).toEqual([1, 1]);
            pet!.name = 'changed';
            pet!.owner!.name = 'changed';
            await other.flush();
            person!.name = 'mine';
            expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
          });
        }
      }
    }
  });

  describe('rows that MikroORM changes along', () => {
    type Change = (person: Person, pet8: Pet, fresh: () => Pet) => void;
    const changes: Record<string, Change> = {
      'set to null': (person) => (person.pet = null),
      'set to another one': (person, pet8) => (person.pet = pet8),
      'set to a new one': (person, _, fresh) => (person.pet = fresh()),
    };
    for (const owning of ['pet', 'person'] as const) {
      for (const orphanRemoval of [false, true]) {
        for (const [change, apply] of Object.entries(changes)) {
          if (owning === 'pet' && orphanRemoval && change === 'set to another one') {
            continue; // MikroORM writes the new key before it removes the row that has it
          }
          const touches = owning === 'pet' || orphanRemoval;
          const title = `${owning} has the key${orphanRemoval ? ', orphans are removed' : ''}, ${change}`;

          test(`${title}: with the other row populated it is checked`, async () => {
            const run = async (rival: boolean) => {
              const { fork, PersonSchema, PetSchema } = await setUp(owning, { orphanRemoval });
              const em = fork();
              const person = await em.findOneOrFail(PersonSchema, 1, { populate: ['pet'] as never });
              apply(person, await em.findOneOrFail(PetSchema, 8), () => em.create(PetSchema, { id: 9, name: 'new' }));
              if (rival) {
                const theirs = fork();
                (await theirs.findOneOrFail(PetSchema, 7)).name = 'theirs';
                await theirs.flush();
              }
              await em.flush();
              return fork().findOne(PetSchema, 7);
            };
            const left = await run(false);
            expect(left === null).toBe(orphanRemoval);
            if (touches) {
              expect(await thrown(() => run(true))).toBeInstanceOf(ConcurrentUpdate);
            } else {
              expect((await run(true))!.name).toBe('theirs');
            }
          });

          test(`${title}: without it, that is what the error says, and nothing is sent`, async () => {
            const { fork, sent, PersonSchema, PetSchema } = await setUp(owning, { orphanRemoval });
            const em = fork();
            const person = await em.findOneOrFail(PersonSchema, 1);
            apply(person, await em.findOneOrFail(PetSchema, 8), () => em.create(PetSchema, { id: 9, name: 'new' }));
            if (!touches) {
              await em.flush();
              return;
            }
            let error: unknown;
            const statements = await sent(async () => {
              error = await thrown(() => em.flush());
            });
            expect(statements).toEqual([]);
            expect(error).toBeInstanceOf(VersionNotLoaded);
            expect((error as Error).message).toContain('Person.pet');
            expect((error as Error).message).toContain("populate: ['pet']");
            // the way out
            const again = fork();
            const populated = await again.findOneOrFail(PersonSchema, 1, { populate: ['pet'] as never });
            const other = await again.findOneOrFail(PetSchema, 8);
            apply(populated, other, () => again.create(PetSchema, { id: 9, name: 'new' }));
            await again.flush();
          });
        }
      }
    }

    test('a parent whose removal cascades to a reference', async () => {
      const { fork, PersonSchema } = await setUp('person', { cascade: ['persist', 'remove'] });
      const em = fork();
      em.remove(await em.findOneOrFail(PersonSchema, 1));
      expect((await thrown(() => em.flush())).message).toContain("populate: ['pet']");
      const again = fork();
      again.remove(await again.findOneOrFail(PersonSchema, 1, { populate: ['pet'] as never }));
      await again.flush();
    });

    test('a reference that the user changed is told what it always was', async () => {
      const { fork, PetSchema } = await setUp('pet');
      const em = fork();
      em.getReference(PetSchema, 7).name = 'blind';
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(VersionNotLoaded);
      expect(error).not.toBeInstanceOf(OptimisticLockError);
      expect(error.message).not.toContain('populate');
    });
  });

  describe('a reference that is changed, and then loaded', () => {
    type Em = ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>;
    const loads: Record<string, (em: Em) => Promise<unknown>> = {
      'em.find': (em) => em.find('Person' as never, {}),
      'em.findOne': (em) => em.findOne('Person' as never, 1 as never),
      'em.find, in part': (em) => em.find('Person' as never, {}, { fields: ['id'] as never }),
      'em.find, as a relation': (em) =>
        em.find('Pet' as never, { id: 7 } as never, { populate: ['owner'] as never, strategy: 'joined' }),
      'em.find, as a relation by select-in': (em) =>
        em.find('Pet' as never, { id: 7 } as never, { populate: ['owner'] as never, strategy: 'select-in' }),
      'em.populate': (em) => em.populate([em.getReference('Pet' as never, 7 as never)], ['owner'] as never),
    };
    for (const [how, load] of Object.entries(loads)) {
      test(`${how}: it has the version that was loaded, and its changes`, async () => {
        const run = async (rival: boolean) => {
          const { fork, PersonSchema, orm } = await setUp('person');
          orm.config.set('flushMode', 'commit');
          const em = fork();
          const person = em.getReference(PersonSchema, 1);
          person.name = 'mine';
          await load(em);
          expect([person.version, person.name]).toEqual([1, 'mine']);
          if (rival) {
            const theirs = fork();
            (await theirs.findOneOrFail(PersonSchema, 1)).name = 'theirs';
            await theirs.flush();
          }
          await em.flush();
          return fork().findOneOrFail(PersonSchema, 1);
        };
        expect(await run(false)).toMatchObject({ name: 'mine', version: 2 });
        expect(await thrown(() => run(true))).toBeInstanceOf(ConcurrentUpdate);
      });
    }
  });

  describe('a relation by another key (targetKey)', () => {
    const Author = defineEntity({
      name: 'Author',
      properties: { id: p.integer().primary(), email: p.string().unique(), version: p.type(VersionField) },
    });
    const Book = defineEntity({
      name: 'Book',
      properties: {
        id: p.integer().primary(),
        title: p.string(),
        author: () => p.manyToOne(Author).targetKey('email').ref().nullable(),
        version: p.type(VersionField),
      },
    });
    for (const ids of [[1], [1, 2], [1, 2, 3]]) {
      test(`is written, ${ids.length} of them, and set to null`, async () => {
        const { fork } = await open(driver, [Author, Book]);
        const seed = fork();
        const first = seed.create(Author, { id: 1, email: '1@x' });
        seed.create(Author, { id: 2, email: '2@x' });
        [1, 2, 3].forEach((key) => seed.create(Book, { id: key, title: 't', author: ref(first) }));
        await seed.flush();
        const em = fork();
        const authors = await em.find(Author, {}, { orderBy: { id: 1 } });
        const books = await em.find(Book, {}, { populate: ['author'], orderBy: { id: 1 } });
        const stored = () =>
          fork().getConnection().execute<{ author_id: string }[]>('select author_id from book order by id');
        const changed = books.slice(0, ids.length);
        for (const book of changed) {
          book.author = ref(authors[1]!) as Ref<never>;
        }
        await em.flush();
        const isChanged = (key: number) => ids.includes(key);
        expect((await stored()).map((row) => row.author_id)).toEqual(
          [1, 2, 3].map((key) => (isChanged(key) ? '2@x' : '1@x')),
        );
        changed.forEach((book) => wrap(book).assign({ author: null, title: `of ${book.id}` }));
        await em.flush();
        expect((await stored()).map((row) => row.author_id)).toEqual(
          [1, 2, 3].map((key) => (isChanged(key) ? null : '1@x')),
        );
        const found = await fork().find(Book, {}, { orderBy: { id: 1 } });
        expect(found.map((book) => book.version)).toEqual(books.map((book) => book.version));
      });
    }
  });

  describe('a relation whose value is the key alone (mapToPk)', () => {
    interface Key {
      id: number;
    }
    for (const [title, more] of [
      ['without a version', {}],
      ['with one', { version: p.type(VersionField) }],
    ] as const) {
      const id = p.integer().primary();
      const Author = defineEntity({ name: 'Author', properties: { id, ...more } }) as unknown as EntitySchema<Key>;
      const author = () => p.manyToOne(Author).mapToPk().nullable();
      const Book = defineEntity({ name: 'Book', properties: { id, author, ...more } }) as unknown as EntitySchema<
        Key & { author: number | null }
      >;
      const setUpBooks = async () => {
        const db = await open(driver, [Author, Book]);
        const seed = db.fork();
        [1, 2].forEach((key) => seed.create(Author, { id: key }));
        await seed.flush();
        [1, 2].forEach((key) => seed.create(Book, { id: key, author: 1 }));
        await seed.flush();
        const authors = async () => (await db.fork().find(Book, {}, { orderBy: { id: 1 } })).map((book) => book.author);
        expect(await authors()).toEqual([1, 1]);
        return { ...db, authors };
      };

      test(`${title}: it is changed, set to null, and what it points to is removed`, async () => {
        const { fork, authors } = await setUpBooks();
        const em = fork();
        const [first, second] = await em.find(Book, {}, { orderBy: { id: 1 } });
        first!.author = 2;
        second!.author = null;
        await em.flush();
        expect(await authors()).toEqual([2, null]);
        em.remove(await em.findOneOrFail(Author, 1));
        second!.author = 2;
        await em.flush();
        expect(await authors()).toEqual([2, 2]);
      });

      test(`${title}: a transaction that rolls back takes it back`, async () => {
        const { fork, authors } = await setUpBooks();
        const em = fork();
        const [first] = await em.find(Book, {}, { orderBy: { id: 1 } });
        await em.begin();
        first!.author = 2;
        em.create(Book, { id: 3, author: 2 });
        await em.flush();
        await em.rollback();
        expect(first!.author).toBe(1);
        await em.flush();
        expect(await authors()).toEqual([1, 1]);
        first!.author = 2;
        await em.flush();
        expect(await authors()).toEqual([2, 1]);
      });
    }
  });
}
