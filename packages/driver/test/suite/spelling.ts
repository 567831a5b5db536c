/** The database says which row a key means, however it is spelled: by case, padding, leading or trailing zeros. */
import { type EntityManager, type EntitySchema, LockMode, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, VersionNotLoaded, verify } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const content = { title: p.string(), version: p.type(VersionField) };

interface Shape {
  readonly name: string;
  readonly entity: EntitySchema;
  /** How the database spells a key, … */
  key(i: number): unknown;
  /** … and how a client does. */
  otherwise(key: never): unknown;
}
const uuid = (i: number) => `abcdef00-aaaa-4bbb-8ccc-${String(i).padStart(12, 'd')}`;
const shapes: Shape[] = [
  {
    name: 'uuid',
    entity: defineEntity({ name: 'UuidKey', properties: { id: p.uuid().primary(), ...content } }),
    key: uuid,
    otherwise: (key: string) => key.toUpperCase(),
  },
  {
    name: 'uuid in braces',
    entity: defineEntity({ name: 'UuidKey', properties: { id: p.uuid().primary(), ...content } }),
    key: uuid,
    otherwise: (key: string) => `{${key}}`,
  },
  {
    name: 'decimal',
    entity: defineEntity({
      name: 'DecimalKey',
      properties: { id: p.decimal('string').precision(10).scale(2).primary(), ...content },
    }),
    key: (i) => `${i}.00`,
    otherwise: (key: string) => key.replace('.00', '.0'),
  },
  {
    name: 'bigint',
    entity: defineEntity({ name: 'BigintKey', properties: { id: p.bigint('string').primary(), ...content } }),
    key: (i) => `${i}`,
    otherwise: (key: string) => `0${key}`,
  },
  {
    name: 'char, without its padding',
    entity: defineEntity({
      name: 'CharKey',
      properties: { id: p.string().columnType('char(10)').primary(), ...content },
    }),
    key: (i) => `k${i}`.padEnd(10),
    otherwise: (key: string) => key.trimEnd(),
  },
  {
    name: 'text, in another case',
    entity: defineEntity({ name: 'TextKey', properties: { id: p.string().length(20).primary(), ...content } }),
    key: (i) => `key ${i}`,
    otherwise: (key: string) => key.toUpperCase(),
  },
  {
    name: 'text that compares without case',
    entity: defineEntity({
      name: 'NocaseKey',
      properties: { id: p.string().columnType('text collate nocase').primary(), ...content },
    }),
    key: (i) => `key ${i}`,
    otherwise: (key: string) => key.toUpperCase(),
  },
];

const composite = defineEntity({
  name: 'CompositeKey',
  properties: { tenant: p.string().length(20).primary(), number: p.bigint('string').primary(), ...content },
});

type Row = { id: unknown; title: string; version: number; size?: number };

export function spellings(driver: TestDriver): void {
  describe.each(shapes)('a key that is spelled otherwise: $name', ({ entity, key, otherwise }) => {
    /** Rows 1 to 5 at version 2; nothing where this database has no such type, or takes the spellings for two keys. */
    const setUp = async () => {
      let db: Awaited<ReturnType<typeof open>>;
      try {
        db = await open(driver, [entity]);
      } catch {
        return undefined; // no such collation
      }
      const em = db.fork();
      for (let i = 1; i <= 5; i++) {
        em.create(entity, { id: key(i), title: 'new', version: 2 } as never);
      }
      await em.flush();
      const isSame = await db
        .fork()
        .count(entity, { id: otherwise(key(1) as never) } as never)
        .catch(() => 0);
      return isSame === 0 ? undefined : db;
    };
    const references = (em: EntityManager, count: number, version: number) =>
      Array.from({ length: count }, (_, i) => {
        const row = em.getReference(entity, otherwise(key(i + 1) as never) as never) as Row;
        row.version = version;
        return row;
      });

    for (const count of [1, 3]) {
      const rows = count === 1 ? 'a row' : 'rows in a batch';

      test(`${rows}: claims`, async () => {
        const db = await setUp();
        if (!db) {
          return;
        }
        const em = db.fork();
        references(em, count, 2);
        await em.flush();
        const stale = db.fork();
        references(stale, count, 1);
        const error = await thrown(() => stale.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        const expected = Array.from({ length: count }, () => ({ operation: 'check', expected: 1, actual: 2 }));
        expect(error.conflicts).toMatchObject(expected);
      });

      for (const operation of ['update', 'delete'] as const) {
        const apply = (em: EntityManager, made: Row[]) =>
          made.forEach((row) => (operation === 'delete' ? em.remove(row) : (row.title = 'changed')));

        test(`${rows}: ${operation}, stale and right`, async () => {
          const db = await setUp();
          if (!db) {
            return;
          }
          const em = db.fork();
          apply(em, references(em, count, 1));
          const error = await thrown(() => em.flush());
          expect(error).toBeInstanceOf(ConcurrentUpdate);
          // row by row, the first one is named
          const named = driver.batches || count === 1 ? count : 1;
          const expected = Array.from({ length: named }, () => ({ operation, expected: 1, actual: 2 }));
          expect(error.conflicts).toMatchObject(expected);
          // a rival has bumped one of them by one, as we would
          const half = db.fork();
          const made = references(half, count, 2);
          apply(half, made);
          await db.fork().nativeUpdate(entity, { id: key(1) } as never, { title: 'theirs' } as never);
          const conflict = await thrown(() => half.flush());
          expect(conflict.conflicts).toMatchObject([{ operation, expected: 2, actual: 3 }]);
          made[0]!.version = 3;
          await half.flush();
          expect(await db.fork().count(entity)).toBe(operation === 'delete' ? 5 - count : 5);
          expect(await db.fork().count(entity, { title: 'changed' } as never)).toBe(operation === 'delete' ? 0 : count);
        });
      }

      test(`${rows}: gone is gone`, async () => {
        const db = await setUp();
        if (!db) {
          return;
        }
        await db.fork().nativeDelete(entity, { id: key(1) } as never);
        const em = db.fork();
        const made = references(em, count, 2);
        made.forEach((row) => em.remove(row));
        const error = await thrown(() => em.flush());
        expect(error.conflicts).toMatchObject([{ operation: 'delete', expected: 2, actual: null }]);
      });
    }

    const reference = (em: EntityManager) => em.getReference(entity, otherwise(key(1) as never) as never) as Row;

    test('em.lock with a version: right, stale and gone', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      for (const claimed of [undefined, 2]) {
        const em = db.fork();
        const row = Object.assign(reference(em), { version: claimed });
        await em.lock(row, LockMode.OPTIMISTIC, 2);
        expect([row.id, row.title, row.version]).toEqual([otherwise(key(1) as never), 'new', 2]);
        await em.lock(row, LockMode.OPTIMISTIC, 2);
        await em.flush();
      }
      for (const claimed of [undefined, 1, 2]) {
        const em = db.fork();
        const stale = await thrown(() =>
          em.lock(Object.assign(reference(em), { version: claimed }), LockMode.OPTIMISTIC, 1),
        );
        expect(stale).toBeInstanceOf(ConcurrentUpdate);
        expect(stale.conflicts).toMatchObject([{ operation: 'check', expected: 1, actual: 2 }]);
      }
      // what is written afterwards is what was locked
      const em = db.fork();
      const row = reference(em);
      await em.lock(row, LockMode.OPTIMISTIC, 2);
      await db.fork().nativeUpdate(entity, { id: key(1) } as never, { title: 'theirs' } as never);
      row.title = 'mine';
      expect((await thrown(() => em.flush())).conflicts).toMatchObject([{ expected: 2, actual: 3 }]);
      await db.fork().nativeDelete(entity, { id: key(1) } as never);
      const after = db.fork();
      const gone = await thrown(() => after.lock(reference(after), LockMode.OPTIMISTIC, 3));
      expect(gone.conflicts).toMatchObject([{ operation: 'check', expected: 3, actual: null }]);
    });

    test('em.lock without a version, and verify of a claim, are checked by the flush', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      const ways = [
        (em: EntityManager, row: Row) => em.lock(row, LockMode.OPTIMISTIC),
        (em: EntityManager, row: Row) => em.lock(Object.assign(row, { version: 2 }), LockMode.OPTIMISTIC),
        (_: EntityManager, row: Row) => verify(Object.assign(row, { version: 2 })),
      ];
      for (const mark of ways) {
        const em = db.fork();
        await mark(em, reference(em));
        await em.flush();
        const stale = db.fork();
        await mark(stale, reference(stale));
        await db.fork().nativeUpdate(entity, { id: key(1) } as never, { title: 'theirs' } as never);
        const error = await thrown(() => stale.flush());
        expect(error.conflicts).toMatchObject([{ operation: 'check', expected: 2, actual: 3 }]);
        await db.fork().nativeUpdate(entity, { id: key(1) } as never, { version: 2 } as never);
      }
    });

    test('em.lock in a pessimistic mode, with a claim', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      for (const version of [1, 2]) {
        const locked = db.fork().transactional(async (tx) => {
          const row = Object.assign(reference(tx), { version });
          await tx.lock(row, LockMode.PESSIMISTIC_WRITE);
          row.title = 'locked';
        });
        const error = version === 2 ? await locked : await thrown(() => locked);
        expect(error?.conflicts).toEqual(error && [expect.objectContaining({ expected: 1, actual: 2 })]);
      }
      expect(await db.fork().count(entity, { title: 'locked', version: 3 } as never)).toBe(1);
    });

    test('em.refresh keeps the entity managed by the key that it has', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      for (const isBeside of [false, true]) {
        const em = db.fork();
        const row = reference(em);
        if (isBeside) {
          await em.findOneOrFail(entity, { id: key(1) } as never);
        }
        expect(await em.refresh(row as never)).toBe(row);
        expect([row.id, row.title]).toEqual([otherwise(key(1) as never), 'new']);
        await em.lock(row, LockMode.OPTIMISTIC, row.version);
        await em.flush();
        await db.fork().nativeUpdate(entity, { id: key(1) } as never, { title: 'theirs' } as never);
        await em.refresh(row as never);
        row.title = 'new';
        await em.flush();
        await em.refresh(row as never);
        em.remove(row);
        await em.flush();
        expect(await db.fork().count(entity)).toBe(4);
        await db.fork().insert(entity, { id: key(1), title: 'new' } as never);
      }
    });

    test('em.refresh discards another spelling that was assigned', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      const em = db.fork();
      const row = (await em.findOneOrFail(entity, { id: key(1) } as never)) as Row;
      const { id } = row;
      row.id = otherwise(key(1) as never);
      await em.refresh(row as never);
      expect(row).toMatchObject({ id, version: 2 });
      await em.flush();
      expect(row.version).toBe(2);
    });

    test('an upsert has the version of the row that it found', async () => {
      const db = await setUp();
      if (!db) {
        return;
      }
      const em = db.fork();
      const row = (await em.upsert(entity, { id: otherwise(key(1) as never), title: 'a' } as never)) as Row;
      expect(row.version).toBe(3);
      row.title = 'b';
      await em.flush();
      expect(row.version).toBe(4);
      if (!db.orm.em.getPlatform().usesReturningStatement()) {
        return; // MikroORM matches what it reads back by the text
      }
      const many = (await db
        .fork()
        .upsertMany(entity, [1, 2].map((i) => ({ id: otherwise(key(i) as never), title: 'many' })) as never)) as Row[];
      expect(many.map(({ version }) => version)).toEqual([5, 3]);
    });
  });

  describe('keys that are spelled otherwise', () => {
    const isFolded = async (db: Awaited<ReturnType<typeof open>>, of: EntitySchema, where: object) =>
      (await db.fork().count(of, where as never)) > 0;

    test('columns that the database computes come back', async () => {
      const Computed = defineEntity({
        name: 'Computed',
        properties: {
          id: p.bigint('string').primary(),
          n: p.integer(),
          twice: p.integer().generated((columns) => `(${columns.n} * 2) stored`),
          version: p.type(VersionField),
        },
      });
      const { fork } = await open(driver, [Computed]);
      const seed = fork();
      [1, 2, 3].forEach((id) => seed.create(Computed, { id: `${id}`, n: id } as never));
      await seed.flush();
      for (const ids of [['01'], ['01', '2', '03']]) {
        const em = fork();
        const rows = [];
        for (const id of ids) {
          const { version } = (await fork().findOneOrFail(Computed, id)) as unknown as Row;
          const row = em.getReference(Computed, id) as unknown as { n: number; twice: number; version: number };
          Object.assign(row, { version, n: 50 + Number(id) });
          rows.push(row);
        }
        await em.flush();
        expect(rows.map((row) => row.twice)).toEqual(ids.map((id) => 2 * (50 + Number(id))));
      }
    });

    test('composite ones', async () => {
      const db = await open(driver, [composite]);
      const seed = db.fork();
      [1, 2, 3].forEach((i) => seed.create(composite, { tenant: 'a', number: `${i}`, title: 'new' }));
      await seed.flush();
      expect(await isFolded(db, composite as never, { tenant: 'a', number: '01' })).toBe(true);
      const em = db.fork();
      for (const i of [1, 2]) {
        const row = em.getReference(composite, ['a', `0${i}`] as never) as unknown as Row;
        row.version = 0;
        em.remove(row);
      }
      const error = await thrown(() => em.flush());
      expect((error.conflicts as unknown[])[0]).toMatchObject({ operation: 'delete', expected: 0, actual: 1 });
      for (const version of [0, 1]) {
        const reader = db.fork();
        const row = reader.getReference(composite, ['a', '03'] as never);
        const locked = reader.lock(row, LockMode.OPTIMISTIC, version);
        const conflict = version === 1 ? await locked : await thrown(() => locked);
        expect(conflict?.conflicts).toEqual(conflict && [expect.objectContaining({ expected: 0, actual: 1 })]);
        expect([row.number, row.version]).toEqual(['03', 1]);
      }
    });

    test('a row of a class with a version is refused under a reference to one without', async () => {
      const Base = defineEntity({
        name: 'Base',
        discriminatorColumn: 'kind',
        discriminatorValue: 'base',
        properties: { id: p.bigint('string').primary(), kind: p.string(), title: p.string() },
      });
      const Versioned = defineEntity({
        name: 'Versioned',
        extends: Base,
        discriminatorValue: 'versioned',
        properties: { version: p.type(VersionField) },
      });
      const { fork } = await open(driver, [Base, Versioned]);
      const seed = fork();
      seed.create(Versioned, { id: '1', title: 'new' } as never);
      await seed.flush();
      for (const operation of ['update', 'delete']) {
        const em = fork();
        const row = em.getReference(Base, '01') as unknown as Row;
        if (operation === 'delete') {
          em.remove(row);
        } else {
          row.title = 'blind';
        }
        expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded);
      }
      expect(await fork().count(Base, { title: 'new' })).toBe(1);
    });

    test('removed rows that a cascade takes along', async () => {
      class Parent {
        id!: string;
        version!: number;
      }
      class Child {
        id!: string;
        parent!: Parent;
        version!: number;
      }
      const { fork } = await open(driver, [
        defineEntity({
          class: Parent,
          properties: { id: p.bigint('string').primary(), version: p.type(VersionField) },
        } as never),
        defineEntity({
          class: Child,
          properties: {
            id: p.bigint('string').primary(),
            parent: () => p.manyToOne(Parent).deleteRule('cascade'),
            version: p.type(VersionField),
          },
        } as never),
      ]);
      const seed = fork();
      const parent = seed.create(Parent, { id: '1' } as never);
      [1, 2, 3].forEach((id) => seed.create(Child, { id: `${id}`, parent } as never));
      await seed.flush();
      const remove = async (versions: number[]) => {
        const em = fork();
        em.remove(Object.assign(em.getReference(Parent, '01'), { version: 1 }));
        versions.forEach((version, i) => em.remove(Object.assign(em.getReference(Child, `0${i + 1}`), { version })));
        await em.flush();
      };
      const error = await thrown(() => remove([1, 0, 1]));
      expect(error.conflicts).toMatchObject([{ entityName: 'Child', expected: 0, actual: 1 }]);
      await remove([1, 1, 1]);
      expect(await fork().count(Child)).toBe(0);
    });
  });
}
