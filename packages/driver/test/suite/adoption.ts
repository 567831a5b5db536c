/** An integer `version: true` is taken over by the driver alone: the same columns, the same API, our lock. */
import { EntitySchema, LockMode, MikroORM, type Opt, defineEntity, p, wrap } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, refusal, testUnless, thrown } from '../harness.ts';

type Entities = Parameters<typeof open>[1];

const content = { id: p.integer().primary(), title: p.string() };
const declared = (version: unknown) =>
  defineEntity({ name: 'Article', properties: { ...content, version } as never }) as unknown as EntitySchema;
const schema = (version: object) =>
  new EntitySchema<Article>({
    name: 'Article',
    properties: { id: { type: 'number', primary: true }, title: { type: 'string' }, version } as never,
  });

class Article {
  id!: number;
  title!: string;
  version!: Opt<number>;
}
class Initialised {
  id!: number;
  title!: string;
  version: Opt<number> = 5;
}
const InitialisedSchema = new EntitySchema({
  class: Initialised,
  properties: {
    id: { type: 'number', primary: true },
    title: { type: 'string' },
    version: { type: 'number', version: true },
  },
});
const AbstractBase = defineEntity({
  name: 'AbstractBase',
  abstract: true,
  properties: { id: content.id, version: p.integer().version() },
});
const Concrete = defineEntity({ name: 'Concrete', extends: AbstractBase, properties: { title: content.title } });
const Single = defineEntity({
  name: 'Single',
  discriminatorColumn: 'kind',
  discriminatorValue: 'root',
  properties: { ...content, version: p.integer().version() },
});
const SingleChild = defineEntity({
  name: 'SingleChild',
  extends: Single,
  discriminatorValue: 'child',
  properties: { extra: p.string().nullable() },
});
const Bare = defineEntity({
  name: 'Bare',
  discriminatorColumn: 'kind',
  discriminatorValue: 'root',
  properties: content,
});
const BareChild = defineEntity({
  name: 'BareChild',
  extends: Bare,
  discriminatorValue: 'child',
  properties: { version: p.integer().version() },
});
const Joined = defineEntity({
  name: 'Joined',
  inheritance: 'tpt',
  properties: { id: content.id, version: p.integer().version() },
});
const JoinedChild = defineEntity({ name: 'JoinedChild', extends: Joined, properties: { title: content.title } });

/** The entities, the last of which is written; `initial` is the version of a new row. */
const declarations: Record<string, { entities: EntitySchema[]; initial?: number }> = {
  'p.integer()': { entities: [declared(p.integer().version())] },
  'p.smallint()': { entities: [declared(p.smallint().version())] },
  'p.tinyint()': { entities: [declared(p.tinyint().version())] },
  "p.bigint('number')": { entities: [declared(p.bigint('number').version())] },
  unsigned: { entities: [declared(p.integer().unsigned().version())] },
  'a column name of its own': { entities: [declared(p.integer().version().fieldName('lock "no"'))] },
  'a column type of its own': { entities: [declared(p.integer().version().columnType('smallint'))] },
  'default 0': { entities: [declared(p.integer().version().default(0))], initial: 0 },
  'a raw default': { entities: [declared(p.integer().version().defaultRaw('7'))], initial: 7 },
  'an index and a comment': { entities: [declared(p.integer().version().index().comment('the lock'))] },
  "EntitySchema, type 'number'": { entities: [schema({ type: 'number', version: true })] },
  "EntitySchema, type 'integer'": { entities: [schema({ type: 'integer', version: true })] },
  'EntitySchema, type Number': { entities: [schema({ type: Number, version: true })] },
  'EntitySchema, bigint as number': { entities: [schema({ type: 'bigint', runtimeType: 'number', version: true })] },
  'a default by initialiser': { entities: [InitialisedSchema], initial: 5 },
  'an abstract base': { entities: [AbstractBase, Concrete] },
  'single-table inheritance': { entities: [Single, SingleChild] },
  'single-table inheritance, on a child only': { entities: [Bare, BareChild] },
  'joined-table inheritance': { entities: [Joined, JoinedChild] },
};

/** MikroORM's own driver class, which ours extends. */
const unwrapped = <T>(versionedDriver: T): T => Object.getPrototypeOf(versionedDriver) as T;

export function adoption(driver: TestDriver): void {
  describe('adoption', () => {
    for (const [name, { entities, initial = 1 }] of Object.entries(declarations)) {
      const testSchema =
        name === 'single-table inheritance' ? testUnless(driver, 'comparison of single-table schemas') : test;
      testSchema(`${name}: the same schema, and locked`, async () => {
        const options = await driver.create();
        const plain = new MikroORM({ ...options, driver: unwrapped(options.driver), entities } as never);
        const ddl = await plain.schema.getCreateSchemaSQL();
        await plain.close(true);
        const { orm, fork } = await open(driver, entities);
        expect(await orm.schema.getCreateSchemaSQL()).toBe(ddl);
        expect(await orm.schema.getUpdateSchemaSQL()).toBe('');

        const entity = entities.at(-1) as unknown as EntitySchema<Article>;
        const em = fork();
        const ours = [1, 2, 3].map((id) => em.create(entity, { id, title: 'new' }));
        await em.flush();
        expect(ours.map((row) => row.version)).toEqual([initial, initial, initial]);
        const theirs = fork();
        (await theirs.findOneOrFail(entity, 2)).title = 'theirs';
        await theirs.flush();
        ours.forEach((row) => (row.title = 'ours'));
        expect(await thrown(() => em.flush())).toMatchObject({
          name: 'ConcurrentUpdate',
          conflicts: [{ primaryKey: 2, expected: initial, actual: initial + 1 }],
        });
        await em.refresh(ours[1]!);
        ours[1]!.title = 'ours';
        await em.flush();
        const rows = await fork().find(entity, {}, { orderBy: { id: 'asc' } });
        expect(rows.map((row) => [row.title, row.version])).toEqual([
          ['ours', initial + 1],
          ['ours', initial + 2],
          ['ours', initial + 1],
        ]);
        const stale = fork();
        const gone = await stale.findOneOrFail(entity, 3);
        ours[2]!.title = 'later';
        await em.flush();
        expect(await thrown(() => stale.remove(gone).flush())).toMatchObject({
          conflicts: [{ operation: 'delete', primaryKey: 3, expected: initial + 1, actual: initial + 2 }],
        });
      });
    }
  });

  test('unsigned counts further only where the database has unsigned columns', async () => {
    const { fork, orm, sent } = await open(driver, [declared(p.integer().unsigned().version())]);
    const em = fork();
    em.create('Article' as never, { id: 1, title: 'new', version: 3_000_000_000 } as never);
    if (orm.em.getPlatform().supportsUnsigned()) {
      await em.flush();
      return expect(await fork().findOne('Article' as never, 1 as never)).toMatchObject({ version: 3_000_000_000 });
    }
    expect(await sent(async () => expect(await thrown(() => em.flush())).toBeInstanceOf(InvalidVersion))).toEqual([]);
  });

  describe('an adopted entity', () => {
    const Note = defineEntity({
      name: 'Note',
      properties: { id: p.integer().primary(), title: p.string(), body: p.string(), version: p.integer().version() },
    });
    const setUp = async () => {
      const db = await open(driver, [Note]);
      const em = db.fork();
      // `version` is as optional as before
      [1, 2].forEach(() => em.create(Note, { title: 'saved', body: 'body' }));
      await em.flush();
      const row = async (id = 1) => {
        const [found] = await db
          .fork()
          .getConnection()
          .execute<{ title: string; version: number }[]>(`select title, version from note where id = ${id}`);
        return found;
      };
      return { ...db, row };
    };

    test('what is loaded in part is checked, and serialises as before', async () => {
      const { fork } = await setUp();
      const em = fork();
      const [note] = await em.find(Note, { id: 1 }, { fields: ['title'] });
      expect(JSON.parse(JSON.stringify(note))).toEqual({ id: 1, title: 'saved' });
      await fork().nativeUpdate(Note, { id: 1 }, { body: 'theirs' });
      note!.title = 'ours';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      const whole = await fork().findOneOrFail(Note, 1);
      expect(JSON.parse(JSON.stringify(whole))).toEqual({ id: 1, title: 'saved', body: 'theirs', version: 2 });
      expect(wrap(whole).toObject().version).toBe(2);
    });

    test('a version that is assigned is a claim; without one nothing is sent', async () => {
      const { fork, row, sent } = await setUp();
      const em = fork();
      em.assign(em.getReference(Note, 1), { title: 'claimed', version: 1 });
      const log = await sent(() => em.flush());
      expect(log.some((sql) => sql.startsWith('select'))).toBe(false);
      expect(await row()).toEqual({ title: 'claimed', version: 2 });
      const late = fork();
      late.assign(await late.findOneOrFail(Note, 1), { title: 'late', version: 1 });
      expect(await thrown(() => late.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
      for (const [version, refused] of [
        [null, VersionNotLoaded],
        ['2', InvalidVersion],
        [2 ** 40, InvalidVersion],
      ] as const) {
        const wrong = fork();
        Object.assign(await wrong.findOneOrFail(Note, 1), { title: 'wrong', version });
        expect(await sent(async () => expect(await thrown(() => wrong.flush())).toBeInstanceOf(refused))).toEqual([]);
      }
    });

    test('an upsert bumps, and so does touch()', async () => {
      const { fork, row } = await setUp();
      expect((await fork().upsert(Note, { id: 1, title: 'upserted', body: 'body', version: 1 })).version).toBe(2);
      expect(await row()).toEqual({ title: 'upserted', version: 2 });
      const em = fork();
      const note = await em.findOneOrFail(Note, 2);
      touch(note);
      await em.flush();
      expect([note.version, (await row(2))!.version]).toEqual([2, 2]);
    });

    test('em.lock() and em.clone() know the version', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const note = await em.findOneOrFail(Note, 1);
      note.title = 'original';
      await em.flush();
      await em.lock(note, LockMode.OPTIMISTIC, 2);
      expect(await thrown(() => em.lock(note, LockMode.OPTIMISTIC, 1))).toBeInstanceOf(ConcurrentUpdate);
      const copy = await em.clone(note, { body: 'another' });
      expect([copy.body, copy.version, await row(copy.id)]).toEqual(['another', 1, { title: 'original', version: 1 }]);
      copy.title = 'copy';
      await em.flush();
      expect(await row(copy.id)).toEqual({ title: 'copy', version: 2 });
    });

    test('em.insert() of an entity starts it', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const note = em.create(Note, { id: 7, title: 'inserted', body: 'body' }, { persist: false });
      await em.insert(note);
      expect([note.version, await row(7)]).toEqual([1, { title: 'inserted', version: 1 }]);
    });
  });

  describe('what adoption refuses', () => {
    const id = { id: p.integer().primary() };
    const refusals: Record<string, { entities: () => EntitySchema[]; message: RegExp }> = {
      nullable: {
        entities: () => [declared(p.integer().version().nullable())],
        message: /^Article\.version is a nullable version/,
      },
      'beside a VersionField': {
        entities: () => [
          defineEntity({ name: 'Bad', properties: { ...id, a: p.type(VersionField), b: p.integer().version() } }),
        ],
        message: /^Bad\.a is not the only version: there are a and b/,
      },
      'a Date beside a VersionField': {
        entities: () => [
          defineEntity({ name: 'Bad', properties: { ...id, a: p.datetime().version(), b: p.type(VersionField) } }),
        ],
        message: /^Bad\.a is not the only version: there are a and b/,
      },
      two: {
        entities: () => [
          defineEntity({ name: 'Bad', properties: { ...id, a: p.integer().version(), b: p.integer().version() } }),
        ],
        message: /^Bad\.a is not the only version|multiple version properties/,
      },
      'not stored': {
        entities: () => [declared(p.integer().version().persist(false))],
        message: /^Article\.version is a version, so it must be an ordinary column/,
      },
      'a default that is no integer': {
        entities: () => [declared(p.integer().version().defaultRaw('random()'))],
        message: /^Article\.version is a version with the default random\(\)/,
      },
    };
    for (const shape of ['inline', 'object', 'array']) {
      refusals[`inside an embeddable, ${shape}`] = {
        entities: () => {
          const Part = defineEntity({
            name: 'Part',
            embeddable: true,
            properties: { text: p.string(), version: p.integer().version() },
          });
          const part = p.embedded(Part);
          const embedded = shape === 'inline' ? part : shape === 'object' ? part.object() : part.array();
          return [defineEntity({ name: 'Bad', properties: { ...id, part: embedded } }), Part];
        },
        message: /version is a version inside an embeddable/,
      };
    }
    for (const [name, { entities, message }] of Object.entries(refusals)) {
      test(name, async () => {
        expect(await refusal(driver, entities())).toMatch(message);
        const { orm } = await open(driver, [declared(p.integer().version())]);
        expect(() => orm.discoverEntity(entities() as never, 'Article' as never)).toThrow(message);
      });
    }
  });

  describe('discovery after the start', () => {
    const Own = defineEntity({ name: 'Own', properties: { ...content, version: p.type(VersionField) } });
    for (const [name, entities] of [
      ['a VersionField', [Own]],
      ['version: true', [declared(p.integer().version())]],
      ['single-table inheritance', [Single, SingleChild]],
    ] as const) {
      const testSchema =
        name === 'single-table inheritance' ? testUnless(driver, 'comparison of single-table schemas') : test;
      testSchema(`orm.discoverEntity(), ${name}: locked`, async () => {
        const Other = defineEntity({ name: 'Other', properties: { ...content } });
        const { orm, fork } = await open(driver, [Other]);
        orm.discoverEntity(entities as never);
        await orm.schema.update();
        expect(await orm.schema.getUpdateSchemaSQL()).toBe('');
        const entity = entities.at(-1) as unknown as EntitySchema<Article>;
        const em = fork();
        const ours = [1, 2].map((id) => em.create(entity, { id, title: 'new' }));
        await em.flush();
        const theirs = fork();
        (await theirs.findOneOrFail(entity, 1)).title = 'theirs';
        await theirs.flush();
        expect(await thrown(() => em.lock(ours[0]!, LockMode.OPTIMISTIC, 4))).toBeInstanceOf(ConcurrentUpdate);
        ours.forEach((row) => (row.title = 'ours'));
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ primaryKey: 1, expected: 1, actual: 2 }],
        });
        const stale = fork();
        stale.remove(stale.assign(stale.getReference(entity, 1), { version: 1 } as never));
        expect(await thrown(() => stale.flush())).toMatchObject({ conflicts: [{ operation: 'delete', actual: 2 }] });
      });
    }

    test('orm.discoverEntity(), a child of a class that is adopted already', async () => {
      const { orm, fork } = await open(driver, [AbstractBase, declared(p.integer().version())]);
      orm.discoverEntity(Concrete);
      await orm.schema.update();
      const em = fork();
      const ours = em.create(Concrete, { id: 1, title: 'new' });
      await em.flush();
      await fork().nativeUpdate(Concrete, { id: 1 }, { title: 'theirs' });
      ours.title = 'ours';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });

    test('orm.discoverEntity(), a class that is discovered anew', async () => {
      const { orm, fork } = await open(driver, [declared(p.integer().version())]);
      const Again = declared(p.integer().version()) as unknown as EntitySchema<Article>;
      orm.discoverEntity(Again as never, 'Article' as never);
      const em = fork();
      const ours = em.create(Again, { id: 1, title: 'new' });
      await em.flush();
      await fork().nativeUpdate(Again, { id: 1 }, { title: 'theirs' });
      ours.title = 'ours';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });
  });

  describe('Date versions', () => {
    const warnings = async (entities: Entities, later?: EntitySchema) => {
      const options = await driver.create();
      const lines: string[] = [];
      const orm = new MikroORM({
        ...options,
        entities,
        colors: false,
        logger: (line: string) => lines.push(line),
      } as never);
      if (later) {
        orm.discoverEntity(later);
      }
      await orm.close(true);
      return lines;
    };
    const dated = (name: string) => defineEntity({ name, properties: { ...content, at: p.datetime().version() } });

    test("are MikroORM's, with one warning that names them all", async () => {
      const lines = await warnings([dated('A'), dated('B'), declared(p.integer().version())]);
      expect(lines).toHaveLength(1);
      expect(lines[0]).toContain("MikroORM's own lock stays in charge of B.at, A.at. ");
    });

    test('no Date, no warning; one that is discovered later is named then', async () => {
      expect(await warnings([declared(p.integer().version())])).toEqual([]);
      const lines = await warnings([declared(p.integer().version())], dated('A'));
      expect(lines).toHaveLength(1);
      expect(lines[0]).toContain('A.at');
    });
  });
}
