/** New rows start at version 1, or where an import says. */
import { type Opt, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary().autoincrement(), title: p.string(), version: p.type(VersionField) },
});

class Person {
  id!: number;
  name!: string;
  friend?: Person | null;
  version!: Opt<number>;
}
const PersonSchema = defineEntity({
  class: Person,
  properties: {
    id: p.integer().primary().autoincrement(),
    name: p.string(),
    friend: () => p.manyToOne(Person).nullable(),
    version: p.type(VersionField).fieldName('lock_no'),
  },
});

export function inserts(driver: TestDriver): void {
  describe('insert', () => {
    test('a new row has version 1, in memory as in the database', async () => {
      const { fork } = await open(driver, [Article]);
      const em = fork();
      const article = em.create(Article, { title: 'new' });
      await em.flush();
      expect(article.version).toBe(1);
      expect((await fork().findOneOrFail(Article, article.id)).version).toBe(1);
      article.title = 'changed';
      await em.flush();
      expect(article.version).toBe(2);
    });

    test('an explicit version is kept, null is not one, and both mix in one INSERT', async () => {
      const { fork } = await open(driver, [Article]);
      const em = fork();
      const articles = [
        em.create(Article, { title: 'new' }),
        em.create(Article, { title: 'imported', version: 42 }),
        em.create(Article, { title: 'null', version: null as unknown as number }),
        em.create(Article, { title: 'zero', version: 0 }),
      ];
      await em.flush();
      expect(articles.map((article) => article.version)).toEqual([1, 42, 1, 0]);
      const rows = await fork().find(Article, {}, { orderBy: { id: 'asc' } });
      expect(rows.map((row) => row.version)).toEqual([1, 42, 1, 0]);
      articles.forEach((article) => (article.title += '!'));
      await em.flush();
      expect(articles.map((article) => article.version)).toEqual([2, 43, 2, 1]);
    });

    test("a default of the user's own is where versions start", async () => {
      const Numbered = defineEntity({
        name: 'Numbered',
        properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField).default(10) },
      });
      const { fork } = await open(driver, [Numbered]);
      const em = fork();
      const one = em.create(Numbered, { id: 1, title: 'a' });
      em.create(Numbered, { id: 2, title: 'b', version: 5 });
      await em.flush();
      expect(one.version).toBe(10);
      expect((await fork().find(Numbered, {}, { orderBy: { id: 'asc' } })).map((row) => row.version)).toEqual([10, 5]);
    });

    test("an insert with MikroORM's own follow-up update in the same flush ends at 1", async () => {
      const { fork } = await open(driver, [PersonSchema]);
      const em = fork();
      const a = em.create(Person, { name: 'a' });
      const b = em.create(Person, { name: 'b', friend: a });
      a.friend = b;
      await em.flush();
      expect([a.version, b.version]).toEqual([1, 1]);
      const [x, y] = await fork().find(Person, {}, { orderBy: { name: 'asc' } });
      expect([x!.version, y!.version]).toEqual([1, 1]);
      expect([x!.friend!.id, y!.friend!.id]).toEqual([y!.id, x!.id]);
    });

    test('em.insert() and em.insertMany() start at 1 too', async () => {
      const { fork } = await open(driver, [Article]);
      const em = fork();
      const id = await em.insert(Article, { title: 'data' });
      await em.insertMany(Article, [{ title: 'many' }, { title: 'many' }]);
      const entity = fork().create(Article, { title: 'entity' }, { persist: false });
      await fork().insert(entity);
      expect(entity.version).toBe(1);
      expect((await fork().find(Article, {})).map((row) => row.version)).toEqual([1, 1, 1, 1]);
      expect(id).toBe(1);
    });
  });
}
