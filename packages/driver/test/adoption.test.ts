/** Taking over `version: true`, where plain MikroORM drivers, its caches and its tools are part of the story. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { EntitySchema, MikroORM, type Options, OptimisticLockError, defineEntity, p, raw } from '@mikro-orm/core';
import { Migrator } from '@mikro-orm/migrations';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { ConcurrentUpdate, InvalidVersion, touch } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { describe, expect, onTestFinished, test } from 'vitest';
import { thrown } from './harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.integer().version() },
});
class Classic {
  id!: number;
  title!: string;
  version!: number;
}
const ClassicSchema = new EntitySchema<Classic>({
  class: Classic,
  properties: {
    id: { type: 'number', primary: true },
    title: { type: 'string' },
    version: { type: 'number', version: true },
  },
});

/** A directory next to this file, from where packages are found. */
function directory(): string {
  const dir = mkdtempSync(join(import.meta.dirname, 'tmp-'));
  onTestFinished(() => rmSync(dir, { recursive: true }));
  return dir;
}

async function start(driver: typeof SqliteDriver, more: Partial<Options> = {}): Promise<MikroORM> {
  const orm = await MikroORM.init({ driver, dbName: ':memory:', entities: [Article], ...more } as Options);
  onTestFinished(() => orm.close(true));
  return orm;
}

const Versioned = versioned(SqliteDriver);

/** Loads three rows, lets somebody else change one, then changes or removes all: what is thrown, if anything. */
async function race(orm: MikroORM, entity: EntitySchema, remove = false): Promise<Error | undefined> {
  const seed = orm.em.fork();
  await seed.nativeDelete(entity, {});
  [1, 2, 3].forEach((id) => seed.create(entity, { id, title: 'new' } as never));
  await seed.flush();
  const ours = orm.em.fork();
  const rows = await ours.find(entity, {}, { orderBy: { id: 'asc' } as never });
  const theirs = orm.em.fork();
  Object.assign((await theirs.findOneOrFail(entity, 2)) as object, { title: 'theirs' });
  await theirs.flush();
  if (remove) {
    ours.remove(rows);
  } else {
    rows.forEach((row) => Object.assign(row as object, { title: 'ours' }));
  }
  try {
    await ours.flush();
    return undefined;
  } catch (error) {
    return error as Error;
  }
}

async function expectLocked(orm: MikroORM, entity: EntitySchema): Promise<void> {
  expect(await race(orm, entity)).toMatchObject({ conflicts: [{ operation: 'update', expected: 1, actual: 2 }] });
  expect(await race(orm, entity, true)).toMatchObject({ conflicts: [{ operation: 'delete', expected: 1, actual: 2 }] });
  const em = orm.em.fork();
  const row = (await em.findOneOrFail(entity, 1)) as { version: number; title: string };
  touch(row);
  await em.flush();
  expect(row.version).toBe(2);
  row.title = 'dirty';
  await orm.em.fork().nativeUpdate(entity, { id: 1 } as never, { title: 'theirs' } as never);
  await em.find(entity, {});
  expect(row.version).toBe(2);
  await expect(em.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
  const inserting = orm.em.fork();
  const inserted = inserting.create(entity, { id: 4, title: 'new' } as never, { persist: false }) as object;
  Object.assign(inserted, { version: '1' });
  await expect(inserting.insert(inserted)).rejects.toBeInstanceOf(InvalidVersion);
  Object.assign(inserted, { version: undefined });
  await inserting.insert(inserted);
  expect(inserted).toMatchObject({ version: 1 });
}

/** MikroORM's own lock: a batch is checked by a SELECT, a single row by its UPDATE, a delete by nothing. */
async function expectMikroOrms(orm: MikroORM, entity: EntitySchema): Promise<void> {
  const error = await race(orm, entity);
  expect(error).toBeInstanceOf(OptimisticLockError);
  expect(error).not.toBeInstanceOf(ConcurrentUpdate);
  expect(await race(orm, entity, true)).toBeUndefined();
  const em = orm.em.fork();
  em.create(entity, { id: 1, title: 'new' } as never);
  await em.flush();
  const row = (await em.findOneOrFail(entity, 1)) as object;
  expect(() => touch(row)).toThrow(/has no VersionField/);
  const inserting = orm.em.fork();
  const inserted = inserting.create(entity, { id: 4, title: 'new' } as never, { persist: false }) as {
    version: number;
  };
  await inserting.insert(inserted);
  expect(inserted.version).toBe(1);
}

describe('several ORMs in one process, with the same classes', () => {
  const drivers = { plain: SqliteDriver, versioned: Versioned, 'versioned again': Versioned };
  const orders: (keyof typeof drivers)[][] = [
    ['plain', 'versioned'],
    ['versioned', 'plain'],
    ['versioned', 'plain', 'versioned again'],
    ['versioned', 'versioned again', 'plain'],
  ];
  for (const order of orders) {
    for (const [style, entity] of [
      ['defineEntity', Article],
      ['a class', ClassicSchema],
    ] as [string, EntitySchema][]) {
      test(`${order.join(', ')}, ${style}: each keeps its own lock`, async () => {
        const orms: MikroORM[] = [];
        for (const name of order) {
          const orm = await start(drivers[name], { entities: [entity] });
          await orm.schema.create();
          orms.push(orm);
        }
        for (const orm of [...orms, orms[0]!]) {
          await (orm.driver instanceof Versioned ? expectLocked : expectMikroOrms)(orm, entity);
        }
      });
    }
  }

  test('a declaration does not change for whoever reads it next', async () => {
    await start(Versioned);
    const orm = await start(SqliteDriver);
    const { version } = orm.getMetadata(Article).properties;
    expect([version.version, version.customType]).toEqual([true, undefined]);
  });
});

describe('on a database that plain MikroORM uses, too', () => {
  const setUp = async () => {
    const dbName = join(directory(), 'test.db');
    const plain = await start(SqliteDriver, { dbName });
    await plain.schema.create();
    return { plain, adopting: await start(Versioned, { dbName }) };
  };

  test('there is nothing to migrate, neither way', async () => {
    const { plain, adopting } = await setUp();
    expect(await adopting.schema.getUpdateSchemaSQL()).toBe('');
    await expectLocked(adopting, Article);
    expect(await plain.schema.getUpdateSchemaSQL()).toBe('');
    await expectMikroOrms(plain, Article);
  });

  test('what an old process writes is seen by a new one, and the other way round for single rows', async () => {
    const { plain, adopting } = await setUp();
    const seed = adopting.em.fork();
    seed.create(Article, { id: 1, title: 'new' });
    await seed.flush();
    for (const [first, second, error] of [
      [plain, adopting, ConcurrentUpdate],
      [adopting, plain, OptimisticLockError],
    ] as const) {
      const late = second.em.fork();
      const stale = await late.findOneOrFail(Article, 1);
      const early = first.em.fork();
      (await early.findOneOrFail(Article, 1)).title += '!';
      await early.flush();
      stale.title = 'late';
      await expect(late.flush()).rejects.toBeInstanceOf(error);
    }
  });

  test('migrations: what was there fits, and a new one has nothing about versions', async () => {
    const dir = directory();
    const options = {
      dbName: join(dir, 'test.db'),
      extensions: [Migrator],
      migrations: { path: dir, emit: 'ts' as const, silent: true },
    };
    const plain = await start(SqliteDriver, options);
    await plain.migrator.create(undefined, false, true);
    await plain.migrator.up();
    const adopting = await start(Versioned, options);
    expect(await adopting.migrator.checkSchema()).toBe(false);
    expect(await adopting.migrator.getPending()).toEqual([]);
    expect((await adopting.migrator.create()).diff).toEqual({ up: [], down: [] });
    await expectLocked(adopting, Article);
    const More = defineEntity({
      name: 'Article',
      properties: { ...Article.properties, summary: p.string().nullable() },
    });
    const grown = await start(Versioned, { ...options, entities: [More] });
    const { diff } = await grown.migrator.create(undefined, false, false, 'summary');
    expect(diff.up.join()).toMatch(/add column `summary`/);
    expect(diff.up.join()).not.toMatch(/version/);
    await grown.migrator.up();
    expect(await grown.schema.getUpdateSchemaSQL()).toBe('');
    await grown.migrator.down();
  });

  describe("MikroORM's command line", () => {
    const run = async (driver: 'plain' | 'versioned', dir: string, ...args: string[]) => {
      const { stdout } = await promisify(execFile)(
        process.execPath,
        [
          join(import.meta.dirname, '../node_modules/@mikro-orm/cli/cli.js'),
          ...args,
          '--config',
          join(import.meta.dirname, 'adoption.config.ts'),
        ],
        {
          cwd: join(import.meta.dirname, '..'),
          env: { ...process.env, ADOPTION_DRIVER: driver, ADOPTION_DIRECTORY: dir, NO_COLOR: '1' },
        },
      );
      return stdout;
    };

    test('migrations and schema', async () => {
      const dir = directory();
      await run('plain', dir, 'migration:create', '--initial');
      expect(readdirSync(dir).filter((file) => /^Migration.*\.ts$/.test(file))).toHaveLength(1);
      expect(await run('versioned', dir, 'migration:up')).toContain('Successfully migrated up');
      expect(await run('versioned', dir, 'migration:check')).toContain('No changes required');
      expect(await run('versioned', dir, 'schema:update', '--dump')).toContain('Schema is up-to-date');
    });

    test('exports of entities name the package of the driver that is wrapped', async () => {
      const exported = async (driver: 'plain' | 'versioned') => {
        const path = join(import.meta.dirname, 'adoption.entities.ts');
        return run(driver, directory(), 'discovery:export', '--path', path, '--dump');
      };
      const plain = await exported('plain');
      expect(await exported('versioned')).toBe(plain);
      expect(plain).toContain("'@mikro-orm/sqlite'");
    });

    test('compiled functions, also those from before', async () => {
      const compile = async (driver: 'plain' | 'versioned') => {
        const file = join(directory(), 'compiled.js');
        await run(driver, '.', 'compile', '--out', file);
        const { default: functions } = (await import(file)) as { default: object };
        // the keys have a number that is counted per process
        const { uniqueName } = (await start(SqliteDriver)).getMetadata(Article);
        return Object.fromEntries(
          Object.entries(functions).map(([key, value]) => [key.replace(/article_\d+/, uniqueName), value as never]),
        );
      };
      const orm = await start(Versioned, { compiledFunctions: await compile('versioned') });
      await orm.schema.create();
      await expectLocked(orm, Article);
      const compiledFunctions = await compile('plain');
      expect((await thrown(() => start(Versioned, { compiledFunctions }))).message).toBe(
        'Article.version is missing in the compiled functions. Run `npx mikro-orm compile` again.',
      );
    });
  });
});

describe('every way to discover', () => {
  const later = () => new Promise<void>((resolve) => setTimeout(resolve, 5));
  const seen: string[] = [];
  const hooks: Record<string, Options['discovery']> = {
    none: {},
    sync: {
      onMetadata: (meta) => void seen.push(`onMetadata ${meta.className}`),
      afterDiscovered: () => void seen.push('afterDiscovered'),
    },
    async: {
      onMetadata: async (meta) => void seen.push(`onMetadata ${meta.className}`),
      afterDiscovered: async () => {
        await later();
        seen.push('afterDiscovered');
      },
    },
  };
  for (const [name, discovery] of Object.entries(hooks)) {
    for (const way of ['new MikroORM()', 'MikroORM.init()']) {
      test(`${way}, user's hooks: ${name}`, async () => {
        seen.length = 0;
        const options = { driver: Versioned, dbName: ':memory:', entities: [Article], discovery } as unknown as Options;
        const orm = way.startsWith('new') ? new MikroORM(options) : await MikroORM.init(options);
        onTestFinished(() => orm.close());
        await orm.schema.create();
        await expectLocked(orm, Article);
        await later();
        expect(seen).toEqual(name === 'none' ? [] : ['onMetadata Article', 'afterDiscovered']);
      });
    }
  }

  test("a user's hook that adds the version", async () => {
    const Plain = defineEntity({
      name: 'Plain',
      properties: { id: p.integer().primary(), title: p.string(), version: p.integer() },
    });
    const orm = await start(Versioned, {
      entities: [Plain],
      discovery: {
        onMetadata: async (meta) =>
          void Object.assign(meta.properties['version' as never] as object, { version: true }),
      },
    });
    await orm.schema.create();
    await expectLocked(orm, Plain);
  });
});

test('raw() as a version is honoured by em.nativeUpdate() as before', async () => {
  const orm = await start(Versioned);
  await orm.schema.create();
  const em = orm.em.fork();
  const article = em.create(Article, { id: 1, title: 'new' });
  await em.flush();
  await orm.em.fork().nativeUpdate(Article, { id: 1 }, { version: raw('version + 5') });
  article.title = 'ours';
  expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 6 }] });
});
