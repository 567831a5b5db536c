/** If-Match and If-None-Match against the grammar of RFC 9110, sections 5.6.1 and 8.8.3. */
import { MikroORM } from '@mikro-orm/core';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import { type HeaderValue, PreconditionError, etag, ifMatch, ifNoneMatch, notModified } from '@mikro-ool/http';
import * as fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { Article, Note } from './service.ts';

const orm = await MikroORM.init({ driver: versioned(SqliteDriver), dbName: ':memory:', entities: [Article, Note] });
afterAll(() => orm.close());

const loaded = (id = 1, version = 3) => orm.em.fork().merge(Article, { id, title: 'a', secret: 'b', version });
const reference = () => orm.em.fork().getReference(Article, 1);
const statusOf = (work: () => unknown) => {
  try {
    work();
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(PreconditionError);
    return (error as PreconditionError).status;
  }
};

const etagc = fc.integer({ min: 0x21, max: 0xff }).filter((c) => c !== 0x22 && c !== 0x7f && (c < 0x80 || c > 0x7f));
const tag = fc
  .tuple(fc.constantFrom('', 'W/'), fc.array(etagc, { maxLength: 12 }))
  .map(([weak, codes]) => `${weak}"${String.fromCharCode(...codes)}"`);
const ows = fc.constantFrom('', ' ', '\t', '  \t ');
const element = fc
  .tuple(ows, fc.oneof({ weight: 4, arbitrary: tag }, { weight: 1, arbitrary: fc.constant('') }), ows)
  .map((parts) => parts.join(''));
const list = fc.array(element, { minLength: 1, maxLength: 10 });

test('the tag of an entity names class, key and version', () => {
  expect(etag(loaded())).toBe('"Article/1/3"');
  expect(ifMatch('"Article/1/3"', reference())).toBe(3);
});

describe('what the grammar allows', () => {
  test('any list without the tag is a 412, and with it anywhere it is the version', () => {
    fc.assert(
      fc.property(list, fc.nat(10), (elements, at) => {
        expect(statusOf(() => ifMatch(elements.join(','), loaded()))).toBe(412);
        expect(statusOf(() => ifMatch(elements.join(','), reference()))).toBe(412);
        expect(notModified(elements.join(','), loaded())).toBe(false);
        expect(statusOf(() => ifNoneMatch(elements.join(','), loaded()))).toBe(428);
        const withIt = elements.toSpliced(at, 0, ' "Article/1/3"');
        for (const header of [withIt.join(','), withIt]) {
          expect(ifMatch(header, loaded())).toBe(3);
          expect(ifMatch(header, reference())).toBe(3);
          expect(notModified(header, loaded())).toBe(true);
          expect(statusOf(() => ifNoneMatch(header, loaded()))).toBe(412);
        }
      }),
      { numRuns: 300 },
    );
  });

  test('commas inside a tag do not end it', () => {
    expect(statusOf(() => ifMatch('"a,"', loaded()))).toBe(412);
    expect(statusOf(() => ifMatch('"x,"Article/1/3",y"', loaded()))).toBe(400);
  });

  test('weak tags match readers only', () => {
    expect(statusOf(() => ifMatch('W/"Article/1/3"', loaded()))).toBe(412);
    expect(statusOf(() => ifMatch('W/"Article/1/3"', reference()))).toBe(412);
    expect(ifMatch('W/"Article/1/3", "Article/1/3"', loaded())).toBe(3);
    expect(notModified('W/"Article/1/3"', loaded())).toBe(true);
    expect(statusOf(() => ifNoneMatch('W/"Article/1/3"', loaded()))).toBe(412);
  });

  test('* is what is there, where something is known to be there', () => {
    for (const star of ['*', ' *\t', ['*']]) {
      expect(ifMatch(star, loaded())).toBe(3);
      expect(statusOf(() => ifMatch(star, reference()))).toBe(428);
      expect(notModified(star, loaded())).toBe(true);
      expect(statusOf(() => ifNoneMatch(star, loaded()))).toBe(412);
      expect(statusOf(() => ifNoneMatch(star, null))).toBeUndefined();
    }
  });

  test('without a header, writes are refused and reads are not', () => {
    for (const none of [undefined, null, []]) {
      expect(statusOf(() => ifMatch(none, loaded()))).toBe(428);
      expect(notModified(none, loaded())).toBe(false);
      expect(statusOf(() => ifNoneMatch(none, null))).toBeUndefined();
      expect(statusOf(() => ifNoneMatch(none, loaded()))).toBe(428);
    }
  });

  test('several versions of one row: the loaded one is picked, and without one it is a 428', () => {
    const header = '"Article/1/2", "Article/1/3"';
    expect(ifMatch(header, loaded())).toBe(3);
    expect(statusOf(() => ifMatch(header, reference()))).toBe(428);
    expect(ifMatch('"Article/1/3", "Article/2/7", "Note/1/8", "Article/1/3"', reference())).toBe(3);
  });
});

describe('what it does not', () => {
  const garbage = [
    'Article/1/3', '"', '"a', 'a"', "'a'", '"a""b"', '"a" "b"', '"a";"b"', 'w/"a"', 'W/ "a"', 'W/', '*,', '*, "a"', '"a", *',
    '**', '"a b"', '"a\tb"', '"\x7f"', '"\u0100"', '"\x00"', '"a"\n', '3', '; drop table article', '\u00a0"a"', '"a"x', '\0',
  ]; // oxfmt-ignore
  test.each(garbage)('%j is a 400', (header) => {
    for (const check of [ifMatch, ifNoneMatch, notModified]) {
      expect(statusOf(() => check(header, loaded()))).toBe(400);
    }
    expect(statusOf(() => ifMatch(header, reference()))).toBe(400);
  });

  test('a version that is written in another way than ours does not match', () => {
    for (const version of ['03', '+3', '3.0', '3e0', '0x3', ' 3', '-3', '', '3/', '9007199254740993', '1e400', 'NaN']) {
      const header = `"Article/1/${version}"`;
      expect([400, 412]).toContain(statusOf(() => ifMatch(header, loaded())));
      expect([400, 412]).toContain(statusOf(() => ifMatch(header, reference())));
    }
  });

  test('what is too long, or too much, is a 400', () => {
    const check = (header: HeaderValue) => statusOf(() => ifMatch(header, loaded()));
    expect(check(`"${'a'.repeat(8190)}"`)).toBe(412);
    expect(check(`"${'a'.repeat(8191)}"`)).toBe(400);
    expect(check(Array.from({ length: 100 }, () => '"a"').join())).toBe(412);
    expect(check(Array.from({ length: 101 }, () => '"a"').join())).toBe(400);
    expect(check(Array.from({ length: 101 }, () => '"a"'))).toBe(400);
    expect(check(Array.from({ length: 1e6 }, () => ''))).toBe(400);
  });

  test('long runs of what could make a pattern backtrack are refused like anything else', () => {
    for (const part of [' ', '\t', ',', ' ,', '"a" ', '"', 'W/', '"a",']) {
      expect(statusOf(() => ifMatch(`${part.repeat(8000 / part.length)}x`, loaded()))).toBe(400);
    }
  });
});
