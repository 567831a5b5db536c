/** flushEach() with schemas, composite keys, inheritance and columns that do not count. */
/* oxlint-disable typescript/no-explicit-any -- entities of any shape */
import { randomUUID } from 'node:crypto';
import { type EntityManager, type EntitySchema, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { flushEach } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../../../driver/test/harness.ts';

type Item = Record<string, any>;

const id = () => p.integer().primary();
const version = () => p.type(VersionField);

const Part = defineEntity({ name: 'Part', properties: { id: id() } });
const Line = defineEntity({
  name: 'Line',
  properties: {
    part: () => p.manyToOne(Part).primary(),
    no: p.integer().primary(),
    text: p.string(),
    version: version(),
  },
});

/** Animals in one table or in one each; the version is one of all of them, or of dogs only. */
function zoo(joined: boolean, owner: 'Animal' | 'Dog') {
  const own = (name: string) => (name === owner ? { version: version() } : {});
  const Animal = defineEntity({
    name: 'Animal',
    ...(joined ? { inheritance: 'tpt' as const } : { discriminatorColumn: 'kind', discriminatorValue: 'animal' }),
    properties: { id: id(), ...(joined ? {} : { kind: p.string() }), text: p.string(), ...own('Animal') },
  });
  const value = (kind: string) => (joined ? {} : { discriminatorValue: kind });
  const Dog = defineEntity({
    name: 'Dog',
    extends: Animal as any,
    ...value('dog'),
    properties: { breed: p.string().nullable(), ...own('Dog') } as any,
  });
  const Puppy = defineEntity({
    name: 'Puppy',
    extends: Dog as any,
    ...value('puppy'),
    properties: { toy: p.string().nullable() } as any,
  });
  return [Animal, Dog, Puppy] as unknown as EntitySchema<any>[];
}

export function flushesEachShape(driver: TestDriver): void {
  describe('flushEach, shapes', () => {
    /** Loads, lets a rival change some, changes all, and flushes. Returns keys of conflicts. */
    const contest = async (
      mine: EntityManager,
      hers: EntityManager,
      Class: EntitySchema<any>,
      isStale: (item: Item) => boolean,
      property = 'text',
    ) => {
      const items: Item[] = await mine.find(Class, {} as any, { orderBy: { id: 'asc' } as any });
      const others: Item[] = await hers.find(Class, {} as any);
      others.filter(isStale).forEach((item) => (item[property] = 'theirs'));
      await hers.flush();
      items.forEach((item) => (item[property] = 'mine'));
      const result = await flushEach(mine);
      expect(result.saved).toHaveLength(items.length - items.filter(isStale).length);
      expect(new Set(result.conflicts.map(({ entity }) => entity))).toEqual(new Set(items.filter(isStale)));
      return { items, ...result };
    };

    test('a composite key with a relation in it', async () => {
      const { fork, sent } = await open(driver, [Part, Line]);
      const seed = fork();
      const part = seed.create(Part, { id: 1 });
      [1, 2, 3].forEach((no) => seed.create(Line, { part, no, text: 'old' }));
      await seed.flush();
      const [mine, hers] = [fork(), fork()];
      const items: Item[] = await mine.find(Line, {});
      (await hers.findOneOrFail(Line, { no: 2 })).text = 'theirs';
      await hers.flush();
      items.forEach((item) => (item['text'] = 'mine'));
      let result: Awaited<ReturnType<typeof flushEach>> | undefined;
      const log = await sent(async () => (result = await flushEach(mine)));
      expect(log.filter((sql) => sql.startsWith('select'))).toHaveLength(1);
      expect(result!.saved).toHaveLength(2);
      expect(result!.conflicts).toMatchObject([{ primaryKey: { part: 1, no: 2 }, expected: 1, actual: 2 }]);
      const stored = await fork().find(Line, {}, { orderBy: { no: 'asc' } });
      expect(stored.map(({ text }) => text)).toEqual(['mine', 'theirs', 'mine']);
    });

    test('rows of one class in several schemas are compared with their own', async () => {
      const names = ['north', 'south'].map((name) => `${name}_${randomUUID().slice(0, 8)}`);
      const Anywhere = defineEntity({
        name: 'Anywhere',
        schema: '*',
        properties: { id: p.integer().primary().autoincrement(false), text: p.string(), version: version() },
      });
      const { orm, sent } = await open(driver, [Anywhere], await driver.schemas(names));
      for (const schema of names) {
        await orm.schema.update({ schema });
        const seed = orm.em.fork({ schema });
        [1, 2].forEach((key) => seed.create(Anywhere, { id: key, text: 'old' }));
        await seed.flush();
      }
      const [north, south] = names as [string, string];
      const em = orm.em.fork();
      const rows = [];
      for (const schema of names) {
        rows.push(...(await em.find(Anywhere, {}, { schema, orderBy: { id: 'asc' } })));
      }
      const rival = orm.em.fork({ schema: south });
      (await rival.findOneOrFail(Anywhere, 1)).text = 'theirs';
      await rival.flush();
      rows.forEach((row) => (row.text = 'mine'));
      let result: Awaited<ReturnType<typeof flushEach>> | undefined;
      const log = await sent(async () => (result = await flushEach(em)));
      expect(log.filter((sql) => sql.startsWith('select'))).toHaveLength(2);
      // found by the SELECT: the flush is sent once
      expect(log.filter((sql) => /^(with|update)/.test(sql)).length).toBeLessThanOrEqual(driver.batches ? 2 : 3);
      expect(result!.saved).toEqual([rows[0], rows[1], rows[3]]);
      expect(result!.conflicts.map(({ entity }) => entity)).toEqual([rows[2]]);
      const texts = async (schema: string) =>
        (await orm.em.fork({ schema }).find(Anywhere, {}, { orderBy: { id: 'asc' } })).map(({ text }) => text);
      expect([await texts(north), await texts(south)]).toEqual([
        ['mine', 'mine'],
        ['theirs', 'mine'],
      ]);
    });

    for (const joined of [false, true]) {
      for (const owner of ['Animal', 'Dog'] as const) {
        test(`${joined ? 'joined' : 'single'}-table inheritance, the version on ${owner}`, async () => {
          const entities = zoo(joined, owner);
          const [Animal, Dog, Puppy] = entities as [EntitySchema<any>, EntitySchema<any>, EntitySchema<any>];
          const { fork, sent } = await open(driver, entities);
          const seed = fork();
          [Dog, Puppy, Dog, Puppy, Dog, Puppy].forEach((Class, i) =>
            seed.create(Class, { id: i + 1, text: 'old' } as any),
          );
          await seed.flush();
          for (const [property, stale] of [
            ['text', 1],
            ['breed', 2],
          ] as const) {
            const log = await sent(async () => {
              const { conflicts } = await contest(
                fork(),
                fork(),
                owner === 'Animal' ? Animal : Dog,
                (item) => item['id'] === stale || item['id'] === stale + 3,
                property,
              );
              // MikroORM loads joined tables below the root as the class that was asked for
              const second = joined && owner === 'Dog' ? 'Dog' : 'Puppy';
              expect(conflicts.map(({ entityName }) => entityName).toSorted()).toEqual(['Dog', second]);
            });
            expect(log.filter((sql) => sql.startsWith('select'))).toHaveLength(3);
            const values = (await fork().find(Dog, {}, { orderBy: { id: 'asc' } })).map((item: Item) => item[property]);
            expect(values.filter((value: string) => value === 'theirs')).toHaveLength(2);
            expect(values.filter((value: string) => value === 'mine')).toHaveLength(4);
          }
        });
      }
    }

    test('columns that the version does not cover: never stale by themselves, found by the SELECT with others', async () => {
      const Stats = defineEntity({ name: 'Stats', embeddable: true, properties: { views: p.integer().default(0) } });
      const Post = defineEntity({
        name: 'Post',
        properties: {
          id: id(),
          text: p.string(),
          likes: p.integer().default(0),
          stats: () => p.embedded(Stats),
          version: p.type(new VersionField({ exclude: ['likes', 'stats'] })),
        },
      });
      const { fork, sent } = await open(driver, [Post, Stats] as EntitySchema[]);
      const seed = fork();
      [1, 2, 3, 4].forEach((key) => seed.create(Post, { id: key, text: 'old', stats: {} }));
      await seed.flush();
      const [mine, hers] = [fork(), fork()];
      const posts = await mine.find(Post, {}, { orderBy: { id: 'asc' } });
      (await hers.find(Post, { id: { $in: [1, 2, 3] } })).forEach((post) => (post.text = 'theirs'));
      await hers.flush();
      posts[0]!.likes = 7;
      posts[1]!.stats.views = 7;
      Object.assign(posts[2]!, { text: 'mine', likes: 7 });
      posts[3]!.text = 'mine';
      let result: Awaited<ReturnType<typeof flushEach>> | undefined;
      const log = await sent(async () => (result = await flushEach(mine)));
      expect(log.filter((sql) => /^select .*(3, 4|\[3,4\]|\{3,4\})/.test(sql)).length).toBeGreaterThanOrEqual(1);
      expect(result!.saved).toEqual([posts[0], posts[1], posts[3]]);
      expect(result!.conflicts).toMatchObject([{ primaryKey: 3, expected: 1, actual: 2 }]);
      const stored = await fork().find(Post, {}, { orderBy: { id: 'asc' } });
      expect(stored.map(({ text, likes, stats, version: now }) => [text, likes, stats.views, now])).toEqual([
        ['theirs', 7, 0, 2],
        ['theirs', 0, 7, 2],
        ['theirs', 0, 0, 2],
        ['mine', 0, 0, 2],
      ]);
    });
  });
}
