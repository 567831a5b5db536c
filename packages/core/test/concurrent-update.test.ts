/** What a person, a log and an API get to see of a lost race. */
import { inspect } from 'node:util';
import { OptimisticLockError, ValidationError } from '@mikro-orm/core';
import {
  CommitOutcomeUnknown,
  ConcurrentUpdate,
  type Conflict,
  InvalidVersion,
  Refusal,
  VersionExhausted,
  VersionNotLoaded,
} from '@mikro-ool/core';
import { expect, test } from 'vitest';

const article: Record<string, unknown> = { id: 1, title: 'a secret title' };
article.self = article;

const stale = (more: Partial<Conflict> = {}): Conflict => ({
  entity: article,
  entityName: 'Article',
  primaryKey: 1,
  operation: 'update',
  expected: 3,
  actual: 4,
  ...more,
});

test('an existing catch block for OptimisticLockError keeps working', () => {
  const error = new ConcurrentUpdate([stale()]);
  expect(error).toBeInstanceOf(OptimisticLockError);
  expect(error.name).toBe('ConcurrentUpdate');
  expect(error.getEntity()).toBe(article);
  expect(error.conflicts[0]!.entity).toBe(article);
});

test('the message says what was attempted on which row, both versions, and the way out', () => {
  const way = 'Nothing of this flush was written. Reload and try again, or show the user both states.';
  expect(new ConcurrentUpdate([stale()]).message).toBe(
    `Article 1 could not be updated: version 3 was expected, but it is 4 now. ${way}`,
  );
  expect(new ConcurrentUpdate([stale({ operation: 'delete', actual: null, primaryKey: 'x' })]).message).toBe(
    `Article "x" could not be deleted: version 3 was expected, but the row is gone. ${way}`,
  );
  expect(new ConcurrentUpdate([stale({ operation: 'check', primaryKey: { tenant: 't', number: 5n } })]).message).toBe(
    `Article {"tenant":"t","number":"5"} is not what was claimed: version 3 was expected, but it is 4 now. ${way}`,
  );
  expect(new ConcurrentUpdate([stale({ actual: 3 })]).message).toContain(
    'the row was not written, although it has that version now (a trigger, a row policy, or a row that was deleted and created again)',
  );
});

test('of many conflicts the message lists five, the property all', () => {
  const error = new ConcurrentUpdate(Array.from({ length: 12 }, (_, i) => stale({ primaryKey: i })));
  expect(error.conflicts.length).toBe(12);
  expect(error.message).toContain('Article 4 could not');
  expect(error.message).not.toContain('Article 5 could not');
  expect(error.message).toContain('The same happened to 7 more.');
});

test('printing and JSON show the conflicts, no other columns, and survive cycles and bigint keys', () => {
  const error = new ConcurrentUpdate([stale({ primaryKey: 7n })]);
  expect(inspect(error)).toMatch(/expected: 3,\s+actual: 4/);
  expect(inspect(error)).not.toContain('secret');
  expect(JSON.parse(JSON.stringify({ error, conflicts: error.conflicts }))).toEqual({
    error: {
      name: 'ConcurrentUpdate',
      message: error.message,
      conflicts: [{ entityName: 'Article', primaryKey: '7', operation: 'update', expected: 3, actual: 4 }],
    },
    conflicts: [{ entityName: 'Article', primaryKey: '7', operation: 'update', expected: 3, actual: 4 }],
  });
});

test('a race that the database decided has a cause and lists no rows', () => {
  const cause = new Error('deadlock detected\n - detail: Process 1 waits');
  const error = new ConcurrentUpdate([], cause);
  expect(error.cause).toBe(cause);
  expect(error.getEntity()).toBeUndefined();
  expect(error.message).toBe(
    'The database aborted the transaction, because another one was writing the same rows (deadlock detected). ' +
      'Nothing of it was written. Run the whole transaction again.',
  );
});

test('a programming error and nonsense are no conflicts', () => {
  for (const error of [
    new VersionNotLoaded(article, 'Article', 'version', 'update'),
    new InvalidVersion(article, 'Article', 'version', '3', 2_147_483_647),
  ]) {
    expect(error).toBeInstanceOf(ValidationError);
    expect(error).not.toBeInstanceOf(OptimisticLockError);
    expect(error.getEntity()).toBe(article);
  }
  expect(new InvalidVersion(article, 'Article', 'version', '3', 2_147_483_647).message).toBe(
    'Article.version is "3", which is no version; nothing was sent to the database. ' +
      'Assign an integer from 0 to 2147483647, the version that your change is based on.',
  );
  expect(new InvalidVersion(article, 'Article', 'version', Number.NaN, 5).message).toContain('is NaN,');
});

test('an unknown outcome is no conflict, and says what to do', () => {
  const cause = new Error('Connection terminated unexpectedly');
  const error = new CommitOutcomeUnknown(cause);
  expect(error).not.toBeInstanceOf(OptimisticLockError);
  expect(error).toMatchObject({ name: 'CommitOutcomeUnknown', cause });
  expect(error.message).toBe(
    'The answer to COMMIT was lost (Connection terminated unexpectedly). The changes may be in the database or not: ' +
      'read again before you repeat them.',
  );
});

/** As loggers do it: what can be enumerated, and the chain of causes. */
function serialised(error: Error): string {
  const parts = { ...error, message: error.message, stack: error.stack };
  const json = JSON.stringify(parts, (key, value: unknown) => (key === 'self' ? undefined : value)) ?? '';
  return json + (error.cause instanceof Error ? serialised(error.cause) : '');
}

const statement = () =>
  Object.assign(new Error('Deadlock found when trying to get lock'), {
    code: 'ER_LOCK_DEADLOCK',
    sql: "update article set title = 'a secret title'",
    parameters: ['a secret title'],
  });

test.each([
  new VersionNotLoaded(article, 'Article', 'version', 'update'),
  new InvalidVersion(article, 'Article', 'version', -1, 10),
  new VersionExhausted(article, 'Article', 'version', 1, 10),
  new Refusal('This is refused.', article),
  new ConcurrentUpdate([stale()]),
  new ConcurrentUpdate([], statement()),
  new CommitOutcomeUnknown(statement()),
])('%s: printed, logged and serialised it shows no column, and has its entity and its cause all the same', (error) => {
  for (const shown of [
    inspect(error, { depth: 10 }),
    JSON.stringify(error),
    JSON.stringify({ nested: [error] }),
    serialised(error),
    String(error),
  ]) {
    expect(shown).not.toContain('secret');
    expect(shown).toContain(error.message.slice(0, 20));
  }
  expect(JSON.parse(JSON.stringify(error))).toMatchObject({ name: error.name, message: error.message });
  if (error.cause) {
    expect(error.cause).toMatchObject({ code: 'ER_LOCK_DEADLOCK', sql: expect.stringContaining('secret') });
  } else {
    expect((error as ValidationError).getEntity()).toBe(article);
  }
});
