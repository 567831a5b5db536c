/** Rows are found by any kind of key and through any column name, one by one and in batches. */
import { randomUUID } from 'node:crypto';
import { type EntitySchema, PrimaryKeyProp, Type, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

/** Stored as `K-7`, used as 7. */
class PrefixedKey extends Type<number, string> {
  override convertToDatabaseValue(value: number): string {
    return typeof value === 'number' ? `K-${value}` : value;
  }
  override convertToJSValue(value: string): number {
    return typeof value === 'string' ? Number(value.slice(2)) : value;
  }
  override getColumnType(): string {
    return 'varchar(20)';
  }
}

const content = { title: p.string(), version: p.type(VersionField) };

const shapes: { name: string; entity: EntitySchema; key: (i: number) => Record<string, unknown> }[] = [
  {
    name: 'string key',
    entity: defineEntity({ name: 'StringKey', properties: { id: p.string().primary(), ...content } }),
    key: (i) => ({ id: `it's "key" ${i} \\ ü😀?` }),
  },
  {
    name: 'uuid key',
    entity: defineEntity({ name: 'UuidKey', properties: { id: p.uuid().primary(), ...content } }),
    key: () => ({ id: randomUUID() }),
  },
  {
    name: 'bigint key as string',
    entity: defineEntity({ name: 'BigintKey', properties: { id: p.bigint('string').primary(), ...content } }),
    key: (i) => ({ id: `${4_611_686_018_427n + BigInt(i)}` }),
  },
  {
    name: 'bigint key as bigint',
    entity: defineEntity({ name: 'BigintKey2', properties: { id: p.bigint().primary(), ...content } }),
    key: (i) => ({ id: 4_611_686_018_427n + BigInt(i) }),
  },
  {
    name: 'custom-typed key',
    entity: defineEntity({ name: 'CustomKey', properties: { id: p.type(PrefixedKey).primary(), ...content } }),
    key: (i) => ({ id: i }),
  },
  {
    name: 'date key',
    entity: defineEntity({ name: 'DateKey', properties: { id: p.datetime().primary(), ...content } }),
    key: (i) => ({ id: new Date(Date.UTC(2024, 1, 1 + i, 12, 30, 15)) }),
  },
  {
    name: 'composite key',
    entity: defineEntity({
      name: 'CompositeKey',
      properties: { tenant: p.string().primary(), number: p.integer().primary(), ...content },
    }),
    key: (i) => ({ tenant: `t${i % 2}`, number: i }),
  },
  {
    name: 'reserved and odd names',
    entity: defineEntity({
      name: 'OddNames',
      tableName: 'select',
      properties: {
        id: p.integer().primary().fieldName('order'),
        title: p.string().fieldName('odd "na\'me" %s'),
        version: p.type(VersionField).fieldName('where'),
      },
    }),
    key: (i) => ({ id: i }),
  },
];

export function keys(driver: TestDriver): void {
  describe('keys', () => {
    for (const { name, entity, key } of shapes) {
      for (const count of [1, 5]) {
        test(`${name}, ${count} ${count === 1 ? 'row' : 'rows in a batch'}`, async () => {
          const { fork, sent } = await open(driver, [entity]);
          const seed = fork();
          const ids = Array.from({ length: count }, (_, i) => key(i + 1));
          ids.forEach((id) => seed.create(entity, { ...id, title: 'new' } as never));
          await seed.flush();

          const em = fork();
          const rows = (await em.find(entity, {})) as { title: string; version: number }[];
          rows.forEach((row, i) => (row.title = `changed ${i}`));
          const log = await sent(() => em.flush());
          if (driver.batches) {
            const writes = log.filter((sql) => !/^(?:begin|commit)/.test(sql));
            expect(writes.map((sql) => sql.match(/update/)?.[0])).toEqual(['update']);
          }
          const stored = (await fork().find(entity, {})) as typeof rows;
          expect(stored.map((row) => row.title).toSorted()).toEqual(rows.map((row) => row.title).toSorted());
          expect(stored.every((row) => row.version === 2)).toBe(true);

          // all but the first are stale
          const theirs = fork();
          const changed = ((await theirs.find(entity, {})) as typeof rows).filter((row) => row.title !== 'changed 0');
          changed.forEach((row) => (row.title = 'theirs'));
          await theirs.flush();
          rows.forEach((row) => (row.title = 'late'));
          if (count > 1) {
            const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
            expect(error).toBeInstanceOf(ConcurrentUpdate);
            if (driver.batches) {
              expect(error.conflicts.length).toBe(count - 1);
            }
            expect(error.conflicts[0]).toMatchObject({ expected: 2, actual: 3 });
            const entityOf = error.conflicts[0]!.entity as Record<string, unknown>;
            const keyOf = Object.fromEntries(Object.keys(ids[0]!).map((prop) => [prop, entityOf[prop]]));
            expect(error.conflicts[0]!.primaryKey).toEqual(
              Object.keys(keyOf).length > 1 ? keyOf : Object.values(keyOf)[0],
            );
            expect(JSON.parse(JSON.stringify(error))).toMatchObject({ name: 'ConcurrentUpdate' });
            rows.forEach((row) => em.remove(row));
            const removal = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
            expect(removal.conflicts.length).toBe(driver.batches ? count - 1 : 1);
            expect(removal.conflicts[0]).toMatchObject({ operation: 'delete', expected: 2, actual: 3 });
          }
          const last = fork();
          (await last.find(entity, {})).forEach((row) => last.remove(row as object));
          await last.flush();
          expect(await fork().count(entity)).toBe(0);
        });
      }
    }

    // MariaDB has no key without an end
    const bytesKey = () =>
      (driver.name.startsWith('M') ? p.uint8array().columnType('varbinary(9)') : p.uint8array()).primary();
    const computed: { name: string; id: () => unknown; key: (i: number) => unknown }[] = [
      { name: 'string', id: () => p.string().primary(), key: (i) => `key ${i}` },
      { name: 'uuid', id: () => p.uuid().primary(), key: () => randomUUID() },
      { name: 'bigint', id: () => p.bigint().primary(), key: (i) => BigInt(i) },
      { name: 'custom-typed', id: () => p.type(PrefixedKey).primary(), key: (i) => i },
      { name: 'time', id: () => p.datetime().primary(), key: (i) => new Date(Date.UTC(2024, 1, 1 + i, 12, 30, 15)) },
      { name: 'day', id: () => p.date().primary(), key: (i) => `2024-02-0${i}` },
      { name: 'bytes', id: bytesKey, key: (i) => new Uint8Array([i, 255, 0]) },
    ];
    for (const { name, id, key } of computed) {
      test(`${name} key: columns that the database computes come back`, async () => {
        const Computed = defineEntity({
          name: 'Computed',
          properties: {
            id: id() as never,
            n: p.integer(),
            twice: p.integer().generated((columns) => `(${columns.n} * 2) stored`),
            version: p.type(VersionField),
          },
        }) as EntitySchema;
        const { fork } = await open(driver, [Computed]);
        // MikroORM does not find the keys of new rows again that are dates
        await fork().insertMany(
          Computed,
          [1, 2, 3].map((i) => ({ id: key(i), n: i })),
        );
        for (const count of [1, 3]) {
          const em = fork();
          const rows = (await em.find(Computed, {})).slice(0, count) as { n: number; twice: number }[];
          rows.forEach((row) => (row.n += 10));
          await em.flush();
          expect(rows.map(({ twice }) => twice)).toEqual(rows.map(({ n }) => 2 * n));
        }
      });
    }

    const renamed: { name: string; key: string; to: (row: Record<string, unknown>) => unknown }[] = [
      { name: 'string key', key: 'id', to: ({ id }) => `${String(id)}!` },
      { name: 'bigint key as bigint', key: 'id', to: ({ id }) => (id as bigint) + 10n ** 12n },
      { name: 'custom-typed key', key: 'id', to: ({ id }) => (id as number) + 100 },
      { name: 'composite key', key: 'number', to: ({ number }) => (number as number) + 100 },
      { name: 'reserved and odd names', key: 'id', to: ({ id }) => (id as number) + 100 },
    ];
    for (const { name, key: changing, to } of renamed) {
      for (const count of [1, 4]) {
        test(`a changed ${name}, ${count} ${count === 1 ? 'row' : 'rows in a batch'}`, async () => {
          const { entity, key } = shapes.find((shape) => shape.name === name)!;
          const { fork } = await open(driver, [entity]);
          const seed = fork();
          const ids = Array.from({ length: count }, (_, i) => key(i + 1));
          ids.forEach((id) => seed.create(entity, { ...id, title: 'new' } as never));
          await seed.flush();
          const load = async () => {
            const em = fork();
            const rows: (Record<string, unknown> & { version: number })[] = [];
            for (const id of ids) {
              rows.push(await em.findOneOrFail(entity, id as never));
            }
            return [em, rows] as const;
          };
          const [em, rows] = await load();
          const [theirs, same] = await load();
          same.at(-1)!.title = 'theirs';
          await theirs.flush();

          rows.forEach((row) => Object.assign(row, { title: 'ours', [changing]: to(row) }));
          const changed = rows.map((row) => row[changing]);
          const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
          // the row is still where it was
          const stored = ids.at(-1)!;
          const primaryKey = Object.keys(stored).length > 1 ? stored : Object.values(stored)[0];
          expect(error.conflicts).toMatchObject([{ primaryKey, expected: 1, actual: 2 }]);
          expect(error.conflicts[0]!.entity).toBe(rows.at(-1));
          expect(rows.map((row) => row[changing])).toEqual(changed);
          expect(await fork().count(entity, { title: 'ours' })).toBe(0);
          expect(await em.findOne(entity, ids[0] as never)).toBe(rows[0]);

          // after a look at what they did, it is written
          rows.at(-1)!.version = 2;
          await em.flush();
          expect(rows.map((row) => row.version)).toEqual(rows.map((row) => (row === rows.at(-1) ? 3 : 2)));
          for (const [i, id] of ids.entries()) {
            expect(await fork().findOne(entity, id as never)).toBe(null);
            const there = await fork().findOneOrFail(entity, { ...id, [changing]: changed[i] } as never);
            expect(there).toMatchObject({ title: 'ours', version: rows[i]!.version });
          }
          rows.forEach((row) => (row.title = 'next'));
          await em.flush();
          expect(await fork().count(entity, { title: 'next' })).toBe(count);

          // what is removed is the row that was loaded, whatever key was assigned since
          rows.forEach((row) => (row[changing] = to(row)));
          const last = fork();
          const { version } = rows[0]!;
          last.create(entity, { ...ids[0], [changing]: rows[0]![changing], title: 'other', version } as never);
          await last.flush();
          rows.forEach((row) => em.remove(row));
          await em.flush();
          expect(await fork().find(entity, {})).toMatchObject([{ title: 'other' }]);
        });
      }
    }

    test('keys that are foreign keys, simple and composite', async () => {
      class Owner {
        tenant!: string;
        number!: number;
        [PrimaryKeyProp]?: ['tenant', 'number'];
        version!: number;
      }
      class Profile {
        owner!: Owner;
        bio!: string;
        [PrimaryKeyProp]?: 'owner';
        version!: number;
      }
      class Visit {
        owner!: Owner;
        day!: number;
        [PrimaryKeyProp]?: ['owner', 'day'];
        note!: string;
        version!: number;
      }
      const entities = [
        defineEntity({
          class: Owner,
          properties: { tenant: p.string().primary(), number: p.integer().primary(), version: p.type(VersionField) },
        }),
        defineEntity({
          class: Profile,
          properties: { owner: () => p.oneToOne(Owner).primary(), bio: p.string(), version: p.type(VersionField) },
        }),
        defineEntity({
          class: Visit,
          properties: {
            owner: () => p.manyToOne(Owner).primary(),
            day: p.integer().primary(),
            note: p.string(),
            version: p.type(VersionField),
          },
        }),
      ];
      const { fork } = await open(driver, entities);
      const seed = fork();
      for (let i = 1; i <= 3; i++) {
        const owner = seed.create(Owner, { tenant: 't', number: i, version: 1 });
        seed.create(Profile, { owner, bio: 'new', version: 1 });
        seed.create(Visit, { owner, day: 10 - i, note: 'new', version: 1 });
      }
      await seed.flush();
      const em = fork();
      const profiles = await em.find(Profile, {});
      const visits = await em.find(Visit, {});
      profiles.forEach((profile) => (profile.bio = 'ours'));
      visits.forEach((visit) => (visit.note = 'ours'));
      await em.flush();
      expect([...profiles, ...visits].every((entity) => entity.version === 2)).toBe(true);
      const theirs = fork();
      (await theirs.find(Visit, {})).forEach((visit) => (visit.note = 'theirs'));
      await theirs.flush();
      visits.forEach((visit) => (visit.note = 'late'));
      const error = (await thrown(() => em.flush())) as unknown as ConcurrentUpdate;
      expect(error.conflicts[0]).toMatchObject({ entityName: 'Visit', expected: 2, actual: 3 });
      if (driver.batches) {
        expect(error.conflicts.length).toBe(3);
      }
      const last = fork();
      [...(await last.find(Profile, {})), ...(await last.find(Visit, {}))].forEach((entity) => last.remove(entity));
      await last.flush();
      expect((await fork().count(Profile)) + (await fork().count(Visit))).toBe(0);
    });
  });
}
