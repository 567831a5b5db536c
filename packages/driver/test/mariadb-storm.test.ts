import { IsolationLevel } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/sql';
import { describe, inject } from 'vitest';
import type { BatchUpdate, Column } from '../src/write/dialects/dialect.ts';
import { mysql as dialect } from '../src/write/dialects/mysql.ts';
import { mariaDb } from './drivers/mysql.ts';
import { storm } from './storm.ts';
import { addByExpression, stormOfForms } from './storm-of-forms.ts';

async function countDeadlocks(em: EntityManager): Promise<number> {
  const [row] = await em.getConnection().execute<{ Value: string }[]>("show global status like 'Innodb_deadlocks'");
  return Number(row!.Value);
}

/** The rows in another order. */
function shuffled(batch: BatchUpdate): BatchUpdate {
  const order = batch.version.values.map((_, row) => row).toSorted(() => Math.random() - 0.5);
  const column = ({ values, ...more }: Column) => ({ ...more, values: order.map((row) => values[row]) });
  return {
    ...batch,
    keys: batch.keys.map(column),
    version: column(batch.version),
    columns: batch.columns.map(column),
  };
}

describe.skipIf(!inject('mariaDbUrl'))('MariaDB', () => {
  storm(mariaDb, countDeadlocks);

  stormOfForms({
    driver: mariaDb,
    dialect,
    levels: [
      IsolationLevel.READ_COMMITTED,
      IsolationLevel.READ_UNCOMMITTED,
      IsolationLevel.REPEATABLE_READ,
      IsolationLevel.SERIALIZABLE,
    ],
    session: (level) => [`set session transaction isolation level ${level}`],
    countDeadlocks,
    together: [
      {
        name: 'together',
        sizes: [2, 5, 50, 600],
        looks: { update: /^update .* straight_join /, delete: /^delete from .* using .*select sum/ },
      },
    ],
    rowByRow: [
      { name: 'row by row', sizes: [1, 2, 5, 50], options: { batchSize: 1 } },
      { name: "by MikroORM's own statement", sizes: [1, 2, 5, 50], change: addByExpression },
    ],
    // the list comes first, so its order is that of the locks
    disordered(update, batch) {
      const { sql, params } = update.call(dialect, shuffled(batch));
      const swapped = sql.replace(
        /^update (.*?) straight_join (.*?) as _v set/,
        'update $2 as _v straight_join $1 set',
      );
      return { sql: swapped, params };
    },
  });
});
