/** What workers do to rows whose version covers more than their columns, or is verified, or guarded. */
import { type EntityManager, type InferEntity, LoadStrategy } from '@mikro-orm/core';
import type { SqlEntityManager } from '@mikro-orm/sql';
import { verify } from '@mikro-ool/core';
import type { Attempt, Known } from './attempt.ts';
import { Doctor, Line, Sale, Stock } from './model.ts';
import type { Chance } from './random.ts';
import { LINES, idsOf, pairs } from './rows.ts';

/** A row that the next flush writes, and what it leaves behind. */
interface Changed {
  readonly row: { readonly id: number; readonly version: number };
  readonly balance: number;
}

/**
 * Loads rows and changes them, for a flush to come.
 *
 * @param verifies whether it has to verify what it rests on
 */
export type Change = (
  em: EntityManager,
  attempt: Attempt,
  chance: Chance,
  verifies: boolean,
) => Promise<readonly Changed[]>;

function known({ id, version }: Changed['row'], balance: number): Known {
  return { id, incarnation: 1, version, balance };
}

/** Fills one or two sales up to the limit, takes lines out of full ones, or moves one from sale to sale. */
export const changeLines: Change = async (em, attempt, chance) => {
  const ids = chance.shuffle(idsOf('sale')).slice(0, chance.between(1, 2));
  // in one statement, so that the lines are those of the version
  const options = { populate: ['lines'] as const, strategy: LoadStrategy.JOINED };
  const sales = chance.shuffle(await em.find(Sale, { id: { $in: ids } }, options));
  attempt.saw(sales.map((sale) => known(sale, sale.lines.length)));
  const [from, to] = sales;
  const moved = chance.percent(25) ? from?.lines.getItems()[0] : undefined;
  if (moved && to && to.lines.length < LINES) {
    const changed = [
      { row: from!, balance: from!.lines.length - 1 },
      { row: to, balance: to.lines.length + 1 },
    ];
    moved.sale = to;
    return changed;
  }
  return sales.map((sale) => {
    const lines = sale.lines.getItems();
    const isFull = lines.length >= LINES;
    const count = chance.between(1, isFull ? 2 : Math.min(2, LINES - lines.length));
    for (let i = 0; i < count; i++) {
      if (isFull) {
        em.remove(lines[i]!);
      } else {
        em.create(Line, { sale });
      }
    }
    return { row: sale, balance: isFull ? lines.length - count : lines.length + count };
  });
};

/** Goes off call where the other one of the pair is on; else whoever is off comes back. */
export const goOffCall: Change = async (em, attempt, chance, verifies) => {
  const doctors = await em.find(Doctor, { id: { $in: [...chance.pick(pairs())] } });
  attempt.saw(doctors.map((doctor) => known(doctor, doctor.onCall)));
  const off = doctors.filter((doctor) => doctor.onCall === 0);
  if (off.length > 0) {
    off.forEach((doctor) => (doctor.onCall = 1));
    return off.map((row) => ({ row, balance: 1 }));
  }
  const [mine, other] = chance.shuffle(doctors) as [(typeof doctors)[0], (typeof doctors)[0]];
  attempt.restsOn([known(other, 1)]);
  if (verifies) {
    verify(other);
  }
  mine.onCall = 0;
  return [{ row: mine, balance: 0 }];
};

/** What each of a few rows gets from the one before. */
function amounts(ids: readonly number[], chance: Chance): Map<number, number> {
  const gains = new Map(ids.map((id) => [id, 0]));
  for (let i = 1; i < ids.length; i++) {
    const amount = chance.between(1, 50);
    gains.set(ids[i - 1]!, gains.get(ids[i - 1]!)! - amount);
    gains.set(ids[i]!, amount);
  }
  return gains;
}

function someStock(chance: Chance): number[] {
  return chance.shuffle(idsOf('stock')).slice(0, chance.between(2, 4));
}

/** Moves stock as the ORM does: by the quantities that it has read. */
export const moveStock: Change = async (em, attempt, chance) => {
  const ids = someStock(chance);
  const stock = await em.find(Stock, { id: { $in: ids } });
  attempt.saw(stock.map((row) => known(row, row.quantity)));
  const gains = amounts(ids, chance);
  const before = new Map(stock.map((row) => [row, row.quantity]));
  stock.forEach((row) => (row.quantity += gains.get(row.id)!));
  const changed = stock.filter((row) => row.quantity !== before.get(row));
  return changed.map((row) => ({ row, balance: row.quantity }));
};

type StockRow = Pick<InferEntity<typeof Stock>, 'id' | 'version' | 'quantity'>;

/** Moves stock in SQL that knows of no version; it is looked at under the lock, so that the checker knows what to expect. */
export async function moveStockRaw(em: EntityManager, attempt: Attempt, chance: Chance): Promise<void> {
  const connection = (em as SqlEntityManager).getConnection();
  const transaction = em.getTransactionContext();
  const gains = new Map([...amounts(someStock(chance), chance)].filter(([, gain]) => gain !== 0));
  const where = `where id in (${[...gains.keys()].join(', ')})`;
  const select = `select id, version, quantity from stock ${where} order by id for update`;
  const rows = await connection.execute<StockRow[]>(select, [], 'all', transaction);
  attempt.saw(rows.map((row) => known(row, row.quantity)));
  for (const { id, version, quantity } of rows) {
    attempt.wrote('raw', { id, incarnation: 1, balance: quantity + gains.get(id)! }, version + 1);
  }
  const cases = [...gains].map(([id, gain]) => `when ${id} then ${gain}`).join(' ');
  attempt.intend();
  const update = `update stock set quantity = quantity + case id ${cases} end, raw_by = '${attempt.id}' ${where}`;
  await connection.execute(update, [], 'run', transaction);
}
