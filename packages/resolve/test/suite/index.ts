/** Everything that must hold on every database. */
import { describe } from 'vitest';
import type { TestDriver } from '../../../driver/test/harness.ts';
import { merges } from './merge.ts';
import { flushesEach } from './each.ts';
import { mergesOnConflict } from './merge-on-conflict.ts';
import { mergesInMemory } from './merge-memory.ts';
import { flushesEachShape } from './each-shapes.ts';
import { oddities } from './oddities.ts';
import { mergesParts } from './parts-merge.ts';
import { parts } from './parts.ts';
import { rebases } from './rebase.ts';
import { retries } from './retry.ts';

export function suite(driver: TestDriver): void {
  describe(driver.name, () => {
    retries(driver);
    rebases(driver);
    parts(driver);
    mergesParts(driver);
    oddities(driver);
    merges(driver);
    mergesOnConflict(driver);
    mergesInMemory(driver);
    flushesEach(driver);
    flushesEachShape(driver);
  });
}
