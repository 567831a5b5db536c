/** Declarations that could not protect anything are refused when the ORM starts. */
import { EntitySchema, MikroORM, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, refusal, thrown, testUnless } from '../harness.ts';

const id = { id: p.integer().primary() };

export function discovery(driver: TestDriver): void {
  describe('discovery', () => {
    test('a nullable version is refused', async () => {
      const Bad = defineEntity({ name: 'Bad', properties: { ...id, version: p.type(VersionField).nullable() } });
      expect(await refusal(driver, [Bad])).toMatch(/^Bad\.version is a nullable version/);
    });

    for (const declared of [{ type: VersionField }, { type: 'integer', version: true }]) {
      testUnless(driver, 'comparison of single-table schemas')(
        `a version that classes of one table repeat (${Object.keys(declared).join()}) is one that all of them have`,
        async () => {
          const version = declared as never;
          const key = { type: 'integer', primary: true } as const;
          const text = { type: 'string', nullable: true } as const;
          const type = { type: 'string', enum: true, items: ['animal', 'dog', 'puppy'] } as const;
          const Animal = new EntitySchema<{ id: number; version: number }>({
            name: 'Animal',
            discriminatorColumn: 'type',
            discriminatorMap: { animal: 'Animal', dog: 'Dog', puppy: 'Puppy' } as never,
            properties: { id: key, type, version } as never,
          });
          const child = (name: string, parent: string, property: string) =>
            new EntitySchema<object>({
              name,
              extends: parent as never,
              properties: { [property]: text, version } as never,
            });
          const classes = [Animal, child('Dog', 'Animal', 'bark'), child('Puppy', 'Dog', 'toy')] as const;
          const { orm, fork } = await open(driver, [...classes]);
          const em = fork();
          const animals = classes.map((one, i) => em.create(one as unknown as typeof Animal, { id: i + 1 } as never));
          await em.flush();
          expect(animals.map((animal) => animal.version)).toEqual([1, 1, 1]);
          Object.assign(animals[1]!, { bark: 'wow' });
          Object.assign(animals[2]!, { bark: 'wif', toy: 'ball' });
          const rival = fork();
          const [, , puppy] = await rival.find(Animal, {}, { orderBy: { id: 1 } });
          await em.flush();
          expect(animals.map((animal) => animal.version)).toEqual([1, 2, 2]);
          rival.remove(puppy!);
          await expect(rival.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
          expect(await orm.schema.getUpdateSchemaSQL()).toBe('');
        },
      );
    }

    testUnless(driver, 'comparison of single-table schemas')(
      'a version that some classes of one table repeat is one that the others have, too',
      async () => {
        const version = { type: VersionField } as never;
        const text = { type: 'string', nullable: true } as const;
        const classes = (repeats: string, nullable: boolean) => {
          const child = (name: string, parent: string) =>
            new EntitySchema<{ id: number; version: number }>({
              name,
              extends: parent as never,
              properties: {
                [`of${name}`]: text,
                ...(repeats === name && { version }),
                ...(nullable && name === 'Cat' && { version: { type: VersionField, nullable: true } }),
              } as never,
            });
          const Animal = new EntitySchema<{ id: number; version: number }>({
            name: 'Animal',
            discriminatorColumn: 'type',
            discriminatorMap: { animal: 'Animal', dog: 'Dog', puppy: 'Puppy', cat: 'Cat' } as never,
            properties: {
              id: { type: 'integer', primary: true },
              type: { type: 'string', enum: true, items: ['animal', 'dog', 'puppy', 'cat'] },
              version,
            } as never,
          });
          return [Animal, child('Dog', 'Animal'), child('Puppy', 'Dog'), child('Cat', 'Animal')] as const;
        };
        for (const repeats of ['Dog', 'Puppy']) {
          const all = classes(repeats, false);
          const { orm, fork } = await open(driver, [...all]);
          const em = fork();
          const animals = all.map((one, i) => em.create(one, { id: i + 1 } as never));
          await em.flush();
          const rival = fork();
          const cat = await rival.findOneOrFail(all[3], 4);
          const change = { ofDog: 'wow', ofPuppy: 'wif', ofCat: 'meow' };
          animals.slice(1).forEach((one) => {
            const name = `of${one.constructor.name}` as keyof typeof change;
            Object.assign(one, { [name]: change[name] });
          });
          await em.flush();
          expect(animals.map((animal) => animal.version)).toEqual([1, 2, 2, 2]);
          rival.remove(cat);
          await expect(rival.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
          expect(await orm.schema.getUpdateSchemaSQL()).toBe('');
        }
        expect(await refusal(driver, [...classes('Dog', true)])).toMatch(/^Cat\.version is a nullable version/);
      },
    );

    test('two versions on one entity are refused', async () => {
      const Bad = defineEntity({
        name: 'Bad',
        properties: { ...id, a: p.type(VersionField), b: p.type(VersionField) },
      });
      expect(await refusal(driver, [Bad])).toMatch(/^Bad\.a is not the only version: there are a and b\./);
    });

    for (const shape of ['inline', 'object', 'array']) {
      test(`a version inside an embeddable (${shape}) is refused`, async () => {
        const Part = defineEntity({
          name: 'Part',
          embeddable: true,
          properties: { text: p.string(), version: p.type(VersionField) },
        });
        const inline = p.embedded(Part);
        const embedded = shape === 'inline' ? inline : shape === 'object' ? inline.object() : inline.array();
        const Bad = defineEntity({ name: 'Bad', properties: { ...id, part: embedded } });
        expect(await refusal(driver, [Bad, Part])).toMatch(/version is a version inside an embeddable/);
      });
    }

    test('a version that is a key, computed or not stored is refused', async () => {
      const declarations = [
        p.type(VersionField).persist(false),
        p.type(VersionField).formula('1'),
        p.type(VersionField).primary(),
      ];
      for (const version of declarations) {
        const Bad = defineEntity({ name: 'Bad', properties: { ...id, version } as never });
        expect(await refusal(driver, [Bad as unknown as EntitySchema])).toMatch(
          /^Bad\.version is a version, so it must be an ordinary column/,
        );
      }
    });

    test('a default that is no integer is refused', async () => {
      const Bad = defineEntity({
        name: 'Bad',
        properties: { ...id, version: p.type(VersionField).defaultRaw('random()') },
      });
      expect(await refusal(driver, [Bad])).toMatch(/^Bad\.version is a version with the default random\(\)/);
    });

    test('a VersionField on a driver that is not wrapped is refused, with or without an explicit column type', async () => {
      const options = await driver.create();
      const unwrapped = Object.getPrototypeOf(options.driver) as typeof options.driver;
      for (const version of [p.type(VersionField), p.type(VersionField).columnType('bigint')]) {
        const Article = defineEntity({ name: 'Article', properties: { ...id, version } });
        const error = await thrown(() => MikroORM.init({ ...options, driver: unwrapped, entities: [Article] }));
        expect(error.message).toMatch(/Wrap it in the MikroORM config: driver: versioned\(…\)/);
      }
    });

    test("the column is `integer not null default 1`, and the user's own settings win", async () => {
      const Plain = defineEntity({ name: 'Plain', properties: { ...id, version: p.type(VersionField) } });
      const Own = defineEntity({
        name: 'Own',
        properties: { ...id, version: p.type(VersionField).fieldName('lock_no').columnType('smallint').default(7) },
      });
      const { orm } = await open(driver, [Plain, Own]);
      const sql = await orm.schema.getCreateSchemaSQL();
      expect(sql).toMatch(/["`]version["`] (int|integer) not null default 1/);
      expect(sql).toMatch(/["`]lock_no["`] smallint not null default 7/);
      expect(await orm.schema.getUpdateSchemaSQL()).toBe('');
    });

    test("the user's own discovery hooks and EntityManager class stay in use", async () => {
      const seen: string[] = [];
      const Plain = defineEntity({ name: 'Plain', properties: { ...id, version: p.type(VersionField) } });
      const { orm } = await open(driver, [Plain], {
        discovery: {
          onMetadata: async (meta) => void seen.push(`onMetadata ${meta.className}`),
          afterDiscovered: async () => void seen.push('afterDiscovered'),
        },
      });
      expect(seen).toEqual(['onMetadata Plain', 'afterDiscovered']);
      expect(orm.getMetadata().get(Plain).properties.version.defaultRaw).toBe('1');
    });
  });
}
