/** A touch counts, whatever recomputes change sets in the flush: rivals who change two parts of a whole conflict on its root. */
import {
  type EventSubscriber,
  type FlushEventArgs,
  LockMode,
  type Options,
  defineEntity,
  helper,
  p,
} from '@mikro-orm/core';
import type { EntityManager as SqlEntityManager } from '@mikro-orm/sql';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Order {
  id!: number;
  note = '';
  total = 0;
  version!: number;
}
class BigOrder extends Order {
  discount = 0;
}
class Line {
  id!: number;
  order!: Order;
  amount = 0;
  version!: number;
}

const lines = defineEntity({
  class: Line,
  properties: {
    id: p.integer().primary(),
    order: () => p.manyToOne(Order),
    amount: p.integer().default(0),
    version: p.type(VersionField),
  },
} as never);
const orderProperties = {
  id: p.integer().primary(),
  note: p.string().default(''),
  total: p.integer().default(0),
  version: p.type(VersionField),
};
/** The root of the aggregate, as a class of its own and with joined-table inheritance, where a part may be a subclass's. */
const roots = {
  'a class': {
    Root: Order,
    entities: [lines, defineEntity({ class: Order, properties: orderProperties } as never)],
  },
  'joined-table inheritance': {
    Root: BigOrder,
    entities: [
      lines,
      defineEntity({ class: Order, inheritance: 'tpt', properties: orderProperties } as never),
      defineEntity({ class: BigOrder, extends: Order, properties: { discount: p.integer().default(0) } } as never),
    ],
  },
};

type Recompute = (args: FlushEventArgs, root: Order) => void;

/** What listeners do to the change sets of a flush, and whether the touch is theirs, too. */
interface Listener {
  event: 'beforeFlush' | 'onFlush';
  run: Recompute;
  touches?: boolean;
}
const recomputes: Record<string, Listener> = {
  nothing: { event: 'onFlush', run: () => {} },
  'computeChangeSet()': { event: 'onFlush', run: ({ uow }, root) => uow.computeChangeSet(root) },
  'computeChangeSet(), twice': {
    event: 'onFlush',
    run({ uow }, root) {
      uow.computeChangeSet(root);
      uow.computeChangeSet(root);
    },
  },
  'recomputeSingleChangeSet()': { event: 'onFlush', run: ({ uow }, root) => uow.recomputeSingleChangeSet(root) },
  'computeChangeSet() and recomputeSingleChangeSet()': {
    event: 'onFlush',
    run({ uow }, root) {
      uow.computeChangeSet(root);
      uow.recomputeSingleChangeSet(root);
    },
  },
  // in onFlush, MikroORM drops everything by it, touched or not
  'computeChangeSets() in beforeFlush': { event: 'beforeFlush', run: ({ uow }) => uow.computeChangeSets() },
  'a touch in beforeFlush': { event: 'beforeFlush', run: (_, root) => touch(root), touches: true },
  'a touch in onFlush': { event: 'onFlush', run: (_, root) => touch(root), touches: true },
  'a touch in onFlush, then computeChangeSet()': {
    event: 'onFlush',
    run({ uow }, root) {
      touch(root);
      uow.computeChangeSet(root);
    },
    touches: true,
  },
  'computeChangeSets(), then a touch in beforeFlush': {
    event: 'beforeFlush',
    run({ uow }, root) {
      uow.computeChangeSets();
      touch(root);
      uow.computeChangeSets();
    },
    touches: true,
  },
  'a touch between two computeChangeSet()': {
    event: 'onFlush',
    run({ uow }, root) {
      uow.computeChangeSet(root);
      touch(root);
      uow.recomputeSingleChangeSet(root);
    },
    touches: true,
  },
};

export function touches(driver: TestDriver): void {
  describe.each(Object.entries(roots))('touch, root: %s', (_, { Root, entities }) => {
    const setUp = async (more: Partial<Options> = {}) => {
      const db = await open(driver, entities, more);
      const em = db.fork();
      const order = em.create(Root, { id: 1 } as never) as Order;
      [1, 2, 3].forEach((id) => em.create(Line, { id, order } as never));
      await em.flush();
      return db;
    };
    const load = async ({ fork }: Awaited<ReturnType<typeof setUp>>, id: number) => {
      const em = fork();
      const line = await em.findOneOrFail(Line, id);
      const root = (await em.findOneOrFail(Root, 1)) as Order;
      return { em, line, root };
    };

    for (const [name, { event, run, touches: isTheirs }] of Object.entries(recomputes)) {
      /** A listener that does so in every flush with a changed line. */
      const listening = (): EventSubscriber => ({
        async [event](args: FlushEventArgs) {
          const root = args.uow.getById(Root.name === 'Order' ? Order : BigOrder, 1 as never) as Order | undefined;
          if (root && helper(root).__originalEntityData) {
            run(args, root);
          }
        },
      });

      test(`${name}: two editors of two lines conflict on the root, and a claim and a change count, too`, async () => {
        const db = await setUp({ subscribers: [listening()] });
        const [mine, theirs] = [await load(db, 1), await load(db, 2)];
        for (const { line, root } of [mine, theirs]) {
          line.amount++;
          if (!isTheirs) {
            touch(root);
          }
        }
        await theirs.em.flush();
        expect(theirs.root.version).toBe(2);
        const error = await thrown(() => mine.em.flush());
        expect(error).toBeInstanceOf(ConcurrentUpdate);
        expect(error.conflicts).toMatchObject([{ entityName: Root.name, expected: 1, actual: 2 }]);
        // it stays touched: trying again conflicts again, and after a look at the root both are written
        expect(await thrown(() => mine.em.flush())).toBeInstanceOf(ConcurrentUpdate);
        mine.root.version = 2;
        await mine.em.flush();
        expect([mine.root.version, mine.line.version]).toEqual([3, 2]);
        const found = await load(db, 1);
        expect([found.root.version, found.line.amount]).toEqual([3, 1]);
        if (!isTheirs) {
          // and only once
          expect(await db.sent(() => mine.em.flush())).toEqual([]);
        }
      });

      test(`${name}: a touched root that is changed, too, is written in whole, once`, async () => {
        const db = await setUp({ subscribers: [listening()] });
        const { em, root } = await load(db, 1);
        root.note = 'changed';
        if (!isTheirs) {
          touch(root);
        }
        await em.flush();
        const found = await load(db, 1);
        expect([root.version, found.root.version]).toEqual([2, 2]);
        expect(found.root.note).toBe('changed');
      });
    }

    test('a touch in onFlush is written also where nothing else is', async () => {
      let touching: Order | undefined;
      const db = await setUp({ subscribers: [{ onFlush: async () => void (touching && touch(touching)) }] });
      const { em, root } = await load(db, 1);
      touching = root;
      await em.flush();
      expect([root.version, (await load(db, 1)).root.version]).toEqual([2, 2]);
      em.getUnitOfWork().computeChangeSets();
      touching = undefined;
      expect(await db.sent(() => em.flush())).toEqual([]);
    });

    test('a touch in a hook of a line counts for the next flush at the latest', async () => {
      let touching: Order | undefined;
      const db = await setUp({
        subscribers: [
          { getSubscribedEntities: () => [Line], beforeUpdate: async () => void (touching && touch(touching)) },
        ],
      });
      const { em, line, root } = await load(db, 1);
      touching = root;
      line.amount++;
      await em.flush();
      touching = undefined;
      await em.flush();
      expect(root.version).toBe(2);
      expect((await load(db, 1)).root.version).toBe(2);
      expect(await db.sent(() => em.flush())).toEqual([]);
    });

    test('a refresh takes a touch back, and a root that is cleared or removed is not touched', async () => {
      const db = await setUp();
      const { em, root } = await load(db, 1);
      touch(root);
      await em.refresh(root);
      expect(await db.sent(() => em.flush())).toEqual([]);
      touch(root);
      em.clear();
      expect(await db.sent(() => em.flush())).toEqual([]);
      expect((await load(db, 1)).root.version).toBe(1);
      await db.fork().nativeDelete(Line, {});
      const last = await db.fork();
      const removed = (await last.findOneOrFail(Root, 1)) as Order;
      touch(removed);
      last.remove(removed);
      await last.flush();
      expect(await db.fork().count(Root)).toBe(0);
    });

    /** Ways to read the touched root again, and whether that takes the touch back, as it does unsaved changes. */
    const reads: Record<string, [read: (em: SqlEntityManager, root: Order) => Promise<unknown>, isTakenBack: boolean]> =
      {
        'find()': [(em) => em.find(Root, {}), false],
        'find(), refreshed': [(em) => em.find(Root, {}, { refresh: true }), true],
        'findOne(), refreshed': [(em) => em.findOne(Root, 1 as never, { refresh: true }), true],
        'findAndCount(), refreshed': [(em) => em.findAndCount(Root, {}, { refresh: true }), true],
        'a part': [(em) => em.find(Root, {}, { fields: ['total'] as never }), false],
        'a part, refreshed': [(em) => em.find(Root, {}, { fields: ['total'] as never, refresh: true }), false],
        'em.refresh()': [(em, root) => em.refresh(root), true],
        'em.refresh() of a part': [(em, root) => em.refresh(root, { fields: ['total'] as never }), false],
        'a query builder': [(em) => em.createQueryBuilder(Root).select('*').getResult(), true],
        'from a line, refreshed': [(em) => em.find(Line, {}, { populate: ['order'] as never, refresh: true }), true],
        'in a transaction, locked and refreshed': [
          (em) => em.transactional((tx) => tx.find(Root, {}, { refresh: true, lockMode: LockMode.PESSIMISTIC_WRITE })),
          true,
        ],
      };
    test.each(Object.entries(reads))('read again, %s', async (_, [read, isTakenBack]) => {
      const db = await setUp();
      const { em, root } = await load(db, 1);
      touch(root);
      await read(em as SqlEntityManager, root);
      await em.flush();
      const version = isTakenBack ? 1 : 2;
      expect([root.version, (await load(db, 1)).root.version]).toEqual([version, version]);
      root.note = 'goes on';
      await em.flush();
      expect((await load(db, 1)).root).toMatchObject({ note: 'goes on', version: version + 1 });
    });

    test('read in part after a rival: what was touched is as old as before', async () => {
      for (const refresh of [false, true]) {
        const db = await setUp();
        const { em, root } = await load(db, 1);
        touch(root);
        const rival = await load(db, 1);
        rival.root.note = 'theirs';
        await rival.em.flush();
        await em.find(Root, {}, { fields: ['total'] as never, refresh });
        const error = await thrown(() => em.flush());
        expect(error.conflicts).toMatchObject([{ expected: 1, actual: 2 }]);
      }
    });

    test('in a transaction, and in one inside it', async () => {
      const db = await setUp({
        subscribers: [
          {
            async onFlush({ uow }) {
              const root = uow.getById(Root as typeof Order, 1 as never) as Order | undefined;
              if (root && helper(root).__originalEntityData) {
                uow.computeChangeSet(root);
                uow.recomputeSingleChangeSet(root);
              }
            },
          },
        ],
      });
      const { em, root } = await load(db, 1);
      touch(root);
      await em.transactional((tx) => tx.transactional(async () => {}));
      expect(root.version).toBe(2);
      await thrown(() =>
        em.transactional(async (tx) => {
          touch(root);
          await tx.flush();
          expect(root.version).toBe(3);
          throw new Error('rolls back');
        }),
      );
      expect(root.version).toBe(2);
    });
  });
}
