/** Rows, tags and answers on a real database; run on each of them. */
import { defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, InvalidVersion, VersionField, VersionNotLoaded, touch } from '@mikro-ool/core';
import {
  PreconditionError,
  type ProblemBody,
  claimedVersion,
  etag,
  ifMatch,
  notModified,
  problem,
} from '@mikro-ool/http';
import { flushEach, mergeOnConflict } from '@mikro-ool/resolve';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open, thrown } from '../../driver/test/harness.ts';
import { Article, Note, type Request, handle } from './service.ts';

const Animal = defineEntity({
  name: 'Animal',
  abstract: true,
  discriminatorColumn: 'kind',
  properties: { id: p.integer().primary(), kind: p.string(), name: p.string(), version: p.type(VersionField) },
});
const Dog = defineEntity({ name: 'Dog', extends: Animal, discriminatorValue: 'dog', properties: {} });
const Line = defineEntity({
  name: 'Line',
  properties: {
    note: () => p.manyToOne(Note).primary(),
    code: p.string().primary(),
    text: p.string(),
    version: p.type(VersionField),
  },
});
const Wide = defineEntity({
  name: 'Wide',
  properties: { id: p.bigint().primary(), text: p.string(), version: p.type(VersionField) },
});
const Token = defineEntity({
  name: 'Token',
  properties: { id: p.uuid().primary(), text: p.string(), version: p.type(VersionField) },
});
const Long = defineEntity({
  name: 'Long',
  properties: { id: p.string().length(2000).primary(), text: p.string(), version: p.type(VersionField) },
});
const Price = defineEntity({
  name: 'Price',
  properties: { id: p.decimal('string').precision(10).scale(2).primary(), version: p.type(VersionField) },
});
const Code = defineEntity({
  name: 'Code',
  properties: { id: p.string().columnType('char(8)').primary(), version: p.type(VersionField) },
});
const Folded = defineEntity({
  name: 'Folded',
  properties: { id: p.string().columnType('text collate nocase').primary(), version: p.type(VersionField) },
});
const Plain = defineEntity({ name: 'Plain', properties: { id: p.integer().primary() } });

const Basket = defineEntity({
  name: 'Basket',
  properties: {
    id: p.integer().primary(),
    rows: () => p.oneToMany(BasketRow).mappedBy('basket'),
    version: p.type(new VersionField({ aggregate: ['rows'] })),
  },
});
const BasketRow = defineEntity({
  name: 'BasketRow',
  properties: { id: p.integer().primary(), text: p.string(), basket: () => p.manyToOne(Basket) },
});

/** Keys that some databases take for one. */
const pairs = [
  ['a', 'a '],
  ['a', 'a\t'],
  ['a', 'a\u00a0'],
  ['a', 'A'],
  ['\u00e4', '\u00c4'],
  ['k', '\u212a'],
] as const;

export function suite(driver: TestDriver): void {
  /** Articles 1 and 2 and note 1, all at version 3. */
  const setUp = async () => {
    const db = await open(driver, [Article, Note, Animal, Dog, Line, Wide, Token, Plain]);
    const em = db.fork();
    em.create(Article, { id: 1, title: 'one', secret: 'SECRET', version: 3 });
    em.create(Article, { id: 2, title: 'two', secret: 'SECRET', version: 3 });
    em.create(Note, { id: 1, text: 'note', secret: 'SECRET', version: 3 });
    await em.flush();
    const ask = (method: string, headers: Request['headers'], body?: object) =>
      handle(db.orm, { method, path: '/articles/1', headers, body: body && JSON.stringify(body) });
    const row = async () => db.fork().findOne(Article, 1);
    return { ...db, ask, row };
  };

  describe(`${driver.name}: keys in tags`, () => {
    test('a long key has a short tag, which comes back; another long one has another', async () => {
      const { fork } = await open(driver, [Long]);
      const em = fork();
      const ids = ['\u5b57'.repeat(1400), `${'\u5b57'.repeat(1399)}\u5b58`, 'x'.repeat(300)];
      const rows = ids.map((id) => em.create(Long, { id, text: 'a', version: 3 }));
      await em.flush();
      const tags = rows.map((row) => etag(row));
      expect(tags.every((tag) => tag.length < 600)).toBe(true);
      expect(new Set(tags).size).toBe(3);
      for (const [i, id] of ids.entries()) {
        expect(ifMatch(tags[i], fork().getReference(Long, id))).toBe(3);
        expect(ifMatch(tags[i], await fork().findOneOrFail(Long, id))).toBe(3);
        expect(() => ifMatch(tags[(i + 1) % 3], fork().getReference(Long, id))).toThrow(PreconditionError);
      }
    });

    for (const { name, entity, id, otherwise, other } of [
      {
        name: 'uuid',
        entity: Token,
        id: 'abcdef00-aaaa-4bbb-8ccc-dddddddddddd',
        otherwise: 'ABCDEF00-AAAA-4BBB-8CCC-DDDDDDDDDDDD',
        other: 'abcdef00-aaaa-4bbb-8ccc-ddddddddddde',
      },
      { name: 'bigint', entity: Wide, id: 7n, otherwise: '07', other: '70' },
      { name: 'decimal', entity: Price, id: '1.50', otherwise: '01.5', other: '15' },
      { name: 'decimal without a fraction', entity: Price, id: '100.00', otherwise: '100', other: '1' },
      { name: 'char', entity: Code, id: 'a', otherwise: 'a       ', other: 'b' },
      { name: 'text', entity: Long, id: 'Key', otherwise: 'kEY', other: 'Keys' },
      { name: 'text without case', entity: Folded, id: 'Key', otherwise: 'kEY', other: 'Keys' },
    ] as const) {
      test(`a key that is spelled otherwise has the same tag (${name}), where it is the same row`, async () => {
        const db = await open(driver, [entity as never]).catch(() => undefined);
        if (!db) {
          return; // no such collation
        }
        const { fork } = db;
        const em = fork();
        em.create(entity as typeof Token, { id, text: 'a', version: 3 } as never);
        await em.flush();
        const loaded = (await fork().find(entity as typeof Token, {}))[0]!;
        const reference = (key: unknown) => fork().getReference(entity as typeof Token, key as never);
        const isSame = (await fork().count(entity as typeof Token, { id: otherwise } as never)) === 1;
        if (!isSame) {
          expect(() => ifMatch(etag(loaded), reference(otherwise))).toThrow(PreconditionError);
        } else {
          expect(ifMatch(etag(loaded), reference(otherwise))).toBe(3);
          // and the database agrees
          const last = fork();
          const row = last.getReference(entity as typeof Token, otherwise as never);
          row.version = ifMatch(etag(loaded), row);
          last.remove(row);
          await last.flush();
          expect(await fork().count(entity as typeof Token)).toBe(0);
        }
        expect(() => ifMatch(etag(loaded), reference(other))).toThrow(PreconditionError);
      });
    }
  });

  test(`${driver.name}: what is another key to the database has another tag`, async () => {
    for (const entity of [Long, Folded, Code]) {
      const db = await open(driver, [entity as never]).catch(() => undefined);
      for (const [one, other] of db ? pairs : []) {
        const em = db!.fork();
        await em.nativeDelete(entity as typeof Long, {});
        const row = (id: string) => ({ id, ...(entity === Long && { text: 'a' }) }) as { id: string; text: string };
        await em.insert(entity as typeof Long, row(one));
        const isTaken = await em.insert(entity as typeof Long, row(other)).then(
          () => false,
          () => true,
        );
        const tags = (await em.find(entity as typeof Long, {})).map((found) => etag(found));
        expect([one, other, new Set(tags).size]).toEqual([one, other, isTaken ? 1 : 2]);
      }
    }
  });

  describe(`${driver.name}: handlers`, () => {
    test('a client reads, writes, and is too late the second time', async () => {
      const { ask } = await setUp();
      const read = await ask('GET', {});
      expect(read).toMatchObject({ status: 200, headers: { etag: '"Article/1/3"' } });
      expect(await ask('GET', { 'if-none-match': read.headers.etag })).toEqual({
        status: 304,
        headers: { etag: '"Article/1/3"' },
      });
      const written = await ask('PUT', { 'if-match': read.headers.etag }, { title: 'mine' });
      expect(written).toMatchObject({ status: 200, headers: { etag: '"Article/1/4"' } });
      const late = await ask('PUT', { 'if-match': read.headers.etag }, { title: 'late' });
      expect(late).toEqual({
        status: 412,
        headers: {
          'content-type': 'application/problem+json',
          'cache-control': 'no-store',
          etag: '"Article/1/4"',
        },
        body: {
          title: 'Precondition Failed',
          status: 412,
          reason: 'changed',
          detail: 'The article was changed by somebody else. Nothing was written. Read it again.',
        },
      });
      expect((await ask('GET', { 'if-none-match': read.headers.etag })).status).toBe(200);
      expect((await ask('PUT', {}, { title: 'blind' })).status).toBe(428);
      expect((await ask('PUT', { 'if-match': 'junk' }, { title: 'junk' })).status).toBe(400);
      expect((await ask('PUT', { 'if-match': '*' }, { title: 'whatever' })).status).toBe(200);
      expect((await ask('GET', {})).headers.etag).toBe('"Article/1/5"');
    });

    test('DELETE with If-Match is exactly one statement; a stale one is a 412 and deletes nothing', async () => {
      const { ask, row, sent } = await setUp();
      expect(await ask('DELETE', { 'if-match': '"Article/1/2"' })).toMatchObject({
        status: 412,
        body: { conflicts: [{ entityName: 'Article', primaryKey: 1, operation: 'delete', expected: 2, actual: 3 }] },
      });
      expect((await ask('DELETE', {})).status).toBe(428);
      expect((await ask('DELETE', { 'if-match': '*' })).status).toBe(428);
      expect(await row()).not.toBeNull();
      const log = await sent(async () =>
        expect((await ask('DELETE', { 'if-match': '"Article/1/3"' })).status).toBe(204),
      );
      expect(log).toEqual([expect.stringMatching(/^delete from .article. where .id. = 1 and .version. = 3$/)]);
      expect(await row()).toBeNull();
      expect(await ask('DELETE', { 'if-match': '"Article/1/3"' })).toMatchObject({
        status: 412,
        body: { conflicts: [{ actual: null }] },
      });
    });

    test('an update through a reference is exactly one statement, and its new tag needs no read', async () => {
      const { ask, row, sent } = await setUp();
      expect((await ask('POST', { 'if-match': '"Article/1/2"' }, { title: 'late' })).status).toBe(412);
      let tag: string | undefined;
      const log = await sent(async () => {
        tag = (await ask('POST', { 'if-match': '"Article/1/3"' }, { title: 'mine' })).headers.etag;
      });
      expect(log).toEqual([expect.stringMatching(/^update .article. set .+ and .version. = 3$/)]);
      expect(tag).toBe('"Article/1/4"');
      expect(await row()).toMatchObject({ title: 'mine', version: 4, secret: 'SECRET' });
    });

    test('a version in the body is a claim: stale 409, missing 428, nonsense 400', async () => {
      const { ask, row } = await setUp();
      expect(await ask('PATCH', {}, { title: 'late', version: 2 })).toMatchObject({
        status: 409,
        headers: { 'content-type': 'application/problem+json' },
        body: { title: 'Conflict', status: 409, conflicts: [{ expected: 2, actual: 3 }] },
      });
      for (const version of [undefined, null]) {
        expect((await ask('PATCH', {}, { title: 'blind', version })).status).toBe(428);
      }
      for (const version of ['3', -1, 1.5, 2 ** 53, 2 ** 40, {}, [3], true]) {
        expect((await ask('PATCH', {}, { title: 'junk', version })).status).toBe(400);
      }
      expect(await row()).toMatchObject({ title: 'one', version: 3 });
      expect((await ask('PATCH', {}, { title: 'mine', version: 3 })).status).toBe(200);
    });

    for (const [header, status] of [
      ['"Article/1/3"', 412],
      ['*', 409],
    ] as const) {
      test(`a race between the check of If-Match: ${header} and the write is a ${status}`, async () => {
        const { fork, row } = await setUp();
        const [mine, hers] = [fork(), fork()];
        for (const em of [mine, hers]) {
          const article = await em.findOneOrFail(Article, 1);
          article.version = ifMatch(header, article);
          article.title = em === mine ? 'mine' : 'hers';
        }
        await hers.flush();
        expect(problem(await thrown(() => mine.flush()))).toMatchObject({ status });
        expect(await row()).toMatchObject({ title: 'hers', version: 4 });
      });
    }

    test('of flushEach(): 207 when some are saved, 409 when none is, nothing when all are', async () => {
      const { fork } = await setUp();
      const em = fork();
      const [first, second] = await em.find(Article, {}, { orderBy: { id: 'asc' } });
      const rival = fork();
      (await rival.findOneOrFail(Article, 2)).title = 'hers';
      await rival.flush();
      Object.assign(first!, { title: 'mine' });
      Object.assign(second!, { title: 'mine' });
      expect(problem(await flushEach(em))).toEqual({
        status: 207,
        headers: { 'content-type': 'application/problem+json', 'cache-control': 'no-store' },
        body: {
          title: 'Multi-Status',
          status: 207,
          reason: 'partial',
          detail: '1 saved, 1 changed or removed by somebody else and not saved. Read those again.',
          conflicts: [{ entityName: 'Article', primaryKey: 2, operation: 'update', expected: 3, actual: 4 }],
        },
      });
      const none = problem(await flushEach(em));
      expect(none).toMatchObject({ status: 409, body: { conflicts: [{ primaryKey: 2, actual: 4 }] } });
      expect(JSON.stringify(none)).not.toContain('SECRET');
      await em.refresh(second!);
      second!.title = 'mine';
      expect(problem(await flushEach(em))).toBeUndefined();
    });

    for (const [header, isMerged] of [
      ['"Article/1/3"', false],
      ['*', true],
    ] as const) {
      test(`mergeOnConflict() after If-Match: ${header}: a rival who came afterwards is ${isMerged ? '' : 'not '}merged`, async () => {
        const { fork, row } = await setUp();
        const em = fork();
        const article = await em.findOneOrFail(Article, 1);
        article.version = ifMatch(header, article);
        article.title = 'mine';
        await fork().nativeUpdate(Article, 1, { secret: 'hers' });
        const error = await mergeOnConflict(em, { resolve: () => {} }).catch((reason: unknown) => reason);
        expect(problem(error)?.status).toBe(isMerged ? undefined : 412);
        expect(await row()).toMatchObject({ title: isMerged ? 'mine' : 'one', version: isMerged ? 5 : 4 });
      });
    }

    test('PUT with If-None-Match: * creates once', async () => {
      const { orm, ask } = await setUp();
      expect((await ask('PUT', { 'if-none-match': '*' }, { title: 'again' })).status).toBe(412);
      const create = () =>
        handle(orm, { method: 'PUT', path: '/articles/9', headers: { 'if-none-match': '*' }, body: '{"title":"new"}' });
      const answers = await Promise.all([create(), create(), create()]);
      expect(answers.filter(({ status }) => status === 201)).toEqual([
        expect.objectContaining({ headers: { etag: '"Article/9/1"' } }),
      ]);
      expect(answers.every(({ status }) => [201, 409, 412].includes(status))).toBe(true);
      expect((await create()).status).toBe(412);
    });

    test('a request for a state of something does not create it', async () => {
      const { fork } = await setUp();
      const em = fork();
      const article = em.create(Article, { id: 9, title: 'new', secret: '' });
      for (const header of ['"Article/9/5"', '"Article/1/3"', '*', '']) {
        expect(() => ifMatch(header, article)).toThrow(expect.objectContaining({ status: 412, reason: 'stale' }));
      }
      expect(() => ifMatch(undefined, article)).toThrow(expect.objectContaining({ status: 428 }));
      for (const value of ['"Article/9/5"', 5]) {
        expect(() => claimedVersion(value, article)).toThrow(expect.objectContaining({ status: 409 }));
      }
      article.version = 5;
      expect(() => ifMatch('"Article/9/5"', article)).toThrow(expect.objectContaining({ status: 412 }));
      delete (article as { version?: number }).version;
      await em.flush();
      expect(ifMatch('*', article)).toBe(1);
    });

    test('what has no snapshot is there all the same: read by em.stream(), written by em.insert()', async () => {
      const { fork } = await setUp();
      const em = fork();
      const inserted = em.create(Article, { id: 9, title: 'new', secret: '' }, { persist: false });
      await em.insert(inserted);
      expect(ifMatch('"Article/9/1"', inserted)).toBe(1);
      let count = 0;
      for await (const article of em.stream(Article)) {
        count++;
        expect(ifMatch(etag(article), article)).toBe(article.version);
        expect(claimedVersion(etag(article), article)).toBe(article.version);
      }
      expect(count).toBeGreaterThan(1);
    });

    test('a tag with a number that its version cannot be is of no state, also for a reference', async () => {
      const { fork } = await setUp();
      for (const article of [fork().getReference(Article, 1), await fork().findOneOrFail(Article, 1)]) {
        const tag = `"Article/1/${2 ** 40}"`;
        expect(() => ifMatch(tag, article)).toThrow(expect.objectContaining({ status: 412, reason: 'stale' }));
        expect(() => claimedVersion(tag, article)).toThrow(expect.objectContaining({ status: 409 }));
      }
    });

    test('the tag of another row, class or version opens nothing', async () => {
      const { ask, row } = await setUp();
      for (const tag of [
        '"Article/2/3"',
        '"Note/1/3"',
        '"Article/1/4"',
        '"Article/11/3"',
        '"article/1/3"',
        '"1/3"',
        '"3"',
      ]) {
        expect((await ask('PUT', { 'if-match': tag }, { title: 'x' })).status).toBe(412);
        expect((await ask('DELETE', { 'if-match': tag })).status).toBe(412);
      }
      expect(await row()).toMatchObject({ title: 'one', version: 3 });
    });
  });

  describe(`${driver.name}: tags`, () => {
    test('an aggregate: the tag of the root stands for its parts', async () => {
      const { fork } = await open(driver, [Basket, BasketRow] as never);
      const em = fork();
      const basket = em.create(Basket, { id: 1, rows: [{ id: 1, text: 'one' }] });
      await em.flush();
      const tags = new Set([etag(basket)]);
      basket.rows[0]!.text = 'two';
      await em.flush();
      tags.add(etag(basket));
      em.create(BasketRow, { id: 2, text: 'new', basket });
      await em.flush();
      expect(tags.add(etag(basket)).size).toBe(3);
      expect(etag(await fork().findOneOrFail(Basket, 1))).toBe(etag(basket));
    });

    test('a reference has the tag of what is loaded: composite, bigint, uuid and inherited keys', async () => {
      const { fork } = await setUp();
      const em = fork();
      const id = '0193a5b0-7e5c-7000-8000-00000000abcd';
      em.create(Line, { note: em.getReference(Note, 1), code: 'a/b "c", ü', text: 'a', version: 3 });
      em.create(Wide, { id: 900719925474099n, text: 'a', version: 3 });
      em.create(Token, { id, text: 'a', version: 3 });
      em.create(Dog, { id: 1, name: 'a', version: 3 });
      await em.flush();
      const read = fork();
      const tags = {
        line: etag(await read.findOneOrFail(Line, { code: 'a/b "c", ü' })),
        wide: etag(await read.findOneOrFail(Wide, 900719925474099n)),
        token: etag(await read.findOneOrFail(Token, id)),
        dog: etag(await read.findOneOrFail(Animal, 1)),
      };
      expect(tags).toEqual({
        line: '"Line/1/a%2Fb%20%22c%22%2C%20%C3%BC/3"',
        wide: '"Wide/900719925474099/3"',
        token: `"Token/${id}/3"`,
        dog: '"Animal/1/3"',
      });
      const blind = fork();
      const references = {
        line: blind.getReference(Line, [1, 'a/b "c", ü'] as never) as object,
        wide: blind.getReference(Wide, 900719925474099n),
        token: blind.getReference(Token, id),
        dog: blind.getReference(Animal, 1),
      };
      for (const [name, entity] of Object.entries(references)) {
        const version = ifMatch(tags[name as keyof typeof tags], entity);
        expect(version).toBe(3);
        blind.remove(Object.assign(entity, { version }));
      }
      await blind.flush();
      expect(await fork().count(Line)).toBe(0);
    });

    test('what is assigned does not count as what was read: If-Match and ETag go by the loaded version', async () => {
      const { fork } = await setUp();
      for (const version of [1, 2, 4, 99]) {
        for (const body of [{ title: 'mine', version }, { version }]) {
          const em = fork();
          const article = em.assign(await em.findOneOrFail(Article, 1), body);
          expect(etag(article)).toBe('"Article/1/3"');
          expect(ifMatch('"Article/1/3"', article)).toBe(3);
          expect(ifMatch('*', article)).toBe(3);
          expect(notModified('"Article/1/3"', article)).toBe(true);
          expect(() => ifMatch(`"Article/1/${version}"`, article)).toThrow(expect.objectContaining({ status: 412 }));
          const reference = fork().assign(fork().getReference(Article, 1), body);
          expect(ifMatch('"Article/1/3"', reference)).toBe(3);
          expect(() => ifMatch('*', reference)).toThrow(expect.objectContaining({ status: 428 }));
        }
      }
      for (const order of ['touched, assigned', 'assigned, touched']) {
        const em = fork();
        const article = await em.findOneOrFail(Article, 1);
        const steps = [() => touch(article), () => void em.assign(article, { title: 'mine', version: 1 })];
        (order.startsWith('touched') ? steps : steps.toReversed()).forEach((step) => step());
        expect(etag(article)).toBe('"Article/1/3"');
        expect(ifMatch('"Article/1/3"', article)).toBe(3);
        expect(() => ifMatch('"Article/1/1"', article)).toThrow(expect.objectContaining({ status: 412 }));
      }
      const em = fork();
      const article = em.assign(await em.findOneOrFail(Article, 1), { title: 'mine', version: 1 });
      article.version = ifMatch('"Article/1/3"', article);
      await em.flush();
      expect(etag(article)).toBe('"Article/1/4"');
      const late = em.assign(em.getReference(Article, 2), { title: 'late', version: 3 });
      late.version = ifMatch('"Article/2/2"', late);
      expect(problem(await thrown(() => em.flush()))).toMatchObject({ status: 412 });
    });

    test('a schema is a part of the tag, where there are several', async () => {
      const { fork } = await setUp();
      const [a, b] = [fork(), fork()].map((em, i) => em.getReference(Article, 1, { schema: `tenant${i}` }));
      const tag = etag(Object.assign(a!, { version: 3 }));
      expect(() => ifMatch(tag, b!)).toThrow(PreconditionError);
      expect(() => ifMatch(tag, fork().getReference(Article, 1))).toThrow(PreconditionError);
    });

    test('what has no tag says why', async () => {
      const { fork } = await setUp();
      const em = fork();
      expect(() => etag(em.getReference(Article, 1))).toThrow(
        'This Article has no ETag, because its version is not known',
      );
      expect(() => etag(em.getReference(Plain, 1))).toThrow('Plain has no ETag, because it has no VersionField');
      expect(() => ifMatch('"a"', em.getReference(Plain, 1))).toThrow('no VersionField');
      for (const nothing of [{}, null, undefined, 1, 'a']) {
        expect(() => etag(nothing as object)).toThrow('Only an entity has an ETag');
      }
    });
  });

  describe(`${driver.name}: problems`, () => {
    test('errors that are none of ours are left alone, and so is a programming error', async () => {
      const { fork } = await setUp();
      const em = fork();
      em.getReference(Article, 1).title = 'blind';
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(VersionNotLoaded);
      for (const other of [
        error,
        new Error('x'),
        null,
        undefined,
        'text',
        { status: 412 },
        await em.findOneOrFail(Article, 99).catch((e: unknown) => e),
      ]) {
        expect(problem(other)).toBeUndefined();
      }
    });

    test('in words for clients, who know nothing of flushes, and in those of the application', async () => {
      const { fork } = await setUp();
      const conflict = (entityName: string, actual: number | null) => ({
        ...{ entity: fork().getReference(Article, 1), entityName, primaryKey: 1, operation: 'update' as const },
        ...{ expected: 1, actual },
      });
      const said = (...conflicts: ReturnType<typeof conflict>[]) => {
        const { reason, detail } = problem(new ConcurrentUpdate(conflicts))!.body;
        return `${reason}: ${detail.split('. ')[0]}`;
      };
      expect(said(conflict('OrderLine', 2))).toBe('changed: The order line was changed by somebody else');
      expect(said(conflict('APIKey', null))).toBe('removed: The api key was removed by somebody else');
      expect(said(conflict('Article', 2), conflict('Note', null))).toBe(
        'changed: 2 rows were changed by somebody else',
      );
      const error = new ConcurrentUpdate([conflict('Article', 2)]);
      expect(problem(error)!.body.detail).not.toMatch(/flush|version/i);
      const detail = ({ reason, conflicts }: ProblemBody) => `Grund: ${reason}, ${conflicts!.length}`;
      expect(problem(error, { detail })!.body).toMatchObject({ reason: 'changed', detail: 'Grund: changed, 1' });
    });

    test('a race that the database decided repeats nothing that the database said', () => {
      const answer = problem(
        new ConcurrentUpdate([], new Error(`update "article" set "secret" = 'SECRET' - deadlock`)),
      );
      expect(answer!.status).toBe(409);
      expect(JSON.stringify(answer)).not.toContain('SECRET');
    });

    test('a problem repeats no value that the client sent, and is plain JSON', async () => {
      const { fork } = await setUp();
      const em = fork();
      const article = await em.findOneOrFail(Article, 1);
      article.version = 'SECRET'.repeat(1000) as never;
      const error = await thrown(() => em.flush());
      expect(error).toBeInstanceOf(InvalidVersion);
      expect(problem(error)).toMatchObject({ status: 400 });
      expect(JSON.stringify(problem(error))).not.toContain('SECRET');
      const conflict = { entity: article, entityName: 'Wide', primaryKey: 1n, operation: 'check' as const };
      const answer = problem(new ConcurrentUpdate([{ ...conflict, expected: 1, actual: 2 }]))!;
      expect(answer.body.conflicts).toEqual([
        { entityName: 'Wide', primaryKey: '1', operation: 'check', expected: 1, actual: 2 },
      ]);
      expect(() => claimedVersion('SECRET')).toThrow(
        expect.objectContaining({ status: 400, message: expect.not.stringContaining('SECRET') as string }),
      );
    });
  });
}
