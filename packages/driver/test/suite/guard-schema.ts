/** The trigger of a guard as a part of the schema: it follows its columns, and every shape of a table can have one. */
import { mkdtempSync, rmSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { EntitySchema, MetadataError, type MikroORM, type Opt, defineEntity, p } from '@mikro-orm/core';
import { Migrator } from '@mikro-orm/migrations';
import { VersionField } from '@mikro-ool/core';
import { expect, onTestFinished, test } from 'vitest';
import { type TestDriver, describeWhere, open, thrown } from '../harness.ts';

const id = () => p.integer().primary().autoincrement(false);
const guarded = (...exclude: string[]) => p.type(new VersionField({ guard: true, exclude }));
const declared = (properties: object) =>
  defineEntity({ name: 'Article', properties: { id: id(), title: p.string(), ...properties } } as never) as never;

/** What the schema generator would change. */
export async function schemaDifference(driver: TestDriver, orm: MikroORM): Promise<string> {
  const sql = await orm.schema.getUpdateSchemaSQL();
  // there MikroORM takes every nullable column for another one
  const isColumnsToo = !driver.gaps?.includes('comparison of single-table schemas');
  return isColumnsToo
    ? sql
    : sql
        .split('\n')
        .filter((line) => line.includes('mikro_ool_guard'))
        .join('\n');
}

export function guardsInSchemas(driver: TestDriver): void {
  const setUp = async (properties: object, more = {}) => {
    const db = await open(driver, [declared(properties)], more);
    const run = (sql: string) => db.fork().getConnection().execute<{ version: number }[]>(sql);
    await run(`insert into article (id, title) values (1, 'old')`);
    const bumps = async (set: string) => {
      const versionNow = async () => Number((await run('select version from article'))[0]!.version);
      const before = await versionNow();
      await run(`update article set ${set}`);
      return (await versionNow()) - before;
    };
    const becomes = (other: object) => db.orm.discoverEntity(declared(other), 'Article' as never);
    return { ...db, bumps, becomes };
  };
  const noDifference = async (orm: MikroORM) => expect(await schemaDifference(driver, orm)).toBe('');

  describeWhere(driver.batches)('the schema of a guard', () => {
    test('it follows its columns', async () => {
      const { orm, bumps, becomes } = await setUp({ note: p.integer().nullable(), version: guarded() });
      await noDifference(orm);
      expect([await bumps("title = 'new'"), await bumps('note = 1')]).toEqual([1, 1]);
      // one column more
      becomes({ note: p.integer().nullable(), more: p.string().nullable(), version: guarded() });
      expect(await orm.schema.getUpdateSchemaSQL()).toContain('mikro_ool_guard');
      await orm.schema.update();
      await noDifference(orm);
      expect([await bumps("more = 'x'"), await bumps('note = 2')]).toEqual([1, 1]);
      // one that counts no more
      becomes({ note: p.integer().nullable(), more: p.string().nullable(), version: guarded('note') });
      await orm.schema.update();
      await noDifference(orm);
      expect([await bumps("more = 'y'"), await bumps('note = 3')]).toEqual([1, 0]);
      // another name
      becomes({ note: p.integer().nullable(), other: p.string().nullable(), version: guarded() });
      await orm.schema.update();
      await noDifference(orm);
      expect([await bumps("other = 'z'"), await bumps('note = 4')]).toEqual([1, 1]);
      // one column less
      becomes({ other: p.string().nullable(), version: guarded() });
      await orm.schema.update();
      await noDifference(orm);
      expect(await bumps("other = 'less'")).toBe(1);
      // and no guard
      becomes({ other: p.string().nullable(), version: p.type(VersionField) });
      await orm.schema.update();
      await noDifference(orm);
      expect(await bumps("other = 'unseen'")).toBe(0);
    });

    test('a migration brings it, and takes it back', async () => {
      const path = mkdtempSync(join(import.meta.dirname, 'tmp-'));
      onTestFinished(() => rmSync(path, { recursive: true }));
      const migrations = { path, emit: 'ts' as const, snapshot: false, silent: true };
      const { orm, bumps, becomes } = await setUp(
        { version: p.type(VersionField) },
        { extensions: [Migrator], migrations },
      );
      expect(await bumps("title = 'unseen'")).toBe(0);
      becomes({ version: guarded() });
      const { diff } = await orm.migrator.create();
      expect(diff.up.join()).toContain('create trigger');
      expect(diff.down.join()).toContain('drop trigger');
      await orm.migrator.up();
      await noDifference(orm);
      expect(await bumps("title = 'seen'")).toBe(1);
      await orm.migrator.down();
      expect(await bumps("title = 'unseen again'")).toBe(0);
    });

    for (const inheritance of ['single-table', 'joined-table'] as const) {
      test(`${inheritance} inheritance: the table that has the version`, async () => {
        class Animal {
          id!: number;
          name!: string;
          version!: Opt<number>;
        }
        class Dog extends Animal {
          bark!: string;
          legs!: Opt<number>;
        }
        const single = inheritance === 'single-table';
        const base = defineEntity({
          class: Animal,
          ...(single ? { discriminatorColumn: 'type', discriminatorValue: 'a' } : { inheritance: 'tpt' }),
          properties: { id: id(), name: p.string(), version: guarded('legs') },
        } as never) as never;
        const schema = defineEntity({
          class: Dog,
          extends: base,
          ...(single ? { discriminatorValue: 'd' } : {}),
          properties: { bark: p.string(), legs: p.integer().default(4) },
        } as never) as never;
        const { orm, fork } = await open(driver, [base, schema]);
        await noDifference(orm);
        const em = fork();
        const dog = em.create(Dog, { id: 1, name: 'Rex', bark: 'wau' });
        await em.flush();
        const versionNow = async () => (await fork().findOneOrFail(Animal, 1)).version;
        const run = (sql: string) => fork().getConnection().execute(sql);
        await run(`update animal set name = 'raw'`);
        expect(await versionNow()).toBe(2);
        await run(`update ${single ? 'animal' : 'dog'} set legs = 3`);
        expect(await versionNow()).toBe(2);
        await run(`update ${single ? 'animal' : 'dog'} set bark = 'raw'`);
        // what another table has is not seen
        expect(await versionNow()).toBe(single ? 3 : 2);
        await em.refresh(dog);
        for (const change of [{ bark: 'a' }, { name: 'b' }, { name: 'c', bark: 'c' }, { legs: 5 }]) {
          Object.assign(dog, change);
          await em.flush();
          expect(await versionNow()).toBe(dog.version);
        }
        expect(dog.version).toBe(single ? 6 : 5);
      });
    }

    test('a schema of its own', async () => {
      const north = `north_${randomUUID().slice(0, 8)}`;
      const Parcel = defineEntity({
        name: 'Parcel',
        schema: north,
        properties: { id: id(), title: p.string(), version: guarded() },
      });
      const { orm, fork } = await open(driver, [Parcel], await driver.schemas([north]));
      const em = fork();
      const parcels = [1, 2].map((key) => em.create(Parcel, { id: key, title: 'old' }));
      await em.flush();
      const table = orm.em.getPlatform().quoteIdentifier(`${north}.parcel`);
      await fork().getConnection().execute(`update ${table} set title = 'raw' where id = 1`);
      parcels.forEach((parcel) => (parcel.title = 'ours'));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, expected: 1, actual: 2 }] });
      await em.refresh(parcels[0]!);
      parcels.forEach((parcel) => (parcel.title = 'again'));
      await em.flush();
      expect(parcels.map(({ version }) => version)).toEqual([3, 2]);
      expect((await fork().find(Parcel, {})).map(({ version }) => version).toSorted()).toEqual([2, 3]);
    });

    test('an EntitySchema, an abstract base, and a version on a class below', async () => {
      abstract class Base {
        id!: number;
        version!: Opt<number>;
      }
      class Note extends Base {
        title!: string;
      }
      const base = new EntitySchema<Base>({
        class: Base,
        abstract: true,
        properties: {
          id: { type: 'integer', primary: true },
          version: { type: new VersionField({ guard: true }) },
        },
      });
      const note = new EntitySchema<Note>({
        class: Note,
        extends: base,
        properties: { title: { type: 'string' } },
      } as never);
      const { orm, fork } = await open(driver, [base, note] as EntitySchema[]);
      await noDifference(orm);
      await fork().insert(Note, { id: 1, title: 'old' });
      await fork().getConnection().execute(`update note set title = 'raw'`);
      expect((await fork().findOneOrFail(Note, 1)).version).toBe(2);
    });

    test('without a guard there is no trigger', async () => {
      const { orm } = await open(driver, [declared({ version: p.type(VersionField) })]);
      expect(await orm.schema.getCreateSchemaSQL()).not.toContain('trigger');
    });

    test('what cannot have one is refused', async () => {
      const tableName = 'a_table_with_a_name_that_is_much_too_long_for_a_guard of its own';
      const entity = defineEntity({ name: 'Long', tableName, properties: { id: id(), version: guarded() } });
      const error = await thrown(() => open(driver, [entity]));
      expect(error).toBeInstanceOf(MetadataError);
      expect(error.message).toMatch(/^Long\.version has a guard/);
    });
  });
}
