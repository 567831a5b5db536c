/** Versions that come from outside: events that bring their own, and what leaves a row no room for further writes. */
import { type EntityManager, defineEntity, p, raw } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionExhausted, VersionField, touch } from '@mikro-ool/core';
import { type EntityManager as SqlEntityManager, SqlitePlatform } from '@mikro-orm/sql';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    slug: p.string().unique().nullable(),
    title: p.string().default(''),
    version: p.type(VersionField).fieldName('lock_version'),
  },
});
const Small = defineEntity({
  name: 'Small',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    version: p.type(VersionField).columnType('smallint'),
  },
});

const MAXIMUM = 2_147_483_647;
const ENDS = [
  { name: 'an integer', entity: Article, end: MAXIMUM },
  { name: 'a smallint', entity: Small as unknown as typeof Article, end: 32_767 },
];

interface Event {
  id: number;
  slug: string;
  title: string;
  version: number;
}
const event = (version: number, id = 1): Event => ({ id, slug: `s${id}`, title: `event ${version}`, version });

export function givenVersions(driver: TestDriver): void {
  const setUp = async () => {
    const db = await open(driver, [Article, Small]);
    const row = async (id = 1) => {
      const article = await db.fork().findOne(Article, id);
      return article && [article.title, article.version];
    };
    return { ...db, row };
  };
  const newer = { onConflictWhere: { version: { $lt: raw('excluded.lock_version') } } } as never;

  describe('versions that are given', () => {
    const ways: [string, (em: EntityManager, events: Event[]) => Promise<unknown>][] = [
      [
        'em.upsert',
        async (em, events) => {
          for (const one of events) {
            await em.upsert(Article, one);
          }
        },
      ],
      ['em.upsertMany', (em, events) => em.upsertMany(Article, events)],
      [
        'em.upsertMany of entities',
        (em, events) => em.upsertMany(events.map((one) => em.create(Article, one, { persist: false }))),
      ],
      [
        'onConflict().merge()',
        (em, events) => {
          const qb = (em as ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>).createQueryBuilder(Article);
          return qb.insert(events).onConflict('id').merge().execute();
        },
      ],
      [
        'onConflict().merge([...])',
        (em, events) => {
          const qb = (em as ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>).createQueryBuilder(Article);
          return qb.insert(events).onConflict('id').merge(['title', 'version']).execute();
        },
      ],
    ];
    for (const [name, write] of ways) {
      test(`${name}: a row that exists gets the greater of the given version and the next one`, async () => {
        const { fork, row } = await setUp();
        await write(fork(), [event(12, 1), event(12, 2)]);
        expect([await row(1), await row(2)]).toEqual([
          ['event 12', 12],
          ['event 12', 12],
        ]);
        await write(fork(), [event(30, 1), event(3, 2)]);
        expect([await row(1), await row(2)]).toEqual([
          ['event 30', 30],
          ['event 3', 13],
        ]);
      });
    }

    test('onConflict().merge() of values of its own', async () => {
      const { fork, row } = await setUp();
      await fork().insert(Article, event(12));
      const merge = (version: number) =>
        fork()
          .createQueryBuilder(Article)
          .insert(event(99))
          .onConflict('id')
          .merge({ title: 'merged', version })
          .execute();
      await merge(3);
      expect(await row()).toEqual(['merged', 13]);
      await merge(30);
      expect(await row()).toEqual(['merged', 30]);
    });

    test('a version that is not among the merged fields counts for the insert only', async () => {
      const { fork, row } = await setUp();
      await fork().insert(Article, event(12));
      await fork().upsert(Article, event(30), { onConflictMergeFields: ['title'] });
      expect(await row()).toEqual(['event 30', 13]);
      await fork().upsert(Article, event(40), { onConflictExcludeFields: ['version'] });
      expect(await row()).toEqual(['event 40', 14]);
    });

    test('a late event does not overwrite what came after it', async () => {
      const { fork, row, orm } = await setUp();
      if (!orm.em.getPlatform().usesReturningStatement()) {
        return; // MariaDB and MySQL know no condition there
      }
      for (const version of [10, 30, 20, 30]) {
        await fork().upsert(Article, event(version), newer);
      }
      expect(await row()).toEqual(['event 30', 30]);
      await fork().upsertMany(Article, [event(12), event(5, 2)], newer);
      await fork().upsertMany(Article, [event(31), event(4, 2)], newer);
      expect([await row(1), await row(2)]).toEqual([
        ['event 31', 31],
        ['event 5', 5],
      ]);
    });

    test('the entity of an upsert has the version that the row has', async () => {
      const { fork } = await setUp();
      await fork().insertMany(Article, [event(12, 1), event(12, 2)]);
      expect((await fork().upsert(Article, event(30))).version).toBe(30);
      expect((await fork().upsert(Article, event(3))).version).toBe(31);
      const em = fork();
      const articles = await em.upsertMany(Article, [event(40, 1), event(3, 2)]);
      expect(articles.map((article) => article.version)).toEqual([40, 13]);
      articles.forEach((article) => (article.title = 'next'));
      await em.flush();
      expect(articles.map((article) => article.version)).toEqual([41, 14]);
    });
  });

  describe('the end of the version column', () => {
    const writes: [string, (em: ReturnType<Awaited<ReturnType<typeof setUp>>['fork']>, version: number) => unknown][] =
      [
        [
          'em.create',
          (em, version) => {
            em.create(Article, event(version, 2));
            return em.flush();
          },
        ],
        [
          'em.create, among others',
          (em, version) => {
            em.create(Article, { ...event(1, 3) });
            em.create(Article, event(version, 2));
            return em.flush();
          },
        ],
        ['em.insert of data', (em, version) => em.insert(Article, event(version, 2))],
        [
          'em.insert of an entity',
          (em, version) => em.insert(em.create(Article, event(version, 2), { persist: false })),
        ],
        ['em.insertMany of data', (em, version) => em.insertMany(Article, [event(1, 3), event(version, 2)])],
        ['em.upsert', (em, version) => em.upsert(Article, event(version, 2))],
        ['em.upsert of a row that exists', (em, version) => em.upsert(Article, event(version))],
        ['em.upsertMany', (em, version) => em.upsertMany(Article, [event(1), event(version, 2)])],
        ['em.nativeUpdate', (em, version) => em.nativeUpdate(Article, { id: 1 }, { version })],
        ['qb.insert', (em, version) => em.createQueryBuilder(Article).insert(event(version, 2)).execute()],
        ['qb.update', (em, version) => em.createQueryBuilder(Article).update({ version }).where({ id: 1 }).execute()],
        [
          'qb.merge',
          (em, version) =>
            em
              .createQueryBuilder(Article)
              .insert(event(1))
              .onConflict('id')
              .merge({ title: 'merged', version })
              .execute(),
        ],
      ];
    for (const [name, write] of writes) {
      test(`${name} refuses a version that leaves no room, before any SQL`, async () => {
        const { fork, sent, row } = await setUp();
        await fork().insert(Article, event(1));
        for (const version of [MAXIMUM, MAXIMUM - 1, MAXIMUM + 1, -1, 1.5, NaN]) {
          let error: unknown;
          const log = await sent(async () => (error = await thrown(async () => write(fork(), version))));
          expect([version, error]).toEqual([version, expect.any(InvalidVersion)]);
          expect((error as Error).message).toContain('Article.version');
          expect(log).toEqual([]);
        }
        await write(fork(), 2 ** 30);
        expect((await row(1))![1]).toBe(/exists|pdate|merge/.test(name) ? 2 ** 30 : name === 'em.upsertMany' ? 2 : 1);
      });
    }

    for (const { name, entity, end } of ENDS) {
      for (const count of [1, 3]) {
        test(`${name}: the last version is written, read and deleted, and a further write says what to do (${count} of 3 rows)`, async () => {
          const { fork, orm } = await setUp();
          const seed = fork();
          [1, 2, 3].forEach((id) => seed.create(entity, { id, title: 'a', slug: `${id}` } as never));
          await seed.flush();
          const meta = orm.getMetadata().get(entity);
          const column = meta.properties.version.fieldNames[0];
          await fork().execute(`update ${meta.tableName} set ${column} = ${end - 1}`);
          const em = fork();
          const rows = (await em.find(entity, {}, { orderBy: { id: 'asc' } })) as { title: string; version: number }[];
          const mine = rows.slice(0, count);
          mine.forEach((row) => (row.title = 'last'));
          await em.flush();
          expect(mine.every((row) => row.version === end)).toBe(true);

          mine.forEach((row) => (row.title = 'beyond'));
          const error = await thrown(() => em.flush());
          expect(error).toBeInstanceOf(VersionExhausted);
          expect(error).not.toBeInstanceOf(InvalidVersion);
          expect(error.message).toContain(String(end));
          expect(mine.every((row) => row.version === end && row.title === 'beyond')).toBe(true);
          expect(await fork().count(entity, { title: 'last' } as never)).toBe(count);

          // the end of one row is no end of others, nor of the row's deletion
          const last = fork();
          const again = (await last.find(entity, {}, { orderBy: { id: 'asc' } })) as typeof rows;
          again.slice(0, count).forEach((row) => last.remove(row));
          again.slice(count).forEach((row) => (row.title = 'fine'));
          await last.flush();
          expect(await fork().count(entity)).toBe(3 - count);
        });
      }
    }

    // without a dialect we do not know how to refuse it
    for (const { name, entity, end } of driver.batches ? ENDS : []) {
      const data = (id: number) => ({ id, title: 'beyond' });
      const setBased: [string, (em: SqlEntityManager) => Promise<unknown>][] = [
        ['em.nativeUpdate', (em) => em.nativeUpdate(entity, {}, { title: 'beyond' })],
        ['qb.update', (em) => em.createQueryBuilder(entity).update({ title: 'beyond' }).where({ id: 2 }).execute()],
        ['a copy of qb.update', (em) => em.createQueryBuilder(entity).update({ title: 'beyond' }).clone().execute()],
        ['em.upsert', (em) => em.upsert(entity, data(2))],
        ['em.upsert with a version', (em) => em.upsert(entity, { ...data(2), version: 7 })],
        ['em.upsertMany', (em) => em.upsertMany(entity, [data(1), data(2), data(3)])],
        ['qb.merge', (em) => em.createQueryBuilder(entity).insert(data(2)).onConflict('id').merge().execute()],
        [
          'qb.merge of values',
          (em) => em.createQueryBuilder(entity).insert(data(2)).onConflict('id').merge({ title: 'beyond' }).execute(),
        ],
      ];
      for (const [way, write] of setBased) {
        test(`${name}: ${way} does not go beyond the end`, async () => {
          const { fork, orm } = await setUp();
          await fork().insertMany(entity, [1, 2, 3].map((id) => ({ id, title: 'a' })) as never);
          const meta = orm.getMetadata().get(entity);
          await fork().execute(
            `update ${meta.tableName} set ${meta.properties.version.fieldNames[0]} = ${end} where id = 2`,
          );
          for (const inTransaction of [false, true]) {
            const em = fork();
            const written = inTransaction ? em.transactional((tx) => write(tx as SqlEntityManager)) : write(em);
            const error = await thrown(() => written);
            // databases that keep to the range of the column say so themselves
            if (orm.em.getPlatform() instanceof SqlitePlatform) {
              expect(error).toBeInstanceOf(VersionExhausted);
              expect(error.message).toContain(`${meta.className}.version has reached ${end}`);
            } else {
              expect(error.message).toMatch(/out of range/i);
            }
          }
          const rows = await fork().find(entity, {}, { orderBy: { id: 'asc' } });
          expect(rows.map(({ title, version }) => [title, version])).toEqual([
            ['a', 1],
            ['a', end],
            ['a', 1],
          ]);
          // the way out
          await fork().nativeUpdate(entity, { id: 2 }, { title: 'back', version: 1 });
          await fork().execute(
            `update ${meta.tableName} set ${meta.properties.version.fieldNames[0]} = ${end} where id = 2`,
          );
          const last = fork();
          last.remove(await last.findOneOrFail(entity, 2));
          await last.flush();
          expect(await fork().count(entity)).toBe(2);
        });
      }
    }

    test('in the last tenth of the column a row is written in every way', async () => {
      const { fork, row } = await setUp();
      const start = MAXIMUM - 100;
      await fork().insertMany(Article, [event(1, 1), event(1, 2)]);
      await fork().execute(`update article set lock_version = ${start}`);
      const em = fork();
      const [one, two] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      touch(one!);
      await em.flush();
      [one!.slug, two!.slug] = ['moved', 's1'];
      await em.flush();
      one!.title = raw("upper('raw')") as never;
      await em.flush();
      await fork().nativeUpdate(Article, { id: 1 }, { title: 'native' });
      await fork().upsert(Article, { id: 1, slug: one!.slug, title: 'upserted' });
      expect([await row(1), await row(2)]).toEqual([
        ['upserted', start + 5],
        ['event 1', start + 1],
      ]);
    });

    test('a claim of the last version is a conflict where the row has another one', async () => {
      const { fork } = await setUp();
      await fork().insertMany(Article, [event(5, 1), event(5, 2)]);
      for (const ids of [[1], [1, 2]]) {
        const em = fork();
        ids.forEach((id) => em.assign(em.getReference(Article, id), { title: 'claimed', version: MAXIMUM }));
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        const named = driver.batches ? ids : [1];
        expect(error.conflicts).toMatchObject(named.map(() => ({ expected: MAXIMUM, actual: 5 })));
      }
    });

    test('a row that is beyond the end is no nonsense of a client', async () => {
      const { fork, orm } = await setUp();
      if (!(orm.em.getPlatform() instanceof SqlitePlatform)) {
        return; // the others keep to the range
      }
      await fork().insert(Article, event(5));
      await fork().execute(`update article set lock_version = ${MAXIMUM + 1}`);
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.title = 'changed';
      expect(await thrown(() => em.flush())).toBeInstanceOf(VersionExhausted);
      em.remove(article);
      expect(await thrown(() => em.flush())).toBeInstanceOf(VersionExhausted);
      article.version = MAXIMUM + 5;
      expect(await thrown(() => em.flush())).toBeInstanceOf(InvalidVersion);
    });
  });
}
