/** Bytes that a flush allocates per row, and those that stay: a process of its own, in which nothing is collected meanwhile. */
import { FIRST_THREE, NARROW, change } from './contender.ts';
import { mikroOrm } from './contenders/mikro-orm.ts';
import { createTables, pick } from './database.ts';

const ROWS = 1000;
const ROUNDS = 9;

const [lock] = process.argv.slice(2) as [Parameters<typeof mikroOrm>[0]];
const session = await mikroOrm(lock).open({ kind: 'sqlite' })!;
await createTables(session);
const allocated: number[] = [];
for (let round = 0; round < ROUNDS; round++) {
  const { rows, update } = await session.load(NARROW, pick(ROWS, round));
  change(rows, round * ROWS, FIRST_THREE);
  globalThis.gc!();
  const before = process.memoryUsage().heapUsed;
  await update();
  allocated.push(process.memoryUsage().heapUsed - before);
}
await session.close();
const median = allocated.toSorted((a, b) => a - b)[ROUNDS >> 1]!;
console.log(Math.round(median / ROWS));
