/**
 * The contract with MikroORM's internals (src/internals.ts): each test names what it stands on, so that a MikroORM that
 * changes it is noticed here, in words, before a lock stops locking.
 */
import { ChangeSetType, MikroORM, defineEntity, helper, p } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { beforeEach, expect, onTestFinished, test } from 'vitest';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.integer().version() },
});

// plain MikroORM, without us
let orm: MikroORM;
let calls: string[];

beforeEach(async () => {
  orm = await MikroORM.init({ driver: SqliteDriver, dbName: ':memory:', entities: [Article] });
  onTestFinished(() => orm.close());
  await orm.schema.create();
  calls = [];
});

/** Replaces a method on an instance, and notes that it was called. */
function spy(target: object, method: string, note: (args: unknown[]) => string = () => method): void {
  const methods = target as Record<string, (...args: unknown[]) => unknown>;
  const original = methods[method];
  expect(original, `MikroORM no longer has the method ${method}(); see src/internals.ts`).toBeTypeOf('function');
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
  for (const method of ['doCommit', 'getChangeSetGroups', 'persistToDatabase']) {
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
    ...['doCommit', 'onFlush', 'getChangeSetGroups', 'begin', 'persistToDatabase'],
    ...writes,
    'commit',
  ];
  const message = 'MikroORM carries out a flush in another order than src/internals.ts relies on';
  expect(calls, message).toEqual(wholeFlush('executeInserts false', 'executeInserts true'));

  const [a, b] = await em.find(Article, {});
  a!.title = 'changed';
  em.remove(b!);
  calls = [];
  await em.flush();
  expect(calls, message).toEqual(
    wholeFlush('executeUpdates false', 'executeUpdates true', 'executeDeletes false', 'executeDeletes true'),
  );
});

test('the persister hands the payload of a change set to the driver by reference, and options with symbols along', async () => {
  const em = orm.em.fork();
  em.create(Article, { id: 1, title: 'a' });
  em.create(Article, { id: 2, title: 'b' });
  await em.flush();
  const mark = Symbol('mark');
  const persister = em.getUnitOfWork(false).getChangeSetPersister() as unknown as Record<
    string,
    (...args: unknown[]) => unknown
  >;
  const original = persister.executeUpdates!;
  const payloads: unknown[] = [];
  persister.executeUpdates = (sets, batched, options, withSchema) => {
    payloads.push(...(sets as { payload: unknown }[]).map((set) => set.payload));
    return original.call(persister, sets, batched, { ...(options as object), [mark]: true }, withSchema);
  };
  const driver = em.getDriver() as unknown as Record<string, (...args: unknown[]) => unknown>;
  for (const method of ['nativeUpdate', 'nativeUpdateMany'] as const) {
    const base = driver[method]!;
    driver[method] = (name, where, data, options) => {
      for (const item of [data].flat()) {
        expect(payloads.includes(item), `${method}() no longer gets the change set's payload itself`).toBe(true);
      }
      expect((options as Record<symbol, unknown>)[mark], `${method}() no longer gets the persister's options`).toBe(
        true,
      );
      calls.push(method);
      return base.call(driver, name, where, data, options);
    };
  }
  const articles = await em.find(Article, {});
  articles[0]!.title = 'one';
  await em.flush();
  articles.forEach((article) => (article.title = 'two'));
  await em.flush();
  expect(calls).toEqual(['nativeUpdate', 'nativeUpdateMany']);
});

test('the check by SELECT is persister.checkOptimisticLocks(), and options are made by prepareOptions()', async () => {
  const em = orm.em.fork();
  const persister = em.getUnitOfWork(false).getChangeSetPersister();
  spy(persister, 'checkOptimisticLocks');
  spy(persister, 'prepareOptions');
  em.create(Article, { id: 1, title: 'a' });
  em.create(Article, { id: 2, title: 'b' });
  await em.flush();
  (await em.find(Article, {})).forEach((article) => (article.title += '!'));
  calls = [];
  await em.flush();
  expect(calls.filter((call) => call === 'checkOptimisticLocks')).toHaveLength(1);
  expect(calls).toContain('prepareOptions');
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
