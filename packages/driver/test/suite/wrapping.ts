/** Wrapping the driver changes nothing but the lock: class names, injection, ids, and every class without a version. */
import { inspect } from 'node:util';
import {
  type AnyEntity,
  type Configuration,
  EntityManager,
  type Options,
  RequestContext,
  TransactionPropagation,
  defineEntity,
  p,
} from '@mikro-orm/core';
import { type AbstractSqlDriver, SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { type DriverClass, versioned } from '@mikro-ool/driver';
import { describe, expect, test } from 'vitest';
import { type Database, type TestDriver, open, thrown } from '../harness.ts';

const Note = defineEntity({ name: 'Note', properties: { id: p.integer().primary(), text: p.string() } });
const Tag = defineEntity({
  name: 'Tag',
  properties: { id: p.integer().primary(), name: p.string().unique(), notes: p.string().nullable() },
});
const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

/** Ways to get an EntityManager from the global one. */
const ways: Record<string, (em: SqlEntityManager, use: (em: EntityManager) => unknown) => unknown> = {
  'the global one': (em, use) => use(em),
  'a fork': (em, use) => use(em.fork()),
  'a fork of a fork': (em, use) => use(em.fork().fork({ clear: false, useContext: true })),
  'a fork with its own events': (em, use) => use(em.fork({ freshEventManager: true, schema: undefined })),
  'in a RequestContext': (em, use) => RequestContext.create(em, () => use(RequestContext.getEntityManager()!)),
  'forked in a RequestContext': (em, use) => RequestContext.create(em, () => use(em.fork())),
  'in a transaction': (em, use) => em.transactional((tx) => use(tx)),
  'in a nested transaction': (em, use) => em.transactional((tx) => tx.transactional((inner) => use(inner))),
  'in no transaction': (em, use) =>
    em.transactional((tx) => use(tx), { propagation: TransactionPropagation.NOT_SUPPORTED }),
};

export function wrapping(driver: TestDriver): void {
  const Base = driver.plain as DriverClass;
  const onPlain = { driver: driver.plain } satisfies Partial<Options>;

  /** The same, on the driver as MikroORM has it and wrapped. */
  const onBoth = async <Result>(entities: Options['entities'], work: (db: Database) => Promise<Result>) => ({
    plain: await work(await open(driver, entities!, onPlain)),
    wrapped: await work(await open(driver, entities!)),
  });

  describe('classes and names', () => {
    test('the driver class is called what it wraps, and so is what it says', async () => {
      const Driver = versioned(Base as new (config: Configuration) => AbstractSqlDriver);
      expect([Driver.name, Driver.prototype.constructor, inspect(Driver)]).toEqual([
        Base.name,
        Driver,
        inspect(Driver).replaceAll(/\[class \w+/g, `[class ${Base.name}`),
      ]);
      const { plain, wrapped } = await onBoth([Note], async ({ orm }) => {
        const unsupported = await thrown(async () => orm.driver.aggregate(Note, []));
        return [orm.driver.constructor.name, unsupported.message];
      });
      expect(wrapped).toEqual(plain);
    });

    test('versioned() of something else says so', () => {
      for (const nothing of [undefined, null, {}, 'sqlite', () => {}, EntityManager]) {
        expect(() => versioned(nothing as never)).toThrow(/^versioned\(\) wraps a driver class of MikroORM/);
      }
    });

    test('what is wrapped already stays as it is', () => {
      const Driver = versioned(Base as new (config: Configuration) => AbstractSqlDriver);
      class Own extends Driver {}
      expect([versioned(Driver), versioned(Own)]).toEqual([Driver, Own]);
    });

    for (const [name, way] of Object.entries(ways)) {
      test(`${name}: the EntityManager is of the class that it was`, async () => {
        const { plain, wrapped } = await onBoth([Note], async ({ orm }) => {
          const found: [unknown, string | undefined][] = [];
          await way(orm.em as SqlEntityManager, (em) => {
            const shown = inspect(em).replace(/<\d+>|\d+/g, 'id');
            found.push([em.constructor, shown], [Object.getPrototypeOf(em).constructor, em.constructor.name]);
            found.push([em instanceof SqlEntityManager, String(em instanceof EntityManager)]);
          });
          return found;
        });
        expect(wrapped).toEqual(plain);
        expect(wrapped[0]![0]).not.toBe(EntityManager);
      });

      test(`${name}: it checks versions from the start, also one of the user's own class`, async () => {
        const handedOut: EntityManager[] = [];
        class OwnEntityManager extends SqlEntityManager {
          readonly own = 'own';
          override fork(options?: object): this {
            const fork = super.fork(options);
            handedOut.push(fork);
            fork.clear(); // used before it is handed out
            return fork;
          }
        }
        for (const more of [{}, { entityManager: OwnEntityManager, allowGlobalContext: true }]) {
          const db = await open(driver, [Article], { ...more, allowGlobalContext: true });
          const seed = db.fork();
          seed.create(Article, { id: 1, title: 'first' });
          await seed.flush();
          const lost = await thrown(async () => {
            await way(db.orm.em as SqlEntityManager, async (em) => {
              const article = await em.findOneOrFail(Article, 1);
              expect(handedOut.every((fork) => fork.constructor === OwnEntityManager)).toBe(true);
              article.title = 'mine';
              article.version = 7;
              await em.flush();
            });
          });
          expect(lost).toBeInstanceOf(ConcurrentUpdate);
          expect(await db.fork().findOne(Article, 1)).toMatchObject({ title: 'first', version: 1 });
        }
        expect(handedOut.length).toBeGreaterThan(0);
      });
    }

    test("a class of the user's own is what repositories, entities and forks have", async () => {
      class OwnEntityManager extends SqlEntityManager {
        static readonly kind = 'own';
        readonly #secret = 42;
        reveal(): number {
          return this.#secret;
        }
      }
      const { orm } = await open(driver, [Article], { entityManager: OwnEntityManager });
      const em = orm.em.fork() as unknown as OwnEntityManager;
      expect(em.constructor).toBe(OwnEntityManager);
      expect((em.constructor as typeof OwnEntityManager).kind).toBe('own');
      expect(em.fork().reveal()).toBe(42);
      expect(em.getRepository(Article).getEntityManager().constructor).toBe(OwnEntityManager);
      expect(Object.getOwnPropertyNames(OwnEntityManager.prototype)).toEqual(['constructor', 'reveal']);
      expect(Object.hasOwn(em, 'constructor')).toBe(false);
    });

    test('ids go up by one for each EntityManager', async () => {
      const idsFrom = async (more: Partial<Options>) => {
        const { orm } = await open(driver, [Note], more);
        const before = orm.em.fork()._id;
        const global = orm.driver.createEntityManager();
        return [global._id - before, global.fork()._id - before, orm.em.fork()._id - before];
      };
      const plain = await idsFrom(onPlain);
      expect(plain).toEqual([1, 2, 3]);
      expect(await idsFrom({})).toEqual(plain);
    });
  });

  describe('a class without a version', () => {
    const seeded = async ({ fork }: Database) => {
      const em = fork();
      [1, 2, 3].forEach((id) => em.create(Note, { id, text: 'saved' }));
      [1, 2, 3].forEach((id) => em.create(Tag, { id, name: `tag ${id}` }));
      await em.flush();
    };

    test('is written in the same order by the same statements', async () => {
      const { plain, wrapped } = await onBoth([Note, Tag], async (db) => {
        const { fork, sent } = db;
        await seeded(db);
        return sent(async () => {
          const em = fork();
          const notes = await em.find(Note, {}, { orderBy: { id: -1 } });
          const tags = await em.find(Tag, {}, { orderBy: { id: -1 } });
          notes.forEach((note) => (note.text = `changed ${note.id}`));
          tags[0]!.notes = 'changed';
          await em.flush();
          em.remove(notes[0]!).remove(notes[2]!).remove(notes[1]!);
          em.create(Note, { id: 9, text: 'nine' });
          em.create(Note, { id: 8, text: 'eight' });
          await em.flush();
          await em.upsertMany(Tag, [
            { id: 3, name: 'tag 3', notes: 'x' },
            { id: 9, name: 'tag 9' },
          ]);
          await em.nativeUpdate(Note, { id: 8 }, { text: 'again' });
        });
      });
      expect(wrapped).toEqual(plain);
      expect(plain.join('\n')).toContain('changed 3');
    });

    test('that is new takes its place in the identity map, and so among the changes of the next flush', async () => {
      class One {
        id!: number;
        name = 'n';
      }
      class Other {
        id!: number;
        name = 'n';
      }
      const properties = { id: p.integer().primary().autoincrement(), name: p.string() };
      const schemas = [defineEntity({ class: One, properties }), defineEntity({ class: Other, properties })];
      const { plain, wrapped } = await onBoth(schemas, async ({ fork, sent }) => {
        const em = fork();
        const [one, other] = [new One(), new Other()];
        await em.persist([one, other]).flush();
        const places = em.getUnitOfWork().getIdentityMap().keys();
        one.name = 'changed';
        other.name = 'changed';
        return [places, await sent(() => em.flush())];
      });
      expect(wrapped).toEqual(plain);
      expect(plain[0]).toEqual([expect.stringMatching(/^Other-/), expect.stringMatching(/^One-/)]);
    });

    test('leaves in an EntityManager what MikroORM leaves there', async () => {
      const { plain, wrapped } = await onBoth([Note, Tag], async (db) => {
        await seeded(db);
        const em = db.fork();
        const states: unknown[] = [];
        const look = () => {
          const uow = em.getUnitOfWork();
          const map = uow.getIdentityMap();
          states.push([map.keys(), map.values().length, uow.getPersistStack().size, uow.getRemoveStack().size]);
        };
        const [first] = await em.find(Note, { id: [1, 2] });
        look();
        first!.text = 'again';
        await em.find(Note, { id: 1 });
        await em.transactional(async (tx) => {
          await tx.find(Tag, {});
          tx.remove((await tx.findOneOrFail(Note, 2)) as AnyEntity);
        });
        look();
        await em.refresh(first!);
        look();
        em.clear();
        look();
        return states;
      });
      expect(wrapped).toEqual(plain);
    });
  });
}
