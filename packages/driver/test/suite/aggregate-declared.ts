/** Aggregates, however they are declared: links with a class of their own, other keys, schemas, EntitySchema. */
import { randomUUID } from 'node:crypto';
import { Cascade, type EntityManager, EntitySchema, type Opt, defineEntity, p } from '@mikro-orm/core';
import { BaseMySqlPlatform } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, VersionNotLoaded } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const version = (...aggregate: string[]) => p.type(new VersionField({ aggregate }));

export function aggregatesDeclared(driver: TestDriver): void {
  describe('aggregates, however they are declared', () => {
    test('the links of an m:n that have a class of their own', async () => {
      const Post = defineEntity({
        name: 'Post',
        properties: {
          id: p.integer().primary(),
          labels: () =>
            p
              .manyToMany(Label)
              .pivotEntity(() => Link)
              .inversedBy('posts'),
          version: version('labels'),
        },
      });
      const Label = defineEntity({
        name: 'Label',
        properties: { id: p.integer().primary(), posts: () => p.manyToMany(Post).mappedBy('labels') },
      });
      const Link = defineEntity({
        name: 'Link',
        properties: {
          post: () => p.manyToOne(Post).primary(),
          label: () => p.manyToOne(Label).primary(),
          place: p.integer().default(0),
        },
      });
      const { fork, sent } = await open(driver, [Post, Label, Link] as EntitySchema[]);
      const seed = fork();
      const labels = [1, 2, 3].map((id) => seed.create(Label, { id }));
      seed.create(Post, { id: 1, labels: [labels[0]!] });
      await seed.flush();
      const em = fork();
      const post = await em.findOneOrFail(Post, 1);
      const [link] = await em.find(Link, {});
      const bumps = async (work: () => unknown, expected: number) => {
        await work();
        await em.flush();
        expect([post.version, (await fork().findOneOrFail(Post, 1)).version]).toEqual([expected, expected]);
      };
      await bumps(() => link!.place++, 2);
      await bumps(() => em.create(Link, { post, label: em.getReference(Label, 2) }), 3);
      await bumps(() => em.remove(link!), 4);
      await bumps(() => post.labels.add(em.getReference(Label, 3)), 5);
      await bumps(async () => (await em.findOneOrFail(Label, 3, { populate: ['posts'] })).posts.removeAll(), 6);
      const alone = fork();
      (await alone.findOneOrFail(Link, { label: 2 })).place = 7;
      let error: unknown;
      expect(await sent(async () => (error = await thrown(() => alone.flush())))).toEqual([]);
      expect(error).toBeInstanceOf(VersionNotLoaded);
      expect((error as Error).message).toMatch(/^Post\.version is not known.*along with Link\.post: load it/);
    });

    for (const mapToPk of [false, true]) {
      test(`a part whose root was removed before, ${mapToPk ? 'by its key' : 'by a relation'}`, async () => {
        const Box = defineEntity({
          name: 'Box',
          properties: {
            id: p.integer().primary(),
            toys: () => p.oneToMany(Toy).mappedBy('box' as never),
            version: version('toys'),
          },
        });
        const Toy = defineEntity({
          name: 'Toy',
          properties: {
            id: p.integer().primary(),
            text: p.string().nullable(),
            box: () => {
              const relation = p.manyToOne(Box).nullable().deleteRule('set null');
              return (mapToPk ? relation.mapToPk() : relation) as typeof relation;
            },
          },
        });
        const { fork } = await open(driver, [Box, Toy] as EntitySchema[]);
        const seed = fork();
        seed.create(Box, { id: 1 });
        await seed.flush();
        await seed.insertMany(Toy, [1, 2].map((id) => ({ id, box: 1 })) as never);
        const em = fork();
        const box = await em.findOneOrFail(Box, 1);
        const [changed, removed] = await em.find(Toy, {}, { orderBy: { id: 'asc' } });
        em.remove(box);
        await em.flush();
        changed!.text = 'new';
        await em.flush();
        changed!.text = 'newer';
        await em.flush();
        em.remove(removed!);
        await em.flush();
        const left = await fork().find(Toy, {});
        expect(left.map(({ id, text, box: now }) => [id, text, now])).toEqual([[1, 'newer', null]]);
      });
    }

    test('a part that was new, has moved and was read again in part', async () => {
      const Nest = defineEntity({
        name: 'Nest',
        properties: {
          id: p.integer().primary(),
          eggs: () => p.oneToMany(Egg).mappedBy('nest'),
          version: version('eggs'),
        },
      });
      const Egg = defineEntity({
        name: 'Egg',
        properties: { id: p.integer().primary(), text: p.string(), nest: () => p.manyToOne(Nest).nullable() },
      });
      const { fork } = await open(driver, [Nest, Egg] as EntitySchema[]);
      const em = fork();
      const nests = [1, 2].map((id) => em.create(Nest, { id }));
      const egg = em.create(Egg, { id: 1, text: 'old' });
      await em.flush();
      const versions = async () => {
        await em.flush();
        const found = await fork().find(Nest, {}, { orderBy: { id: 'asc' } });
        expect(nests.map((nest) => nest.version)).toEqual(found.map((nest) => nest.version));
        return found.map((nest) => nest.version);
      };
      egg.text = 'free';
      expect(await versions()).toEqual([1, 1]);
      egg.nest = nests[0]!;
      expect(await versions()).toEqual([2, 1]);
      await em.refresh(egg, { fields: ['text'] as never });
      egg.nest = nests[1]!;
      expect(await versions()).toEqual([3, 2]);
      egg.nest = undefined;
      expect(await versions()).toEqual([3, 3]);
      egg.text = 'free again';
      expect(await versions()).toEqual([3, 3]);
    });

    for (const key of ['given', 'generated']) {
      test(`a new part with a ${key} key, taken out again before it was saved, is no change`, async () => {
        const Shelf = defineEntity({
          name: 'Shelf',
          properties: {
            id: p.integer().primary(),
            books: () => p.oneToMany(Book).mappedBy('shelf').orphanRemoval(),
            version: version('books'),
          },
        });
        const Book = defineEntity({
          name: 'Book',
          properties: { id: p.integer().primary(), shelf: () => p.manyToOne(Shelf) },
        });
        const { fork } = await open(driver, [Shelf, Book] as EntitySchema[]);
        await fork().insert(Shelf, { id: 1 });
        const em = fork();
        const shelf = await em.findOneOrFail(Shelf, 1, { populate: ['books'] });
        const book = em.create(Book, { ...(key === 'given' ? { id: 7 } : {}), shelf });
        shelf.books.remove(book);
        await em.flush();
        expect([shelf.version, await fork().count(Book)]).toEqual([1, 0]);
      });
    }

    test('a unique value that moves from one part to another, which has another root', async () => {
      const Rack = defineEntity({
        name: 'Rack',
        properties: {
          id: p.integer().primary(),
          badges: () => p.oneToMany(Badge).mappedBy('rack'),
          version: version('badges'),
        },
      });
      const Badge = defineEntity({
        name: 'Badge',
        properties: {
          id: p.integer().primary(),
          code: p.string().nullable().unique(),
          rack: () => p.manyToOne(Rack),
        },
      });
      const { fork } = await open(driver, [Rack, Badge] as EntitySchema[]);
      const seed = fork();
      seed.create(Rack, { id: 1, badges: [{ id: 1, code: 'x' }] });
      seed.create(Rack, { id: 2, badges: [{ id: 2 }] });
      await seed.flush();
      const em = fork();
      const [one, two] = await em.find(Rack, {}, { populate: ['badges'], orderBy: { id: 'asc' } });
      one!.badges[0]!.code = null;
      two!.badges[0]!.code = 'x';
      await em.flush();
      const found = await fork().find(Rack, {}, { populate: ['badges'], orderBy: { id: 'asc' } });
      expect(found.map((rack) => [rack.version, rack.badges[0]!.code])).toEqual([
        [2, null],
        [2, 'x'],
      ]);
    });

    test('a part that has the key of its root and no relation: the root is to be loaded, not along with it', async () => {
      const Wall = defineEntity({
        name: 'Wall',
        properties: {
          id: p.integer().primary(),
          bricks: () => p.oneToMany(Brick).mappedBy('wall' as never),
          version: version('bricks'),
        },
      });
      const Brick = defineEntity({
        name: 'Brick',
        properties: { id: p.integer().primary(), text: p.string(), wall: () => p.manyToOne(Wall).mapToPk() },
      });
      const { fork } = await open(driver, [Wall, Brick] as EntitySchema[]);
      await fork().insert(Wall, { id: 1 });
      await fork().insert(Brick, { id: 1, text: 'old', wall: 1 } as never);
      const em = fork();
      (await em.findOneOrFail(Brick, 1)).text = 'new';
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(VersionNotLoaded);
      expect(error.message).not.toMatch(/along with/);
    });

    test('joined tables: a column of one of them that a part excludes', async () => {
      class Kit {
        id!: number;
        tools!: object;
        version!: Opt<number>;
      }
      class Tool {
        id!: number;
        kit!: Kit;
        version!: Opt<number>;
      }
      class Drill extends Tool {
        turns!: Opt<number>;
      }
      const kit: EntitySchema = defineEntity({
        class: Kit,
        properties: {
          id: p.integer().primary(),
          tools: () => p.oneToMany(tool).mappedBy('kit'),
          version: version('tools'),
        },
      } as never) as EntitySchema;
      const tool: EntitySchema = defineEntity({
        class: Tool,
        inheritance: 'tpt',
        properties: {
          id: p.integer().primary(),
          kit: () => p.manyToOne(kit),
          version: p.type(new VersionField({ exclude: ['turns'] })),
        },
      } as never) as EntitySchema;
      const drill = defineEntity({
        class: Drill,
        extends: tool,
        properties: { turns: p.integer().default(0) },
      } as never) as EntitySchema;
      const { fork } = await open(driver, [kit, tool, drill]);
      const seed = fork();
      seed.create(Drill, { id: 1, kit: seed.create(Kit, { id: 1 } as never) } as never);
      await seed.flush();
      const em = fork();
      const [root, part] = [await em.findOneOrFail(Kit, 1), await em.findOneOrFail(Drill, 1)];
      part.turns = 7;
      await em.flush();
      expect([root.version, part.version]).toEqual([1, 1]);
      expect(await fork().findOneOrFail(Kit, 1)).toMatchObject({ version: 1 });
      expect(await fork().findOneOrFail(Drill, 1)).toMatchObject({ turns: 7, version: 1 });
    });

    test('parts that are removed along with their root, which is checked', async () => {
      const Tree = defineEntity({
        name: 'Tree',
        properties: {
          id: p.integer().primary(),
          apples: () => p.oneToMany(Apple).mappedBy('tree').cascade(Cascade.ALL),
          version: version('apples'),
        },
      });
      const Apple = defineEntity({
        name: 'Apple',
        properties: { id: p.integer().primary(), text: p.string().nullable(), tree: () => p.manyToOne(Tree) },
      });
      const { fork } = await open(driver, [Tree, Apple] as EntitySchema[]);
      const seed = fork();
      seed.create(Tree, { id: 1, apples: [{ id: 1 }, { id: 2 }] });
      await seed.flush();
      const load = (em: EntityManager) => em.findOneOrFail(Tree, 1, { populate: ['apples'] });
      const [em, rival] = [fork(), fork()];
      const [mine, theirs] = [await load(em), await load(rival)];
      theirs.apples[0]!.text = 'theirs';
      await rival.flush();
      em.remove(mine);
      expect(await thrown(() => em.flush())).toMatchObject({
        conflicts: [{ entityName: 'Tree', operation: 'delete', expected: 1, actual: 2 }],
      });
      expect(await fork().count(Apple)).toBe(2);
      await em.refresh(mine);
      em.remove(mine);
      await em.flush();
      expect([await fork().count(Tree), await fork().count(Apple)]).toEqual([0, 0]);
    });

    test('EntitySchema, and a tree whose nodes are roots and parts', async () => {
      class Node {
        id!: number;
        text!: string | null;
        parent!: Node | null;
        children!: object;
        version!: Opt<number>;
      }
      const schema = new EntitySchema<Node>({
        class: Node,
        properties: {
          id: { type: 'integer', primary: true },
          text: { type: 'string', nullable: true },
          parent: { kind: 'm:1', entity: () => Node, nullable: true, inversedBy: 'children' },
          children: { kind: '1:m', entity: () => Node, mappedBy: 'parent' },
          version: { type: new VersionField({ aggregate: ['children'] }) },
        } as never,
      });
      const { fork } = await open(driver, [schema]);
      const seed = fork();
      const top = seed.create(Node, { id: 1 } as never);
      const middle = seed.create(Node, { id: 2, parent: top } as never);
      [3, 4].forEach((id) => seed.create(Node, { id, parent: middle } as never));
      await seed.flush();
      const em = fork();
      const nodes = await em.find(Node, {}, { orderBy: { id: 'asc' } });
      nodes[2]!.text = 'new';
      await em.flush();
      const versions = async () =>
        (await fork().find(Node, {}, { orderBy: { id: 'asc' } })).map((node) => node.version);
      expect(await versions()).toEqual([2, 2, 2, 1]);
      expect(nodes.map((node) => node.version)).toEqual([2, 2, 2, 1]);
      const stale = fork();
      const [, , , leaf] = await stale.find(Node, {}, { orderBy: { id: 'asc' } });
      nodes[0]!.text = 'new';
      await em.flush();
      leaf!.text = 'stale';
      const error = (await thrown(() => stale.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts).toMatchObject([{ primaryKey: 1, expected: 2, actual: 3, parts: ['children'] }]);
      expect(await versions()).toEqual([3, 2, 2, 1]);
    });
  });

  describe('aggregates in schemas', () => {
    // to some databases a schema is another database
    const [north, south] = ['north', 'south'].map((name) => `${name}_${randomUUID().slice(0, 8)}`) as [string, string];
    const declare = (schema?: string, suffix = '', schemaOfParts = schema) => {
      const Hut = defineEntity({
        name: `Hut${suffix}`,
        tableName: 'hut',
        schema,
        properties: {
          id: p.integer().primary().autoincrement(false),
          beds: () => p.oneToMany(Bed).mappedBy('hut').cascade(Cascade.PERSIST),
          version: version('beds'),
        },
      });
      const Bed = defineEntity({
        name: `Bed${suffix}`,
        tableName: 'bed',
        schema: schemaOfParts,
        properties: {
          id: p.integer().primary().autoincrement(false),
          text: p.string().nullable(),
          hut: () => p.manyToOne(Hut).createForeignKeyConstraint(false),
        },
      });
      return [Hut, Bed] as const;
    };
    const kinds = { 'a fixed schema': north, 'a wildcard schema': '*', 'the schema of the EntityManager': undefined };
    for (const [name, schema] of Object.entries(kinds)) {
      test(name, async () => {
        const [Hut, Bed] = declare(schema);
        // the wildcard entities make the tables for those that have no schema at all
        const makers = schema ? [] : declare('*', 'Maker');
        const db = await open(driver, [Hut, Bed, ...makers] as EntitySchema[], await driver.schemas([north, south]));
        const places = schema === north ? [north] : [north, south];
        for (const place of places) {
          if (!schema && db.orm.em.getPlatform() instanceof BaseMySqlPlatform) {
            await db.fork().getConnection().execute(`create table ${place}.hut like hut`);
            await db.fork().getConnection().execute(`create table ${place}.bed like bed`);
          } else if (schema !== north) {
            await db.orm.schema.update({ schema: place });
          }
          const em = db.orm.em.fork({ schema: place });
          em.create(Hut, { id: 1, beds: [{ id: 1 }, { id: 2 }] });
          await em.flush();
        }
        for (const place of places) {
          const em = db.orm.em.fork({ schema: place });
          const hut = await em.findOneOrFail(Hut, 1, { populate: ['beds'] });
          const steps = [
            () => (hut.beds[0]!.text = 'new'),
            () => em.create(Bed, { id: 3, hut }),
            () => em.remove(hut.beds[1]!),
          ];
          for (const [i, step] of steps.entries()) {
            step();
            await em.flush();
            const versions = await Promise.all(
              places.map(async (one) => (await db.orm.em.fork({ schema: one }).findOneOrFail(Hut, 1)).version),
            );
            const before = places.map((one) => (places.indexOf(one) < places.indexOf(place) ? 4 : 1));
            expect(versions).toEqual(before.map((start, at) => (places[at] === place ? i + 2 : start)));
            expect(hut.version).toBe(i + 2);
          }
          const alone = db.orm.em.fork({ schema: place });
          (await alone.findOneOrFail(Bed, 1)).text = 'late';
          expect(await thrown(() => alone.flush())).toBeInstanceOf(VersionNotLoaded);
        }
      });
    }

    test('each in one of its own', async () => {
      const [Hut, Bed] = declare(north, '', south);
      const { fork } = await open(driver, [Hut, Bed] as EntitySchema[], await driver.schemas([north, south]));
      const em = fork();
      em.create(Hut, { id: 1, beds: [{ id: 1 }] });
      await em.flush();
      em.clear();
      const hut = await em.findOneOrFail(Hut, 1);
      (await em.findOneOrFail(Bed, 1)).text = 'new';
      await em.flush();
      expect([hut.version, (await fork().findOneOrFail(Hut, 1)).version]).toEqual([2, 2]);
    });
  });
}
