/** A transaction with entities of its own (`clear: true`) hands what it has written to the EntityManager outside. */
import { type EntityManager, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, touch } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

class Doc {
  id!: number;
  title!: string;
  body!: string;
  n!: number;
  version!: Opt<number>;
}
const Place = defineEntity({ name: 'Place', embeddable: true, properties: { town: p.string() } });
class Page {
  id!: number;
  n!: number;
  place!: { town: string };
  spot!: { town: string };
  parent?: Page | null;
  version!: Opt<number>;
}
const entities = [
  Place,
  defineEntity({
    class: Page,
    properties: {
      id: p.integer().primary().autoincrement(false),
      n: p.integer(),
      place: () => p.embedded(Place).nullable(),
      spot: () => p.embedded(Place).object().nullable(),
      parent: () => p.manyToOne(Page).nullable(),
      version: p.type(VersionField),
    },
  }),
  defineEntity({
    class: Doc,
    properties: {
      id: p.integer().primary().autoincrement(false),
      title: p.string(),
      body: p.text().lazy(),
      n: p.integer(),
      version: p.type(VersionField),
    },
  }),
];

export function handing(driver: TestDriver): void {
  const setUp = async () => {
    const db = await open(driver, entities);
    const seed = db.fork();
    seed.create(Doc, { id: 1, title: 'A', body: 'long', n: 1 });
    await seed.flush();
    const em = db.fork();
    const doc = await em.findOneOrFail(Doc, 1, { populate: ['body'] as never });
    return { ...db, em, doc };
  };

  /** Ways to write a row that is known in part. */
  const ways: Record<string, (tx: EntityManager) => Promise<void>> = {
    'a partial load': async (tx) => {
      (await tx.findOneOrFail(Doc, 1, { fields: ['title'] })).title = 'B';
    },
    'a load without lazy columns': async (tx) => {
      (await tx.findOneOrFail(Doc, 1)).title = 'B';
    },
    'a claimed reference': async (tx) => {
      const doc = tx.getReference(Doc, 1);
      doc.version = 1;
      doc.title = 'B';
    },
    'several flushes': async (tx) => {
      const doc = await tx.findOneOrFail(Doc, 1, { fields: ['title'] });
      for (const title of ['X', 'Y', 'B']) {
        doc.title = title;
        await tx.flush();
      }
    },
    'a touch': async (tx) => {
      const doc = await tx.findOneOrFail(Doc, 1, { fields: ['title'] });
      doc.title = 'B';
      await tx.flush();
      touch(doc);
    },
    'a transaction inside that has its own, too': async (tx) => {
      await tx.findOneOrFail(Doc, 1, { fields: ['n'] });
      await tx.transactional(
        async (inner) => {
          (await inner.findOneOrFail(Doc, 1, { fields: ['title'] })).title = 'B';
        },
        { clear: true },
      );
    },
  };

  describe('transactions with entities of their own', () => {
    for (const [way, write] of Object.entries(ways)) {
      test(`${way}: the entity outside has the version that was written, and does not conflict with itself`, async () => {
        const { em, doc, fork } = await setUp();
        await em.transactional(write, { clear: true });
        const { title, version } = await fork().findOneOrFail(Doc, 1);
        expect([doc.title, doc.version, title]).toEqual(['B', version, 'B']);
        doc.n = 2;
        await em.flush();
        expect(await fork().findOneOrFail(Doc, 1)).toMatchObject({ title: 'B', n: 2, version: version + 1 });
      });

      test(`${way}, on top of what a rival has written: the entity outside stays stale`, async () => {
        const { em, doc, fork } = await setUp();
        await fork().nativeUpdate(Doc, 1, { n: 42 });
        await thrown(() => em.transactional(write, { clear: true })).catch(() => {});
        doc.n += 1;
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
        expect((await fork().findOneOrFail(Doc, 1)).n).toBe(42);
      });

      test(`${way}, with unsaved changes outside: they are saved afterwards`, async () => {
        const { em, doc, fork } = await setUp();
        doc.n = 7;
        await em.transactional(write, { clear: true });
        expect(doc.title).toBe('B');
        doc.n = 7;
        await em.flush();
        expect(await fork().findOneOrFail(Doc, 1)).toMatchObject({ title: 'B', n: 7, version: doc.version });
      });
    }

    const known: Record<string, (em: EntityManager) => unknown> = {
      'in part': (em) => em.findOneOrFail(Page, 2, { fields: ['n'] }),
      'as a reference': (em) => em.getReference(Page, 2),
    };
    for (const [how, know] of Object.entries(known)) {
      test(`what the entity outside, known ${how}, has not loaded is no change of it`, async () => {
        const { fork } = await setUp();
        const [place, spot] = [{ town: 'Ulm' }, { town: 'Bern' }];
        const seed = fork();
        seed.create(Page, { id: 2, n: 1, place, spot, parent: seed.create(Page, { id: 1, n: 1, place, spot }) });
        await seed.flush();
        const em = fork();
        await know(em);
        await em.transactional(async (tx) => void ((await tx.findOneOrFail(Page, 2)).n = 2), { clear: true });
        await em.flush();
        expect(await fork().findOneOrFail(Page, 2)).toMatchObject({ n: 2, place, spot, parent: { id: 1 }, version: 2 });
        // reading it brings the rest, and it can be changed
        const page = await em.findOneOrFail(Page, 2);
        expect(page).toMatchObject({ n: 2, place, spot, parent: { id: 1 }, version: 2 });
        page.spot.town = 'Rom';
        await em.flush();
        expect(await fork().findOneOrFail(Page, 2)).toMatchObject({ n: 2, place, spot: { town: 'Rom' }, version: 3 });
      });
    }
  });
}
