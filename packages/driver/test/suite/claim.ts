/** Which version is expected: the loaded one or the one that was assigned; without one, nothing is sent. */
import { defineEntity, helper, p } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, loadedVersion } from '@mikro-ool/core';
import { OptimisticLockError, ValidationError } from '@mikro-orm/core';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../harness.ts';

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

export function claims(driver: TestDriver): void {
  /** Articles 1 and 2 at version 3. */
  const setUp = async () => {
    const db = await open(driver, [Article]);
    const em = db.fork();
    for (const id of [1, 2]) {
      em.create(Article, { id, title: 'saved', version: 3 });
    }
    await em.flush();
    const row = async (id = 1) => {
      const [found] = await db
        .fork()
        .getConnection()
        .execute<{ title: string; version: number }[]>(`select title, version from article where id = ${id}`);
      return found;
    };
    return { ...db, row };
  };

  describe('claims', () => {
    test('an assigned version is the expected one, and is never written', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      em.assign(article, { title: 'from a form', version: 2 });
      const error = await thrown(() => em.flush());
      expect(error).toMatchObject({ conflicts: [{ expected: 2, actual: 3 }] });
      expect(await row()).toEqual({ title: 'saved', version: 3 });
      em.assign(article, { version: 3 });
      await em.flush();
      expect(await row()).toEqual({ title: 'from a form', version: 4 });
      expect(article.version).toBe(4);
    });

    test('claims of a batch are checked row by row of the one statement', async () => {
      const { fork, row } = await setUp();
      const em = fork();
      const articles = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      em.assign(articles[0]!, { title: 'a', version: 1 });
      em.assign(articles[1]!, { title: 'b', version: 3 });
      expect(await thrown(() => em.flush())).toMatchObject({ conflicts: [{ primaryKey: 1, expected: 1, actual: 3 }] });
      em.assign(articles[0]!, { version: 3 });
      await em.flush();
      expect([await row(1), await row(2)]).toEqual([
        { title: 'a', version: 4 },
        { title: 'b', version: 4 },
      ]);
    });

    test('merge and reference with an assigned version need no read', async () => {
      const { fork, sent, row } = await setUp();
      const em = fork();
      const log = await sent(async () => {
        em.merge(Article, { id: 1, title: 'saved', version: 3 }).title = 'merged';
        em.assign(em.getReference(Article, 2), { title: 'referenced', version: 3 });
        await em.flush();
      });
      expect(log.some((sql) => sql.startsWith('select'))).toBe(false);
      expect([await row(1), await row(2)]).toEqual([
        { title: 'merged', version: 4 },
        { title: 'referenced', version: 4 },
      ]);
      const late = fork();
      late.assign(late.getReference(Article, 2), { title: 'late', version: 3 });
      expect(await thrown(() => late.flush())).toMatchObject({ conflicts: [{ expected: 3, actual: 4 }] });
    });

    test('removing a reference with an assigned version is one DELETE', async () => {
      const { fork, sent, row } = await setUp();
      const stale = fork();
      stale.remove(stale.assign(stale.getReference(Article, 1), { version: 2 }));
      expect(await thrown(() => stale.flush())).toMatchObject({
        conflicts: [{ operation: 'delete', expected: 2, actual: 3 }],
      });
      const em = fork();
      em.remove(em.assign(em.getReference(Article, 1), { version: 3 }));
      const log = await sent(() => em.flush());
      expect(log.filter((sql) => !/^(?:begin|commit)/.test(sql))).toEqual([expect.stringMatching(/^delete/)]);
      expect(await row()).toBeUndefined();
    });

    test('a claim without another change is checked, and bumps nothing', async () => {
      const { fork, sent, row } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.version = 2;
      const error = await thrown(() => em.flush());
      expect(error).toMatchObject({ conflicts: [{ operation: 'check', expected: 2, actual: 3 }] });
      const other = fork();
      const reference = other.assign(other.getReference(Article, 1), { version: 3 });
      const log = await sent(() => other.flush());
      expect(log.map((sql) => sql.match(/begin|select|update|commit/)?.[0])).toEqual(['begin', 'select', 'commit']);
      expect(reference.version).toBe(3);
      expect(await row()).toEqual({ title: 'saved', version: 3 });
      expect(await sent(() => other.flush())).toEqual([]);
    });

    test('the same for an entity with onUpdate, whose stamps are not written by themselves', async () => {
      let calls = 0;
      const Stamped = defineEntity({
        name: 'Stamped',
        properties: {
          id: p.integer().primary(),
          title: p.string(),
          at: p
            .datetime()
            .onCreate(() => new Date(0))
            .onUpdate(() => new Date(1e12 + 1000 * ++calls)),
          by: p
            .bigint()
            .default(0n.toString())
            .onUpdate(() => BigInt(calls)),
          version: p.type(VersionField),
        },
      });
      const { fork, sent } = await open(driver, [Stamped]);
      const seed = fork();
      seed.create(Stamped, { id: 1, title: 'saved', version: 3 } as never);
      await seed.flush();
      const em = fork();
      const stamped = await em.findOneOrFail(Stamped, 1);
      const reference = fork();
      const claimed = reference.assign(reference.getReference(Stamped, 1), { version: 3 });
      for (const [ours, entity] of [
        [em, stamped],
        [reference, claimed],
      ] as const) {
        entity.version = 2;
        expect(await thrown(() => ours.flush())).toMatchObject({
          conflicts: [{ operation: 'check', expected: 2, actual: 3 }],
        });
        entity.version = 3;
        const log = await sent(() => ours.flush());
        expect(log.some((sql) => sql.startsWith('update'))).toBe(false);
        expect(await sent(() => ours.flush())).toEqual([]);
        expect(await fork().findOne(Stamped, 1)).toMatchObject({ version: 3, at: new Date(0), by: 0n });
      }
      expect(stamped).toMatchObject({ version: 3, at: new Date(0), by: 0n });
      stamped.title = 'changed';
      await em.flush();
      expect(await fork().findOne(Stamped, 1)).toMatchObject({ version: 4, at: stamped.at, by: BigInt(calls) });
      expect(stamped.at).toEqual(new Date(1e12 + 1000 * calls));
    });

    describe('bad input is refused before any SQL', () => {
      for (const value of [Number.NaN, '3', -1, 1.5, 2 ** 40, 2 ** 53, {}, true]) {
        for (const operation of ['update', 'delete', 'insert'] as const) {
          test(`${operation} with version ${JSON.stringify(value) ?? value}`, async () => {
            const { fork, sent } = await setUp();
            const em = fork();
            let error: Error | undefined;
            const article =
              operation === 'insert' ? em.create(Article, { id: 9, title: 'new' }) : await em.findOneOrFail(Article, 1);
            article.version = value as number;
            article.title = 'changed';
            if (operation === 'delete') {
              em.remove(article);
            }
            const log = await sent(async () => {
              error = await thrown(() => em.flush());
            });
            expect(error).toBeInstanceOf(InvalidVersion);
            expect(error).not.toBeInstanceOf(OptimisticLockError);
            expect(error!.message).toMatch(/^Article\.version is .+, which is no version; nothing was sent/);
            expect(log).toEqual([]);
          });
        }
      }

      test('no version: null, undefined, a reference, an update of one and a removal of one', async () => {
        const { fork, sent } = await setUp();
        for (const value of [null, undefined]) {
          const em = fork();
          const article = await em.findOneOrFail(Article, 1);
          article.title = 'blind';
          article.version = value as unknown as number;
          const log = await sent(async () => {
            const error = await thrown(() => em.flush());
            expect(error).toBeInstanceOf(VersionNotLoaded);
            expect(error).toBeInstanceOf(ValidationError);
            expect(error).not.toBeInstanceOf(OptimisticLockError);
            expect(error.message).toMatch(/^Article\.version is not known, so this update could overwrite/);
          });
          expect(log).toEqual([]);
        }
        const em = fork();
        em.getReference(Article, 1).title = 'blind';
        expect(await sent(async () => expect(await thrown(() => em.flush())).toBeInstanceOf(VersionNotLoaded))).toEqual(
          [],
        );
        const other = fork();
        other.remove(other.getReference(Article, 1));
        expect(
          await sent(async () => {
            const error = await thrown(() => other.flush());
            expect(error).toBeInstanceOf(VersionNotLoaded);
            expect(error.message).toContain('this delete');
          }),
        ).toEqual([]);
      });

      test('one bad row of a batch stops all of it', async () => {
        const { fork, sent } = await setUp();
        const em = fork();
        const articles = await em.find(Article, {});
        articles.forEach((article) => (article.title = 'changed'));
        articles[1]!.version = -1;
        expect(await sent(async () => expect(await thrown(() => em.flush())).toBeInstanceOf(InvalidVersion))).toEqual(
          [],
        );
        articles[1]!.version = 3;
        await em.flush();
        expect(articles.map((article) => article.version)).toEqual([4, 4]);
      });

      test('a row with a bigint version that was only read is no claim, and its version no other than the loaded one', async () => {
        const Big = defineEntity({
          name: 'Big',
          properties: {
            id: p.integer().primary(),
            title: p.string(),
            version: p.type(VersionField).columnType('bigint'),
          },
        });
        const { fork, sent } = await open(driver, [Big]);
        await fork().insert(Big, { id: 1, title: 'saved', version: 3 });
        const em = fork();
        const row = await em.findOneOrFail(Big, 1);
        expect(loadedVersion(helper(row).__originalEntityData, 'version')).toBe(3);
        expect(await sent(() => em.flush())).toEqual([]);
        await fork().nativeUpdate(Big, 1, { title: 'theirs' });
        expect(await sent(() => em.flush())).toEqual([]);
        await em.refresh(row);
        expect(row.version).toBe(4);
        expect(await sent(() => em.flush())).toEqual([]);
        row.title = 'mine';
        await em.flush();
        expect(await fork().findOneOrFail(Big, 1)).toMatchObject({ title: 'mine', version: 5 });
      });

      test('a bigint version column takes what a number can count', async () => {
        const Wide = defineEntity({
          name: 'Wide',
          properties: {
            id: p.integer().primary(),
            title: p.string(),
            version: p.type(VersionField).columnType('bigint'),
          },
        });
        const db = await open(driver, [Wide]);
        const em = db.fork();
        const wide = em.create(Wide, { id: 1, title: 'a', version: 2 ** 40 });
        await em.flush();
        const again = db.fork();
        const loaded = await again.findOneOrFail(Wide, 1);
        expect(loaded.version).toBe(2 ** 40);
        loaded.title = 'b';
        await again.flush();
        expect(loaded.version).toBe(2 ** 40 + 1);
        wide.title = 'late';
        expect(await thrown(() => em.flush())).toBeInstanceOf(ConcurrentUpdate);
      });
    });
  });
}
