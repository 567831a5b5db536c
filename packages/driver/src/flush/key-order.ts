/** Rows are written in one order by everybody, so that flushes wait for each other instead of deadlocking. */
import type { AnyChangeSet } from '../mikro-orm/entity.ts';
import { keyOf } from '../write/batch.ts';

/** Sorts change sets by primary key. */
export function inKeyOrder(sets: AnyChangeSet[]): AnyChangeSet[] {
  const keyed = sets.map((changeSet) => ({ changeSet, key: keyOf(changeSet) }));
  const isSorted = keyed.every(({ key }, i) => i === 0 || compareKeys(keyed[i - 1]!.key, key) <= 0);
  return isSorted ? sets : keyed.toSorted((a, b) => compareKeys(a.key, b.key)).map(({ changeSet }) => changeSet);
}

function compareKeys(a: unknown, b: unknown): number {
  if (!Array.isArray(a) || !Array.isArray(b)) {
    return compare(a, b);
  }
  for (let i = 0; i < a.length; i++) {
    const order = compareKeys(a[i], b[i]);
    if (order !== 0) {
      return order;
    }
  }
  return 0;
}

const INTEGER = /^-?\d+$/;

function compare(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') {
    return a - b;
  }
  const texts = [String(a), String(b)] as const;
  // MikroORM hands bigint keys around as strings
  const [left, right] = texts.every((text) => INTEGER.test(text)) ? texts.map(BigInt) : texts;
  return left! < right! ? -1 : left! > right! ? 1 : 0;
}
