/** `@Property({ version: true })` of a legacy decorator is taken over, however its type is found out. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MikroORM, type Options, type Opt } from '@mikro-orm/core';
import { FileCacheAdapter } from '@mikro-orm/core/fs-utils';
import { Entity, PrimaryKey, Property, ReflectMetadataProvider } from '@mikro-orm/decorators/legacy';
import { TsMorphMetadataProvider } from '@mikro-orm/reflection';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test } from 'vitest';
import { expectLocked } from '../decorated/locked.ts';

@Entity({ abstract: true })
abstract class Base {
  @PrimaryKey()
  id!: number;

  @Property({ version: true })
  version!: number;
}

@Entity()
class Article extends Base {
  @Property()
  title!: string;
}

@Entity()
class Numbered {
  @PrimaryKey()
  id!: number;

  @Property()
  title!: string;

  @Property({ version: true, columnType: 'bigint', fieldName: 'lock_no', default: 0 })
  version!: number;
}

@Entity()
class Declared {
  @PrimaryKey()
  id!: number;

  @Property()
  title!: string;

  @Property({ type: VersionField })
  version!: Opt<number>;
}

const entities = [Base, Article, Numbered, Declared];

async function expectAllLocked(more: Partial<Options>): Promise<string[]> {
  const log: string[] = [];
  const options = { dbName: ':memory:', ...more, debug: ['discovery'], logger: (line: string) => log.push(line) };
  const orm = await MikroORM.init({ ...options, driver: versioned(SqliteDriver), entities } as Options);
  await orm.schema.create();
  for (const [entity, initial] of [
    [Article, 1],
    [Numbered, 0],
    [Declared, 1],
  ] as const) {
    await expectLocked(orm, entity, initial);
  }
  await orm.close();
  return log;
}

test('types by reflect-metadata: the same schema, and locked', async () => {
  const options = {
    dbName: ':memory:',
    entities: [Base, Article, Numbered],
    metadataProvider: ReflectMetadataProvider,
  };
  const ddl = async (driver: typeof SqliteDriver) => {
    const orm = new MikroORM({ ...options, driver } as unknown as Options);
    onTestFinished(() => orm.close());
    return orm.schema.getCreateSchemaSQL();
  };
  expect(await ddl(versioned(SqliteDriver))).toBe(await ddl(SqliteDriver));
  await expectAllLocked({ metadataProvider: ReflectMetadataProvider });
});

test('types by ts-morph, with its metadata cache: fresh, and from the cache', async () => {
  const cacheDir = mkdtempSync(join(tmpdir(), 'mikro-ool-cache-'));
  onTestFinished(() => rmSync(cacheDir, { recursive: true }));
  const options: Partial<Options> = {
    metadataProvider: TsMorphMetadataProvider,
    metadataCache: { enabled: true, adapter: FileCacheAdapter, options: { cacheDir } },
  };
  expect((await expectAllLocked(options)).join('\n')).not.toContain('using cached metadata');
  expect(readdirSync(cacheDir)).toHaveLength(entities.length);
  const log = await expectAllLocked(options);
  expect(log.filter((line) => line.includes('using cached metadata'))).toHaveLength(entities.length);
});
