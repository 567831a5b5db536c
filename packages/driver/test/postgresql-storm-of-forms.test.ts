import { IsolationLevel } from '@mikro-orm/core';
import { onTestFinished, vi } from 'vitest';
import { forms, postgresql as dialect } from '../src/write/dialects/postgresql.ts';
import { postgresql as driver } from './drivers/postgresql.ts';
import { countDeadlocks } from './postgresql-deadlocks.ts';
import { addByExpression, stormOfForms } from './storm-of-forms.ts';

const SIZES = [2, 5, 50, 600];

const bySubscriptIf = (fits: () => boolean) => () => {
  const spy = vi.spyOn(forms.bySubscript, 'fits').mockImplementation(fits);
  onTestFinished(() => spy.mockRestore());
};

stormOfForms({
  driver,
  dialect,
  levels: [IsolationLevel.READ_COMMITTED, IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE],
  session: (level) => [
    `set session characteristics as transaction isolation level ${level}`,
    `set deadlock_timeout = '50ms'`,
  ],
  countDeadlocks,
  together: [
    {
      name: 'by subscript',
      sizes: SIZES,
      force: bySubscriptIf(() => true),
      looks: { update: /update "counter" .*array_position/, delete: /delete from .*array_position/ },
    },
    {
      name: 'joined',
      sizes: SIZES,
      force: bySubscriptIf(() => false),
      looks: { update: /_l as materialized .*update "counter"/, delete: /_l as materialized .*delete from/ },
    },
    { name: 'either of them, at random', sizes: SIZES, force: bySubscriptIf(() => Math.random() < 0.5) },
  ],
  rowByRow: [
    { name: 'row by row', sizes: [1, 2, 5, 50], options: { batchSize: 1 } },
    { name: "by MikroORM's own statement", sizes: [1, 2, 5, 50], change: addByExpression },
  ],
  disordered(update, batch) {
    const { sql, ...more } = update.call(dialect, batch);
    return { sql: sql.replace(/ order by \S+ for /, ' order by random() for '), ...more };
  },
});
