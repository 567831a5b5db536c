/** Wherever MikroORM goes, the lock goes along: contexts, disabled transactions, replicas, hooks, filters, caches. */
import {
  type EntityManager,
  type EventSubscriber,
  FlushMode,
  type InferEntity,
  MikroORM,
  type Options,
  RequestContext,
  TransactionPropagation,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Database, type TestDriver, open, openOwn, testUnless, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    hits: p.integer().default(0),
    deleted: p.boolean().default(false),
    version: p.type(VersionField),
  },
  filters: { live: { name: 'live', cond: { deleted: false }, default: true } },
});
const Note = defineEntity({ name: 'Note', properties: { id: p.integer().primary(), text: p.string().unique() } });

export function surroundings(driver: TestDriver): void {
  /** Articles 1 to 3 at version 1, and note 1. */
  const setUp = async (more: Partial<Options> = {}, start = open) => {
    const db = await start(driver, [Article, Note], more);
    const seed = db.fork();
    [1, 2, 3].forEach((id) => seed.create(Article, { id, title: 'saved' }));
    seed.create(Note, { id: 1, text: 'note' });
    await seed.flush();
    /** Somebody else changes one article. */
    const rival = async (id = 1, data: object = { title: 'theirs' }) => {
      const theirs = db.orm.em.fork({ disableContextResolution: true });
      theirs.assign(await theirs.findOneOrFail(Article, id, { filters: false }), data);
      await theirs.flush();
    };
    const row = async (id = 1) => {
      const sql = `select title, version from article where id = ${id}`;
      const [found] = await db.orm.em.getConnection().execute<{ title: string; version: number }[]>(sql);
      return found && [found.title, found.version];
    };
    return { ...db, rival, row };
  };
  type Em = ReturnType<Database['fork']>;
  type Loaded = InferEntity<typeof Article>;

  describe('contexts', () => {
    type Work = (em: EntityManager, loaded?: Loaded[]) => Promise<void>;
    const contexts: Record<string, [run: (db: Database, work: Work) => Promise<unknown>, options?: Partial<Options>]> =
      {
        'a fork': [({ fork }, work) => work(fork())],
        'RequestContext, through the global EntityManager': [
          ({ orm }, work) => RequestContext.create(orm.em, () => work(orm.em)),
        ],
        'the global EntityManager': [({ orm }, work) => work(orm.em), { allowGlobalContext: true }],
        'a repository in a RequestContext': [
          ({ orm }, work) =>
            RequestContext.create(orm.em, () => work(orm.em.getRepository(Article).getEntityManager())),
        ],
        'a fork with the identity map of its parent': [
          async ({ fork }, work) => {
            const parent = fork();
            await parent.find(Article, {});
            await work(parent.fork({ clear: false }));
          },
        ],
        'em.transactional': [({ fork }, work) => fork().transactional(work)],
        'em.transactional through the global EntityManager': [
          ({ orm }, work) => orm.em.transactional(() => work(orm.em)),
        ],
        'em.transactional, nested': [({ fork }, work) => fork().transactional((tx) => tx.transactional(work))],
        'em.begin': [
          async ({ fork }, work) => {
            const em = fork();
            await em.begin();
            await work(em).then(
              () => em.commit(),
              async (error: unknown) => {
                await em.rollback();
                throw error;
              },
            );
          },
        ],
        'disableIdentityMap, persisted': [
          async ({ fork }, work) => {
            const em = fork();
            const detached = await em.find(Article, {}, { disableIdentityMap: true });
            await work(em.persist(detached), detached);
          },
        ],
        'disableIdentityMap in the config, persisted': [
          async ({ fork }, work) => {
            const em = fork();
            const detached = await em.find(Article, {});
            await work(em.persist(detached), detached);
          },
          { disableIdentityMap: true },
        ],
        'em.stream, merged': [
          async ({ fork }, work) => {
            const em = fork();
            const merged: Loaded[] = [];
            for await (const article of em.stream(Article, {})) {
              merged.push(em.merge(article));
            }
            await work(em, merged);
          },
        ],
      };
    for (const [name, [run, options]] of Object.entries(contexts)) {
      const testContext = name.startsWith('em.stream') ? testUnless(driver, 'streams') : test;
      testContext(`${name}: a change is saved with one bump, a stale one is a conflict`, async () => {
        const db = await setUp(options);
        await run(db, async (em, loaded) => {
          const articles = loaded ?? (await em.find(Article, {}));
          articles.forEach((article) => (article.title = 'ours'));
          await em.flush();
          expect(articles.map((article) => article.version)).toEqual([2, 2, 2]);
        });
        expect(await db.row(1)).toEqual(['ours', 2]);
        const error = await thrown(() =>
          run(db, async (em, loaded) => {
            const articles = loaded ?? (await em.find(Article, {}));
            // not the real rival, who might have to wait for our transaction
            articles.find((article) => article.id === 2)!.version = 1;
            articles.forEach((article) => (article.title = 'stale'));
            await em.flush();
          }),
        );
        expect(error).toMatchObject({
          name: 'ConcurrentUpdate',
          conflicts: [{ primaryKey: 2, expected: 1, actual: 2 }],
        });
        for (const id of [1, 2, 3]) {
          expect(await db.row(id)).toEqual(['ours', 2]);
        }
      });
    }

    test('of forks that flush at the same time, one saves', async () => {
      const { fork, row } = await setUp();
      const forks = Array.from({ length: 8 }, () => fork());
      const results = await Promise.allSettled(
        forks.map(async (em, i) => {
          (await em.findOneOrFail(Article, 1)).title = `fork ${i}`;
          await Promise.resolve();
          await em.flush();
        }),
      );
      const saved = results.filter((result) => result.status === 'fulfilled').length;
      expect((await row())![1]).toBe(1 + saved);
      for (const result of results) {
        expect(result.status === 'rejected' ? result.reason : new ConcurrentUpdate([])).toBeInstanceOf(
          ConcurrentUpdate,
        );
      }
    });

    test('a fork with the same entities: what it saved is no conflict for its parent', async () => {
      const { fork, row, sent } = await setUp();
      const parent = fork();
      const article = await parent.findOneOrFail(Article, 1);
      article.title = 'fork';
      await parent.fork({ clear: false }).flush();
      expect(await sent(() => parent.flush())).toEqual([]);
      article.title = 'parent';
      await parent.flush();
      expect(await row()).toEqual(['parent', 3]);
    });
  });

  describe('without transactions', () => {
    type Work = (em: EntityManager) => Promise<unknown>;
    const ways: Record<string, [run: (em: Em, work: Work) => Promise<unknown>, options?: Partial<Options>]> = {
      'implicitTransactions: false': [(em, work) => work(em), { implicitTransactions: false }],
      'disableTransactions: true': [(em, work) => work(em), { disableTransactions: true }],
      'disableTransactions: true, em.transactional': [
        (em, work) => em.transactional(work),
        { disableTransactions: true },
      ],
      'disableTransactions: true, em.begin': [
        async (em, work) => {
          await em.begin();
          await work(em);
          await em.commit();
        },
        { disableTransactions: true },
      ],
      'em.fork({ disableTransactions: true })': [(em, work) => work(em.fork({ disableTransactions: true }))],
      'implicitTransactions: false, em.fork({ disableTransactions: true })': [
        (em, work) => work(em.fork({ disableTransactions: true })),
        { implicitTransactions: false },
      ],
      'propagation NOT_SUPPORTED': [
        (em, work) => em.transactional(work, { propagation: TransactionPropagation.NOT_SUPPORTED }),
      ],
      'implicitTransactions: false, propagation NOT_SUPPORTED': [
        (em, work) => em.transactional(work, { propagation: TransactionPropagation.NOT_SUPPORTED }),
        { implicitTransactions: false },
      ],
      ignoreNestedTransactions: [
        (em, work) => em.transactional((tx) => tx.transactional(work), { ignoreNestedTransactions: true }),
      ],
      ...(driver.concurrent && {
        // on the one connection of SQLite the flush would wait for the transaction around it
        'propagation NOT_SUPPORTED in a transaction': [
          (em, work) =>
            em.transactional((tx) => tx.transactional(work, { propagation: TransactionPropagation.NOT_SUPPORTED })),
        ],
      }),
    };
    for (const [name, [run, options]] of Object.entries(ways)) {
      test(`${name}: a flush is all or nothing, and can be tried again`, async () => {
        const { fork, row } = await setUp(options);
        await run(fork(), async (em) => {
          const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
          const note = await em.findOneOrFail(Note, 1);
          articles.forEach((article) => (article.title = 'ours'));
          em.create(Note, { id: 2, text: 'new' });
          em.remove(note);
          articles[2]!.version = 7;
          expect(await thrown(() => em.flush())).toMatchObject({
            conflicts: [{ primaryKey: 3, expected: 7, actual: 1 }],
          });
          expect([await em.count(Note), await em.count(Article, { title: 'ours' })]).toEqual([1, 0]);
          expect(articles.map((article) => article.version)).toEqual([1, 1, 7]);
          articles[2]!.version = 1;
          await em.flush();
          expect(articles.map((article) => article.version)).toEqual([2, 2, 2]);
        });
        expect([await row(1), await row(2), await row(3)]).toEqual(Array.from({ length: 3 }, () => ['ours', 2]));
        expect(await fork().find(Note, {})).toMatchObject([{ id: 2, text: 'new' }]);
      });
    }

    test('one row needs no transaction', async () => {
      const { fork, rival, sent } = await setUp({ implicitTransactions: false });
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.title = 'ours';
      expect((await sent(() => em.flush())).length).toBe(1);
      article.title = 'stale';
      await rival();
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
    });
  });

  if (driver.replicas) {
    describe('read replicas', () => {
      /** The primary has articles 1 to 3 at version 1; the replica has 1 and 2 at version 77, and no 3. */
      const replicated = async (more: Partial<Options>) => {
        const entities = [Article, Note];
        const [primary, replica] = [await open(driver, entities), await open(driver, entities)].map(
          ({ orm }) => orm.config.getAll().dbName!,
        );
        const options = await driver.create();
        const orm = await MikroORM.init({
          ...{ ...options, ...more, entities, dbName: primary },
          // the SQLite driver looks for the file of a replica among the driver's own options
          replicas: [{ dbName: replica, driverOptions: { dbName: replica } }],
        } as Options);
        onTestFinished(() => orm.close());
        for (const [type, ids, version] of [
          ['write', [1, 2, 3], 1],
          ['read', [1, 2], 77],
        ] as const) {
          const connection = orm.em.getConnection(type) as ReturnType<Em['getConnection']>;
          if (primary === ':memory:') {
            await connection.executeDump(await orm.schema.getCreateSchemaSQL());
          }
          for (const id of ids) {
            await connection.execute(`insert into article (id, title, version) values (${id}, '${type}', ${version})`);
          }
        }
        return () => orm.em.fork();
      };
      for (const implicitTransactions of [true, false]) {
        test(`conflicts are described from the primary, ${implicitTransactions ? 'in' : 'without'} a transaction`, async () => {
          const fork = await replicated({ implicitTransactions });
          for (const operation of ['update', 'delete'] as const) {
            for (const ids of [[1], [1, 2]]) {
              const em = fork();
              const articles = await em.find(Article, ids);
              expect(articles.map((article) => article.title)).toEqual(ids.map(() => 'read'));
              articles.forEach((article) => (operation === 'delete' ? em.remove(article) : (article.title = 'ours')));
              const error = await thrown(() => em.flush());
              expect(error).toMatchObject({
                conflicts: (driver.batches ? ids : [1]).map((primaryKey) => ({
                  primaryKey,
                  operation,
                  expected: 77,
                  actual: 1,
                })),
              });
            }
          }
        });

        test(`claims are checked on the primary, ${implicitTransactions ? 'in' : 'without'} a transaction`, async () => {
          const fork = await replicated({ implicitTransactions });
          const claim = async (id: number, version: number) => {
            const em = fork();
            em.assign(em.getReference(Article, id), { version });
            await em.flush();
          };
          await claim(1, 1);
          await claim(3, 1);
          expect(await thrown(() => claim(1, 77))).toMatchObject({
            conflicts: [{ operation: 'check', expected: 77, actual: 1 }],
          });
        });
      }
    });
  }

  describe('subscribers', () => {
    const subscribed = async (subscriber: (db: { em: () => EntityManager }) => EventSubscriber) => {
      let em: EntityManager | undefined;
      const db = await setUp();
      em = db.orm.em.fork({ freshEventManager: true });
      em.getEventManager().registerSubscriber(subscriber({ em: () => em! }));
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      return { ...db, em, articles };
    };

    test('onFlush: computeChangeSet and recomputeSingleChangeSet of other articles are checked and bumped once', async () => {
      const { em, articles, rival, row } = await subscribed(() => ({
        onFlush({ uow }) {
          const [one, two, three] = [1, 2, 3].map(
            (id) => uow.getById(Article, id as never) as unknown as { title: string; hits: number },
          );
          one!.hits = 5;
          uow.recomputeSingleChangeSet(one!);
          two!.title = 'by the subscriber';
          uow.computeChangeSet(two!);
          three!.hits = 5;
          uow.computeChangeSet(three!);
        },
      }));
      articles[0]!.title = 'ours';
      await em.flush();
      expect([await row(1), await row(2), await row(3)]).toEqual([
        ['ours', 2],
        ['by the subscriber', 2],
        ['saved', 2],
      ]);
      await rival(3);
      articles.forEach((article) => (article.hits = 0));
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 3, expected: 2, actual: 3 }] });
      expect(await row(1)).toEqual(['ours', 2]);
    });

    for (const ids of [[1], [1, 2, 3]]) {
      const rows = ids.length === 1 ? 'one row' : 'a batch';
      test(`beforeUpdate changes ${rows}: it is written along, with one bump`, async () => {
        const { em, articles, rival, row, fork } = await subscribed(() => ({
          beforeUpdate: ({ entity }) => void ((entity as { hits: number }).hits = 7),
        }));
        const changed = articles.filter((article) => ids.includes(article.id));
        changed.forEach((article) => (article.title = 'ours'));
        await em.flush();
        expect(await fork().find(Article, ids)).toMatchObject(ids.map(() => ({ title: 'ours', hits: 7, version: 2 })));
        await rival();
        changed.forEach((article) => (article.title = 'stale'));
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ primaryKey: 1, expected: 2, actual: 3 }],
        });
        expect(await row(1)).toEqual(['theirs', 3]);
      });

      test(`beforeUpdate assigns a version of ${rows}: a claim, the last one counts`, async () => {
        const { em, articles, row } = await subscribed(() => ({
          beforeUpdate: ({ entity }) => void ((entity as { version: number }).version = 9),
        }));
        articles.filter((article) => ids.includes(article.id)).forEach((article) => (article.title = 'ours'));
        const error = await thrown(() => em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect((error as unknown as ConcurrentUpdate).conflicts[0]).toMatchObject({
          primaryKey: 1,
          expected: 9,
          actual: 1,
        });
        expect(await row(1)).toEqual(['saved', 1]);
      });

      test(`afterUpdate changes ${rows}: it stays to be written by the next flush, on the new version`, async () => {
        let again = true;
        const { em, articles, row } = await subscribed(() => ({
          afterUpdate: ({ entity }) => void (again && ((entity as { title: string }).title = 'afterwards')),
        }));
        articles.filter((article) => ids.includes(article.id)).forEach((article) => (article.title = 'ours'));
        await em.flush();
        expect(await row(1)).toEqual(['ours', 2]);
        again = false;
        await em.flush();
        expect(await row(1)).toEqual(['afterwards', 3]);
        expect(articles[0]!.version).toBe(3);
      });

      test(`beforeDelete changes ${rows}: it is deleted where it has the version that was read`, async () => {
        const { em, articles, rival, row } = await subscribed(() => ({
          beforeDelete: ({ entity }) => void ((entity as { title: string }).title = 'last words'),
        }));
        await rival(2);
        articles.filter((article) => ids.includes(article.id)).forEach((article) => em.remove(article));
        if (ids.includes(2)) {
          expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ operation: 'delete', primaryKey: 2 }] });
          expect(await row(1)).toEqual(['saved', 1]);
        } else {
          await em.flush();
          expect(await row(1)).toBeUndefined();
        }
      });
    }

    test('beforeCreate and onFlush add entities, which start at 1', async () => {
      const { em, row } = await subscribed(() => ({
        beforeCreate: ({ entity }) => void ((entity as { title: string }).title += '!'),
        onFlush({ em: flushing, uow }) {
          const added = flushing.create(Article, { id: 11, title: 'added' });
          uow.computeChangeSet(added);
        },
      }));
      em.create(Article, { id: 10, title: 'new' });
      await em.flush();
      expect([await row(10), await row(11)]).toEqual([
        ['new!', 1],
        ['added!', 1],
      ]);
    });
  });

  test("the user's own EntityManager class stays in use, and untouched", async () => {
    class OwnEntityManager extends SqlEntityManager {
      flushed = 0;
      override async flush(): Promise<void> {
        this.flushed++;
        await super.flush();
      }
    }
    const before = Object.getOwnPropertyNames(OwnEntityManager.prototype);
    const { orm, rival } = await setUp({ entityManager: OwnEntityManager });
    expect(orm.em).toBeInstanceOf(OwnEntityManager);
    const em = orm.em.fork() as OwnEntityManager;
    expect(em).toBeInstanceOf(OwnEntityManager);
    const article = await em.findOneOrFail(Article, 1);
    article.title = 'ours';
    await rival();
    expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
    expect(em.flushed).toBe(1);
    expect(Object.getOwnPropertyNames(OwnEntityManager.prototype)).toEqual(before);
  });

  describe('filters', () => {
    for (const filter of ['of the entity', 'of the EntityManager']) {
      test(`${filter} do not hide a row that somebody else filtered out: it is stale, not gone`, async () => {
        const { orm, fork, rival } = await setUp({}, openOwn);
        if (filter === 'of the EntityManager') {
          orm.em.addFilter({ name: 'untouched', cond: { title: 'saved' }, entity: [Article] });
        }
        const em = fork();
        const [one, two] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
        await rival(1, { deleted: true, title: 'theirs' });
        await rival(2, { deleted: true, title: 'theirs' });
        expect(await fork().count(Article)).toBe(1);
        one!.title = 'ours';
        expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
        em.assign(one!, { title: 'saved' });
        em.remove(two!);
        expect(await thrown(() => em.flush())).toMatchObject({
          conflicts: [{ operation: 'delete', expected: 1, actual: 2 }],
        });
        const other = fork();
        other.assign(other.getReference(Article, 1), { version: 2 });
        other.assign(other.getReference(Article, 2), { version: 1 });
        expect(await thrown(() => other.flush())).toMatchObject({
          conflicts: [{ operation: 'check', primaryKey: 2, expected: 1, actual: 2 }],
        });
      });
    }
  });

  describe('writes that bypass MikroORM', () => {
    const writes: Record<string, (em: Em, bump: boolean) => Promise<unknown>> = {
      Kysely: (em, bump) => {
        const kysely = em.getKysely<{ article: { id: number; title: string; version: number } }>();
        return kysely
          .updateTable('article')
          .set((eb) => ({ title: 'raw', ...(bump && { version: eb('version', '+', 1) }) }))
          .where('id', '=', 1)
          .execute();
      },
      'raw SQL': (em, bump) =>
        em
          .getConnection()
          .execute(`update article set title = 'raw'${bump ? ', version = version + 1' : ''} where id = 1`),
      'raw SQL in our transaction': async (em, bump) =>
        em
          .getConnection()
          .execute(
            `update article set title = 'raw'${bump ? ', version = version + 1' : ''} where id = 1`,
            [],
            'run',
            em.getTransactionContext(),
          ),
    };
    for (const [name, write] of Object.entries(writes)) {
      test(`${name} that bumps by hand is seen, one that does not is overwritten`, async () => {
        const { fork, row } = await setUp();
        const attempt = (bump: boolean) => {
          const change = async (em: Em) => {
            const article = await em.findOneOrFail(Article, 1);
            await write(em, bump);
            article.title = 'ours';
            await em.flush();
          };
          const em = fork();
          return name.endsWith('our transaction') ? em.transactional((tx) => change(tx as Em)) : change(em);
        };
        expect(await thrown(() => attempt(true))).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
        const [, version] = (await row())!;
        await attempt(false);
        expect(await row()).toEqual(['ours', (version as number) + 1]);
      });
    }
  });

  describe('reads', () => {
    testUnless(driver, 'streams')('em.stream does not move the version under unsaved changes', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.title = 'ours';
      await rival();
      const versions: number[] = [];
      for await (const { version } of em.stream(Article, { orderBy: { id: 'asc' } })) {
        versions.push(version);
      }
      expect(versions).toEqual([2, 1, 1]);
      expect(article).toMatchObject({ title: 'ours', version: 1 });
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });

    test('a result cache has the version of its time: an older one is a conflict', async () => {
      const { fork, rival, sent } = await setUp();
      const cached = (em: Em) => em.find(Article, {}, { cache: ['articles', 60_000], orderBy: { id: 'asc' } });
      await cached(fork());
      const fresh = fork();
      (await cached(fresh))[1]!.title = 'ours';
      await fresh.flush();
      await rival();
      const em = fork();
      let article: { version: number; title: string } | undefined;
      expect(await sent(async () => ([article] = await cached(em)))).toEqual([]);
      article!.title = 'ours';
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, expected: 1, actual: 2 }] });
    });

    test('a cached row does not move the version under unsaved changes either', async () => {
      const { fork, rival } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      await rival();
      const cached = (by: Em) => by.find(Article, {}, { cache: ['articles', 60_000] });
      await cached(fork());
      article.title = 'ours';
      await cached(em);
      expect(article).toMatchObject({ title: 'ours', version: 1 });
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
    });

    for (const [flushMode, how, flushes] of [
      [FlushMode.AUTO, 'persisted', true],
      [FlushMode.AUTO, 'removed', true],
      [FlushMode.AUTO, 'changed', false],
      [FlushMode.ALWAYS, 'changed', true],
      [FlushMode.COMMIT, 'persisted', false],
    ] as const) {
      test(`flushMode ${flushMode}, ${how}: em.find ${flushes ? 'throws the ConcurrentUpdate' : 'does not flush'}`, async () => {
        const { fork, rival, row } = await setUp();
        const em = fork();
        em.setFlushMode(flushMode);
        const article = await em.findOneOrFail(Article, 1);
        await rival();
        article.title = 'ours';
        if (how !== 'changed') {
          em[how === 'removed' ? 'remove' : 'persist'](article);
        }
        const find = () => em.find(Article, { hits: 0 });
        if (flushes) {
          expect(await thrown(find)).toMatchObject({ conflicts: [{ entity: article, expected: 1, actual: 2 }] });
        } else {
          await find();
        }
        // and it is not forgotten
        expect(article.version).toBe(1);
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect(await row()).toEqual(['theirs', 2]);
      });
    }
  });

  test('em.insert and em.insertMany with entities start at 1 or as given, in memory as in the database', async () => {
    const { fork, row } = await setUp();
    const em = fork();
    const make = (id: number, version?: number) =>
      em.create(Article, { id, title: 'inserted', ...(version && { version }) }, { persist: false });
    const articles = [make(10), make(11, 5), make(12), make(13, 6)];
    await em.insert(articles[0]!);
    await em.insert(articles[1]!);
    await em.insertMany([articles[2]!, articles[3]!]);
    expect(articles.map((article) => article.version)).toEqual([1, 5, 1, 6]);
    expect([await row(10), await row(11), await row(12), await row(13)]).toEqual([
      ['inserted', 1],
      ['inserted', 5],
      ['inserted', 1],
      ['inserted', 6],
    ]);
  });

  test('two ORMs with the same entities, one of them not wrapped: that one is refused, the other goes on', async () => {
    const plain = await driver.create();
    const unwrapped = { ...plain, driver: Object.getPrototypeOf(plain.driver) as Options['driver'] };
    const refused = () => thrown(() => MikroORM.init({ ...unwrapped, entities: [Article, Note] }));
    expect((await refused()).message).toContain('the driver checks no versions');
    const { fork, rival } = await setUp();
    expect((await refused()).message).toContain('the driver checks no versions');
    const em = fork();
    (await em.findOneOrFail(Article, 1)).title = 'ours';
    await rival();
    expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
  });
}
