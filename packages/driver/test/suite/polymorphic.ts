/** Polymorphic relations: a row that refers to one of several classes, by a column for the class and one for the key. */
import { type Collection, type Opt, type Options, defineEntity, helper, p } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Post {
  id!: number;
  title!: string;
  notes!: Collection<Note>;
  cover!: Cover | null;
  version!: Opt<number>;
}
class Photo {
  id!: number;
  title!: string;
  notes!: Collection<Note>;
  cover!: Cover | null;
  version!: Opt<number>;
}
/** Has no other side. */
class Link {
  id!: number;
  title!: string;
  version!: Opt<number>;
}
class Note {
  id!: number;
  text!: string;
  on!: Post | Photo | Link | null;
  version!: Opt<number>;
}
class Cover {
  id!: number;
  text!: string;
  of!: Post | Photo | Link | null;
  version!: Opt<number>;
}
class Page {
  id!: number;
  title!: string;
  version!: Opt<number>;
}
/** May refer to one of its own class, which is not the first of those that it may refer to. */
class Reply {
  id!: number;
  to!: Page | Reply | null;
  version!: Opt<number>;
}

const id = p.integer().primary().autoincrement(false);
const version = p.type(VersionField);
const sides = {
  notes: () => p.oneToMany(Note).mappedBy('on').orderBy({ id: 'asc' }),
  cover: () => p.oneToOne(Cover).mappedBy('of').nullable(),
};
const entities = [
  defineEntity({ class: Post, properties: { id, title: p.string(), ...sides, version } } as never),
  defineEntity({ class: Photo, properties: { id, title: p.string(), ...sides, version } } as never),
  defineEntity({ class: Link, properties: { id, title: p.string(), version } }),
  defineEntity({
    class: Note,
    properties: {
      id,
      text: p.string(),
      on: () =>
        p
          .manyToOne([Post, Photo, Link])
          .inversedBy('notes' as never)
          .nullable(),
      version,
    },
  } as never),
  defineEntity({
    class: Cover,
    properties: {
      id,
      text: p.string(),
      of: () =>
        p
          .oneToOne([Post, Photo, Link])
          .owner()
          .inversedBy('cover' as never)
          .nullable(),
      version,
    },
  } as never),
  defineEntity({ class: Page, properties: { id, title: p.string(), version } }),
  defineEntity({
    class: Reply,
    properties: { id, to: () => p.manyToOne([Page, Reply]).nullable(), version },
  } as never),
] as NonNullable<Options['entities']>;

class Stop extends Error {}
const stop = async () => {
  throw new Stop('changed my mind');
};

export function polymorphicRelations(driver: TestDriver): void {
  describe('polymorphic relations', () => {
    const setUp = async () => {
      const db = await open(driver, entities);
      const seed = db.fork();
      const [post] = [1, 2].map((i) => seed.create(Post, { id: i, title: `post ${i}` } as never));
      const [, photo] = [1, 2].map((i) => seed.create(Photo, { id: i, title: `photo ${i}` } as never));
      const link = seed.create(Link, { id: 1, title: 'link' });
      [post!, post!, photo!, link, null].forEach((on, i) =>
        seed.create(Note, { id: i + 1, text: `note ${i + 1}`, on } as never),
      );
      [post!, photo!, link, null].forEach((of, i) =>
        seed.create(Cover, { id: i + 1, text: `cover ${i + 1}`, of } as never),
      );
      await seed.flush();
      const connection = db.fork().getConnection();
      const state = async () => ({
        notes: await connection.execute('select * from note order by id'),
        covers: await connection.execute('select * from cover order by id'),
      });
      return { ...db, state };
    };
    const load = async (em: EntityManager) => {
      const orderBy = { id: 'asc' } as never;
      const populate = ['notes', 'cover'] as never;
      return {
        posts: await em.find(Post, {}, { orderBy, populate }),
        photos: await em.find(Photo, {}, { orderBy, populate }),
        links: await em.find(Link, {}, { orderBy }),
        notes: await em.find(Note, {}, { orderBy }),
        covers: await em.find(Cover, {}, { orderBy }),
      };
    };
    type Loaded = Awaited<ReturnType<typeof load>>;
    const nameOf = (one: object | null | undefined) =>
      one == null ? one : `${one.constructor.name} ${(one as Note).id}`;
    const memoryOf = ({ posts, photos, notes, covers }: Loaded) => ({
      notes: notes.map((note) => [note.text, nameOf(note.on), note.version]),
      covers: covers.map((cover) => [cover.text, nameOf(cover.of), cover.version]),
      // in which order is not said
      sides: [...posts, ...photos].map((one) => [
        one.notes.getItems().map(nameOf).toSorted(),
        one.notes.isDirty(),
        nameOf(one.cover),
      ]),
    });

    const reads: Record<string, (em: EntityManager) => Promise<unknown>> = {
      'the class that has the other side of a 1:1': (em) => em.find(Photo, {}),
      'the row that is referred to, joined': (em) =>
        em.find(Note, {}, { populate: ['on'] as never, strategy: 'joined' as never }),
      'the row that is referred to, selected': (em) =>
        em.find(Note, {}, { populate: ['on'] as never, strategy: 'select-in' as never }),
      'the 1:1, joined': (em) => em.find(Cover, {}, { populate: ['of'] as never, strategy: 'joined' as never }),
      'twice, and refreshed': async (em) => {
        await em.find(Note, {});
        const [note] = await em.find(Note, {}, { populate: ['on'] as never, strategy: 'joined' as never });
        await em.find(Note, {}, { populate: ['on'] as never, strategy: 'joined' as never, refresh: true });
        await em.refresh(note!);
      },
    };
    for (const [name, read] of Object.entries(reads)) {
      test(`what is read is no change: ${name}`, async () => {
        const { fork, sent, state } = await setUp();
        const before = await state();
        const em = fork();
        await read(em);
        expect(await sent(() => em.flush())).toEqual([]);
        expect(await state()).toEqual(before);
      });
    }

    test('what was joined is no change, and what is assigned then is one, also of the same key in another class', async () => {
      const { fork, state } = await setUp();
      const em = fork();
      const [, , , note] = await em.find(
        Note,
        {},
        { populate: ['on'] as never, strategy: 'joined' as never, orderBy: { id: 'asc' } },
      );
      expect(nameOf(note!.on)).toBe('Link 1');
      note!.on = em.getReference(Post, 1);
      await em.flush();
      expect((await state()).notes.map((row) => [row.on_type, row.on_id, row.version])).toEqual([
        ['post', 1, 1],
        ['post', 1, 1],
        ['photo', 2, 1],
        ['post', 1, 2],
        [null, null, 1],
      ]);
    });

    const changes: Record<string, (loaded: Loaded, em: EntityManager) => void> = {
      'to another class': ({ notes, photos }) => void (notes[0]!.on = photos[1]!),
      'to a class without another side': ({ notes, links }) => void (notes[0]!.on = links[0]!),
      'to none': ({ notes }) => void (notes[2]!.on = null),
      'from none': ({ notes, photos }) => void (notes[4]!.on = photos[0]!),
      'by a collection': ({ notes, posts }) => void posts[1]!.notes.add(notes[4]!, notes[2]!),
      'a 1:1 to another class': ({ covers, photos }) => void (covers[0]!.of = photos[0]!),
      'a 1:1 to none': ({ covers }) => void (covers[1]!.of = null),
      'a 1:1 from none': ({ covers, photos }) => void (covers[3]!.of = photos[0]!),
      removed: ({ notes, covers }, em) => void em.remove([notes[0]!, notes[2]!, notes[3]!, covers[1]!, covers[2]!]),
      'several at once': ({ notes, posts, photos }) => {
        notes[0]!.on = photos[1]!;
        notes[2]!.on = null;
        notes[3]!.on = posts[0]!;
        notes[4]!.text = 'and a text';
      },
      created: ({ notes, photos }, em) => {
        const added = em.create(Photo, { id: 9, title: 'new' } as never);
        notes[4]!.on = added;
        em.create(Note, { id: 8, text: 'on a new one', on: added } as never);
        em.create(Note, { id: 9, text: 'on an old one', on: photos[0] } as never);
      },
    };
    for (const [name, change] of Object.entries(changes)) {
      test(`rolled back, ${name}: memory is as before, and nothing is pending`, async () => {
        const { fork, sent, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        const before = { memory: memoryOf(loaded), state: await state() };
        const work = async (tx: EntityManager) => {
          change(loaded, tx);
          await tx.flush();
          await stop();
        };
        expect(await thrown(() => em.transactional(work as never))).toBeInstanceOf(Stop);
        expect(await state()).toEqual(before.state);
        expect(memoryOf(loaded)).toEqual(before.memory);
        expect(loaded.links.map((link) => Object.keys(helper(link).__data))).toEqual([['title', 'version']]);
        expect(await sent(() => em.flush())).toEqual([]);
        loaded.notes.forEach((note) => (note.text += '!'));
        loaded.covers.forEach((cover) => (cover.text += '!'));
        await em.flush();
        expect(memoryOf(await load(fork()))).toEqual(memoryOf(loaded));
      });

      test(`a conflict, ${name}: nothing is written, and all of it by the next flush`, async () => {
        const { fork, state } = await setUp();
        const em = fork();
        const loaded = await load(em);
        await fork().nativeUpdate(Note, 2, { text: 'theirs' });
        const before = await state();
        change(loaded, em);
        loaded.notes[1]!.text = 'mine';
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect((error as unknown as ConcurrentUpdate).conflicts.map(({ entity }) => entity)).toEqual([loaded.notes[1]]);
        expect(await state()).toEqual(before);
        await em.refresh(loaded.notes[1]!);
        loaded.notes[1]!.text = 'mine';
        await em.flush();

        const other = await setUp();
        const straight = other.fork();
        const same = await load(straight);
        await straight.refresh(same.notes[1]!);
        change(same, straight);
        same.notes[1]!.text = 'mine';
        await straight.flush();
        const expected = await other.state();
        (expected.notes.find((row) => Number(row.id) === 2) as { version: number }).version++;
        expect(await state()).toEqual(expected);
      });
    }

    test('new rows that refer to each other are inserted in a transaction: one of the keys is written behind', async () => {
      const { fork, sent, state } = await setUp();
      expect((await state()).notes).toHaveLength(5);
      const em = fork();
      const [a, b] = [1, 2].map((key) => em.create(Reply, { id: key } as never));
      a!.to = b!;
      b!.to = a!;
      const statements = await sent(() => em.flush());
      expect(statements[0]).toMatch(/^(begin|start transaction)/);
      const read = await fork().find(Reply, {}, { orderBy: { id: 'asc' } });
      expect(read.map((one) => [nameOf(one.to), one.version])).toEqual([
        ['Reply 2', 1],
        ['Reply 1', 1],
      ]);
    });
  });
}
