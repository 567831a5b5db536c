/**
 * The contract with MikroORM's internals (src/hooks/ and src/mikro-orm/): each test names what it stands on, so that a MikroORM that
 * changes it is noticed here, in words, before a lock stops locking.
 */
import {
  ChangeSetType,
  type EntityProperty,
  LockMode,
  MikroORM,
  type Options,
  PolymorphicRef,
  QueryHelper,
  defineEntity,
  helper,
  p,
} from '@mikro-orm/core';
import type { AbstractSqlConnection, EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { beforeEach, expect, onTestFinished, test } from 'vitest';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.integer().version() },
});

let orm: MikroORM;
let calls: string[];

/** Plain MikroORM, without us. */
async function open(entities: NonNullable<Options['entities']>): Promise<MikroORM> {
  const opened = await MikroORM.init({ driver: SqliteDriver, dbName: ':memory:', entities });
  onTestFinished(() => opened.close());
  await opened.schema.create();
  return opened;
}

beforeEach(async () => {
  orm = await open([Article]);
  calls = [];
});

/** Replaces a method on an instance, and notes that it was called. */
function spy(target: object, method: string, note: (args: unknown[]) => string = () => method): void {
  const methods = target as Record<string, (...args: unknown[]) => unknown>;
  const original = methods[method];
  expect(original, `MikroORM no longer has the method ${method}(); see src/hooks/`).toBeTypeOf('function');
  methods[method] = (...args) => {
    calls.push(note(args));
    return original!.apply(target, args);
  };
}

test('one flush: doCommit, onFlush listeners, getChangeSetGroups, BEGIN, persistToDatabase, the persister, COMMIT', async () => {
  const em = orm.em.fork();
  const uow = em.getUnitOfWork(false);
  em.getEventManager().registerSubscriber({ onFlush: () => void calls.push('onFlush') });
  const connection = em.getConnection('write');
  for (const method of ['begin', 'commit']) {
    spy(connection, method);
  }
  for (const method of ['doCommit', 'filterCollectionUpdates', 'getChangeSetGroups', 'persistToDatabase']) {
    spy(uow, method);
  }
  const persister = uow.getChangeSetPersister();
  for (const method of ['executeInserts', 'executeUpdates', 'executeDeletes']) {
    // every method is entered twice: once for all schemas, then for each with `true` at the end
    spy(persister, method, (args) => `${method} ${args.at(-1) === true}`);
  }
  em.create(Article, { id: 1, title: 'a' });
  em.create(Article, { id: 2, title: 'b' });
  await em.flush();
  const wholeFlush = (...writes: string[]) => [
    ...['doCommit', 'onFlush', 'filterCollectionUpdates', 'getChangeSetGroups', 'begin', 'persistToDatabase'],
    ...writes,
    'commit',
  ];
  const message = 'MikroORM carries out a flush in another order than src/hooks/ relies on';
  expect(calls, message).toEqual(wholeFlush('executeInserts false', 'executeInserts true', 'filterCollectionUpdates'));

  const [a, b] = await em.find(Article, {});
  a!.title = 'changed';
  em.remove(b!);
  calls = [];
  await em.flush();
  expect(calls, message).toEqual(
    wholeFlush(
      ...['executeUpdates false', 'executeUpdates true', 'filterCollectionUpdates'],
      ...['executeDeletes false', 'executeDeletes true'],
    ),
  );
});

test('what is changed while a flush is on its way: snapshots are taken and stacks emptied by methods that can be hooked', async () => {
  const em = orm.em.fork();
  const uow = em.getUnitOfWork(false);
  const methods = [
    ...['commitCreateChangeSets', 'commitUpdateChangeSets', 'commitCollectionUpdates', 'takeCollectionSnapshots'],
    'postCommitCleanup',
  ];
  const article = em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  methods.forEach((method) => spy(uow, method));
  let sent = false;
  const persister = uow.getChangeSetPersister() as unknown as { executeUpdates(...args: unknown[]): Promise<void> };
  const { executeUpdates } = persister;
  persister.executeUpdates = async (...args) => {
    await executeUpdates.apply(persister, args);
    sent = true;
    expect(helper(article).__originalEntityData, 'the snapshot is taken when the statement is through').toMatchObject({
      title: 'a',
    });
    expect(helper(article).__processing, 'an entity that is being written is marked').toBe(true);
    article.title = 'assigned meanwhile';
    em.create(Article, { id: 2, title: 'created meanwhile' });
  };
  article.title = 'b';
  await em.flush();
  expect(sent).toBe(true);
  expect(helper(article).__originalEntityData, 'MikroORM keeps what was not sent by itself now').toMatchObject({
    title: 'assigned meanwhile',
  });
  expect(uow.getPersistStack().size, 'stacks are emptied by postCommitCleanup() only').toBe(0);
  expect(new Set(calls)).toEqual(new Set(methods));
  expect(helper(article).__processing).toBe(false);
});

test('properties stand in __data, also those that are set by accessors', async () => {
  const em = orm.em.fork();
  const article = em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  (helper(article).__data as Record<string, unknown>)['title'] = 'set back';
  expect(article.title).toBe('set back');
  delete (helper(article).__data as Record<string, unknown>)['title'];
  expect(article.title).toBeUndefined();
});

test('updates are prepared by prepareOptions() and processProperties(), and returned rows mapped by mapReturnedValues()', async () => {
  const em = orm.em.fork();
  const persister = em.getUnitOfWork(false).getChangeSetPersister();
  for (const method of ['prepareOptions', 'processProperties', 'checkConcurrencyKeys', 'mapReturnedValues']) {
    spy(persister, method);
  }
  em.create(Article, { id: 1, title: 'a' });
  em.create(Article, { id: 2, title: 'b' });
  await em.flush();
  (await em.find(Article, {})).forEach((article) => (article.title += '!'));
  calls = [];
  await em.flush();
  for (const method of ['prepareOptions', 'processProperties', 'checkConcurrencyKeys', 'mapReturnedValues']) {
    expect(calls, `MikroORM updates rows without ${method}(); see src/hooks/`).toContain(method);
  }
});

test('what the database computed is read back by persister.reloadVersionValues(), which asks meta.ownsVersionProperty()', async () => {
  const em = orm.em.fork();
  const persister = em.getUnitOfWork(false).getChangeSetPersister();
  spy(persister, 'reloadVersionValues', ([meta]) => String((meta as { className: string }).className));
  const article = em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  article.title = 'b';
  await em.flush();
  expect(calls, 'without RETURNING a version is read back again after every write').toContain('Article');
  expect(String(Object.getPrototypeOf(persister).reloadVersionValues)).toContain('meta.ownsVersionProperty()');
});

test('listeners recompute by uow.computeChangeSet() and uow.recomputeSingleChangeSet(), which take a new snapshot', async () => {
  const em = orm.em.fork();
  const uow = em.getUnitOfWork(false);
  const article = em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const before = helper(article).__originalEntityData;
  article.title = 'b';
  uow.computeChangeSet(article);
  expect(helper(article).__originalEntityData).not.toBe(before);
  expect(uow.getChangeSets()).toMatchObject([{ payload: { title: 'b' } }]);
  expect(uow.getChangeSets()[0]!.originalEntity, 'the mark of a touch is found in it').toBe(before);
  article.title = 'c';
  uow.recomputeSingleChangeSet(article);
  expect(uow.getChangeSets()).toMatchObject([{ payload: { title: 'c' }, originalEntity: { title: 'a' } }]);
});

test('the snapshot that changes are computed from is __originalEntityData', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const article = await em.fork().findOneOrFail(Article, 1);
  const snapshot = helper(article).__originalEntityData as Record<string, unknown>;
  expect(snapshot).toMatchObject({ id: 1, title: 'a' });
  helper(article).__originalEntityData = { ...snapshot, title: 'other' } as never;
  const uow = helper(article).__em!.getUnitOfWork();
  uow.computeChangeSets();
  expect(uow.getChangeSets()).toMatchObject([{ type: ChangeSetType.UPDATE, payload: { title: 'a' } }]);
});

test('reading again: factory.mergeData() gets the row by property name, and loaded properties are noted', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const reader = orm.em.fork();
  const article = await reader.findOneOrFail(Article, 1);
  expect([...helper(article).__loadedProperties].toSorted()).toEqual(['id', 'title', 'version']);
  spy(reader.getEntityFactory(), 'mergeData', ([, entity, data]) => JSON.stringify([entity === article, data]));
  await reader.find(Article, {}, { fields: ['title'] });
  expect(calls).toEqual(['[true,{"id":1,"title":"a"}]']);
});

test('a polymorphic relation is compared as a PolymorphicRef, whose class QueryHelper.findDiscriminatorValue() names', async () => {
  class Post {
    id!: number;
  }
  class Note {
    id!: number;
    on!: Post;
  }
  const id = p.integer().primary().autoincrement(false);
  const { em: global } = await open([
    defineEntity({ class: Post, properties: { id } }),
    defineEntity({ class: Note, properties: { id, on: () => p.manyToOne([Post]) } } as never),
  ]);
  const em = global.fork();
  const note = em.create(Note, { id: 1, on: em.create(Post, { id: 2 }) } as never);
  const { on } = em.getMetadata().get(Note).properties as unknown as { on: EntityProperty };
  expect((em.getComparator().prepareEntity(note) as Note).on).toEqual(new PolymorphicRef('post', 2));
  expect(new PolymorphicRef('post', 2).toTuple()).toEqual(['post', 2]);
  expect(QueryHelper.findDiscriminatorValue(on.discriminatorMap as never, Post as never)).toBe('post');
  expect(on.polymorphTargets!.map((meta) => meta.class)).toEqual([Post]);
});

test('reading again: em.merge() hands the very data to factory.create(), and then to uow.merge(), which takes a snapshot', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const reader = orm.em.fork();
  const article = await reader.findOneOrFail(Article, 1);
  article.title = 'unsaved';
  const row = { id: 1, version: 1 };
  spy(reader.getEntityFactory(), 'create', ([, data, options]) =>
    JSON.stringify([data === row, (options as { refresh?: boolean }).refresh]),
  );
  reader.map(Article, row as never, { mapped: true });
  expect(calls).toEqual(['[true,true]']);
  expect(helper(article).__originalEntityData).toMatchObject({ title: 'unsaved' });
});

test('the result cache is read by em.tryCache(class, config, key) and filled by em.storeCache(config, what that returned)', async () => {
  const em = orm.em.fork();
  const entry = { key: 'key' };
  const cache = em as unknown as Record<string, unknown>;
  cache.tryCache = async (entityName: unknown, config: unknown, key: unknown) => {
    calls.push(JSON.stringify(['read', entityName === Article, config, Array.isArray(key)]));
    return entry;
  };
  cache.storeCache = async (config: unknown, stored: unknown) => {
    calls.push(JSON.stringify(['stored', config, stored === entry]));
  };
  await em.find(Article, {}, { cache: 5 });
  // between them, the query builder of the driver asks too, with `false`
  expect([calls[0], calls.at(-1)]).toEqual(['["read",true,5,true]', '["stored",5,true]']);
});

test('em.fork() makes the fork by `new em.constructor()`, and tells it its flush mode before anything else', () => {
  const em = orm.em.fork();
  const Manager = em.constructor as new (...args: unknown[]) => typeof em;
  const called: string[] = [];
  class Fork extends Manager {
    override setFlushMode(...args: Parameters<typeof em.setFlushMode>): void {
      called.push('setFlushMode');
      super.setFlushMode(...args);
      called.push('is set up');
    }
    override getContext(...args: Parameters<typeof em.getContext>): never {
      called.push('getContext');
      return super.getContext(...args) as never;
    }
  }
  Object.defineProperty(em, 'constructor', { get: () => Fork });
  expect(em.fork(), 'em.fork() no longer uses em.constructor: forks would not be hooked').toBeInstanceOf(Fork);
  // building an EntityManager asks for its context, which is why hooking waits
  expect(called.filter((call) => call !== 'getContext')).toEqual(['setFlushMode', 'is set up']);
  expect(called.at(-1), 'a fork is used before anybody has it').toBe('is set up');
});

test('em.refresh() forks before it waits for anything, and copies from the fork', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const article = await em.findOneOrFail(Article, 1);
  let reader: typeof em | undefined;
  const { fork } = em;
  em.fork = ((options: object) => (reader = fork.call(em, options))) as never;
  const refreshing = em.refresh(article);
  expect(reader, 'em.refresh() no longer begins with em.fork()').toBeDefined();
  await refreshing;
  expect(helper(reader!.getUnitOfWork(false).getById(Article, 1)!).__loadedProperties).toContain('title');
});

test('em.lock() and findOne() compare versions in uow.lockOptimistic(entity, meta, version)', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const article = await em.findOneOrFail(Article, 1);
  spy(em.getUnitOfWork(false), 'lockOptimistic', ([entity, , version]) => `${entity === article} ${String(version)}`);
  await em.lock(article, LockMode.OPTIMISTIC, 1);
  await em.findOne(Article, 1, { lockMode: LockMode.OPTIMISTIC, lockVersion: 1 });
  expect(calls).toEqual(['true 1', 'true 1']);
});

test('em.flush() is uow.commit(), em.clear() is uow.clear(), a removed row leaves by uow.unsetIdentity()', async () => {
  const em = orm.em.fork();
  const uow = em.getUnitOfWork(false);
  ['commit', 'clear', 'unsetIdentity'].forEach((method) => spy(uow, method));
  em.remove(em.create(Article, { id: 1, title: 'a' }));
  const article = em.create(Article, { id: 2, title: 'b' });
  await em.flush();
  em.remove(article);
  await em.flush();
  em.clear();
  expect(calls).toEqual(['commit', 'commit', 'unsetIdentity', 'clear']);
});

test('a transaction ends by connection.commit() or rollback(), and knows that it was committed', async () => {
  const em = orm.em.fork();
  const connection = em.getConnection('write');
  const ended: object[] = [];
  for (const method of ['commit', 'rollback']) {
    spy(connection, method, ([transaction]) => {
      ended.push(transaction as object);
      return method + ('savepointName' in (transaction as object) ? ' savepoint' : '');
    });
  }
  const stop = async () => {
    throw new Error('stop');
  };
  await em.transactional((tx) => tx.transactional(stop)).catch(() => {});
  await em.transactional(async (tx) => {
    await tx.transactional(async () => {});
  });
  await em.begin();
  await em.rollback();
  expect(calls).toEqual(['rollback savepoint', 'rollback', 'commit savepoint', 'commit', 'rollback']);
  expect(ended.map((transaction) => (transaction as { isCommitted: boolean }).isCommitted)).toEqual([
    false,
    false,
    false,
    true,
    false,
  ]);
});

test('commit() ends a transaction by transaction.commit()', async () => {
  const connection = orm.em.fork().getConnection('write') as AbstractSqlConnection;
  const transaction = await connection.begin();
  spy(transaction, 'commit');
  await connection.commit(transaction);
  expect(calls, 'src/hooks/ no longer knows whether a COMMIT was sent').toEqual(['commit']);
});

test('a flush opens its transaction by connection.transactional(), and says whose it is by the event broadcaster', async () => {
  const em = orm.em.fork();
  spy(em.getConnection('write'), 'transactional', ([, options]) => {
    const { eventBroadcaster } = options as { eventBroadcaster: { em: unknown } };
    return eventBroadcaster.em === em ? 'its own' : 'of another';
  });
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  expect(calls, 'src/hooks/ no longer finds the flush that a transaction is opened for').toEqual(['its own']);
});

test('a value that is written in a second statement is taken off the entity, and kept in uow.getExtraUpdates()', async () => {
  const Node = defineEntity({
    name: 'Node',
    properties: { id: p.integer().primary(), next: () => p.manyToOne(Node).nullable() },
  });
  const em = (await open([Node])).em.fork();
  const first = em.create(Node, { id: 1 });
  const second = em.create(Node, { id: 2, next: first });
  first.next = second as never;
  em.getEventManager().registerSubscriber({
    beforeUpdate: () => {
      const [[entity, names, values]] = [...em.getUnitOfWork().getExtraUpdates()] as unknown as [unknown[]];
      calls.push(`update ${String(names)} ${(values as unknown[])[0] === (entity === first ? second : first)}`);
    },
    afterCreate: ({ entity }) => void calls.push(`create ${(entity as { next?: unknown }).next === undefined}`),
  });
  await em.flush();
  expect([...new Set(calls)]).toEqual(['create true', 'update next true']);
});

test('a collection is compared with getSnapshot(), until takeSnapshot()', async () => {
  const Tag = defineEntity({ name: 'Tag', properties: { id: p.integer().primary() } });
  const Post = defineEntity({
    name: 'Post',
    properties: { id: p.integer().primary(), tags: () => p.manyToMany(Tag) },
  });
  const em = (await open([Post, Tag])).em.fork();
  const post = em.create(Post, { id: 1 });
  post.tags.add(em.create(Tag, { id: 1 }));
  spy(post.tags, 'getSnapshot');
  spy(post.tags, 'takeSnapshot');
  await em.flush();
  expect(calls).toContain('getSnapshot');
  expect(calls.at(-1)).toBe('takeSnapshot');
});

test('driver.setMetadata() gets the discovered classes before there is an EntityManager, also in the constructor', async () => {
  const seen: unknown[] = [];
  class Watching extends SqliteDriver {
    override setMetadata(...args: Parameters<SqliteDriver['setMetadata']>): void {
      const { version } = args[0].get(Article).properties;
      seen.push(['setMetadata', version.columnTypes, version.defaultRaw]);
      super.setMetadata(...args);
    }
    override createEntityManager(): ReturnType<SqliteDriver['createEntityManager']> {
      seen.push('createEntityManager');
      return super.createEntityManager();
    }
  }
  const options = { driver: Watching, dbName: ':memory:', entities: [Article] };
  const inits = [() => MikroORM.init(options), async () => new MikroORM(options)];
  for (const init of inits) {
    seen.length = 0;
    await (await init()).close();
    expect(seen, 'versions are adopted in setMetadata(), see src/versioned.ts').toEqual([
      ['setMetadata', ['integer'], '1'],
      'createEntityManager',
    ]);
  }
});

test("orm.discoverEntity() puts finished classes into the ORM's storage by set(), and calls no hook", async () => {
  const Later = defineEntity({
    name: 'Later',
    properties: { id: p.integer().primary(), version: p.integer().version() },
  });
  spy(orm.getMetadata(), 'set', ([, meta]) => {
    const { version } = (meta as ReturnType<typeof orm.getMetadata<typeof Later>>).properties as Record<
      string,
      { columnTypes: string[]; defaultRaw: string }
    >;
    return `set ${version!.columnTypes.join()} ${version!.defaultRaw}`;
  });
  orm.discoverEntity(Later);
  expect(calls, 'later discovery no longer goes through hookLaterDiscovery()').toEqual(['set integer 1']);
});

test('with two ORMs, change sets of removed entities carry the metadata of the one that started last', async () => {
  const other = await MikroORM.init({ driver: SqliteDriver, dbName: ':memory:', entities: [Article] });
  onTestFinished(() => other.close());
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  const article = em.getReference(Article, 1);
  expect(helper(article).__meta, 'withOwnMetadata() in src/hooks/ and metaOf() in src/mikro-orm/ may go').toBe(
    other.getMetadata(Article),
  );
  const uow = em.getUnitOfWork(false);
  uow.computeChangeSet(article, ChangeSetType.DELETE);
  expect(uow.getChangeSets()[0]!.meta).toBe(other.getMetadata(Article));
});

test('collections are written by commitCollectionUpdates(), with query builders of the driver, before the deletes', async () => {
  const Shelf = defineEntity({
    name: 'Shelf',
    properties: { id: p.integer().primary(), books: () => p.oneToMany(Book).mappedBy('shelf') },
  });
  const Book = defineEntity({
    name: 'Book',
    properties: { id: p.integer().primary(), shelf: () => p.manyToOne(Shelf).nullable() },
  });
  const other = await open([Shelf, Book]);
  const seed = other.em.fork();
  const shelf = seed.create(Shelf, { id: 1 });
  [1, 2].forEach((id) => seed.create(Book, { id, shelf }));
  await seed.flush();

  const em = other.em.fork();
  const uow = em.getUnitOfWork(false);
  spy(uow, 'commitCollectionUpdates');
  spy(em.getDriver(), 'createQueryBuilder');
  spy(uow.getChangeSetPersister(), 'executeDeletes', (args) => `executeDeletes ${args.at(-1) === true}`);
  const book = await em.findOneOrFail(Book, 1);
  (await em.findOneOrFail(Shelf, 1)).books.removeAll();
  em.remove(book);
  calls = [];
  await em.flush();
  expect(calls, 'MikroORM writes collections in another way than src/hooks/ relies on').toEqual([
    'commitCollectionUpdates',
    'createQueryBuilder',
    'executeDeletes false',
    'executeDeletes true',
    'createQueryBuilder',
  ]);
});

test('tables are written in the order of uow.getCommitOrder(), and deleted from by commitDeleteChangeSets(), table by table', async () => {
  const other = await open([Article, defineEntity({ name: 'Other', properties: { id: p.integer().primary() } })]);
  const em = other.em.fork();
  const uow = em.getUnitOfWork(false);
  spy(uow, 'getCommitOrder');
  spy(uow, 'commitDeleteChangeSets', ([sets]) => `${(sets as unknown[]).length} deleted`);
  const article = em.create(Article, { id: 1, title: 'a' });
  await em.flush();
  em.remove(article);
  calls = [];
  await em.flush();
  const message = 'MikroORM finds the order of tables in another way than src/hooks/ relies on';
  expect(
    calls.filter((call) => call !== '0 deleted'),
    message,
  ).toEqual(['getCommitOrder', '1 deleted']);
});

test("a transaction's statements, savepoints too, go through executeQuery() of the connection that its executor provides", async () => {
  const em = orm.em.fork();
  await em.transactional(async (tx) => {
    const executor = (
      tx.getTransactionContext() as { getExecutor(): { provideConnection(use: unknown): unknown } }
    ).getExecutor();
    await executor.provideConnection(async (connection: object) => {
      spy(connection, 'executeQuery', ([query]) => (query as { sql: string }).sql.split(' ')[0]!);
    });
    await tx.find(Article, {});
    await tx.transactional((inner) => inner.find(Article, {}));
  });
  expect(calls).toEqual(['select', 'savepoint', 'select', 'release', 'commit']);
});

test('a query builder says what it does by `type`, and in which transaction by `context`; native methods go through one', async () => {
  await orm.em.fork().transactional(async (tx) => {
    const em = tx as unknown as SqlEntityManager;
    const context = em.getTransactionContext();
    const driver = em.getDriver();
    const made: { type: string; context?: object }[] = [];
    const { createQueryBuilder } = driver;
    driver.createQueryBuilder = ((...args: Parameters<typeof createQueryBuilder>) => {
      const qb = createQueryBuilder.apply(driver, args);
      made.push(qb as never);
      return qb;
    }) as never;
    await em.insert(Article, { id: 1, title: 'a', version: 1 });
    await em.nativeUpdate(Article, 1, { title: 'b' });
    await em.upsert(Article, { id: 1, title: 'c', version: 1 });
    await em.createQueryBuilder(Article).update({ title: 'd' }).where({ id: 1 }).execute();
    await em.nativeDelete(Article, 1);
    await em.createQueryBuilder(Article).where({ id: 1 }).getCount();
    await em.find(Article, {});
    const message =
      'MikroORM writes without a query builder, or it no longer knows its transaction; see src/set-based/writes.ts';
    expect(
      made.every((qb) => qb.context === context),
      message,
    ).toBe(true);
    const types = made.map(({ type }) => type);
    expect(
      types.filter((type) => !['SELECT', 'COUNT'].includes(type)),
      message,
    ).toEqual([...['INSERT', 'UPDATE', 'INSERT', 'UPDATE', 'DELETE']]);
  });
});
