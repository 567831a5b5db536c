/** `@Property({ version: true })` of a standard (ES) decorator is taken over. */
import { MikroORM, type Opt, type Options } from '@mikro-orm/core';
import { Entity, PrimaryKey, Property } from '@mikro-orm/decorators/es';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { expect, onTestFinished, test } from 'vitest';
import { expectLocked } from '../decorated/locked.ts';

@Entity({ abstract: true })
abstract class Base {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'smallint', version: true })
  version!: Opt<number>;
}

@Entity()
class Article extends Base {
  @Property({ type: 'string' })
  title!: string;
}

@Entity()
class Initialised {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  title!: string;

  @Property({ version: true })
  version: Opt<number> = 5;
}

for (const [entity, initial] of [
  [Article, 1],
  [Initialised, 5],
] as const) {
  test(`${entity.name}: the same schema, and locked`, async () => {
    const start = async (driver: typeof SqliteDriver) => {
      const options = { driver, dbName: ':memory:', entities: [Base, Article, Initialised] };
      const orm = await MikroORM.init(options as unknown as Options);
      onTestFinished(() => orm.close());
      return orm;
    };
    const orm = await start(versioned(SqliteDriver));
    expect(await orm.schema.getCreateSchemaSQL()).toBe(await (await start(SqliteDriver)).schema.getCreateSchemaSQL());
    await orm.schema.create();
    await expectLocked(orm, entity, initial);
  });
}
