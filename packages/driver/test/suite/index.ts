/** Everything that must hold on every database. */
import { describe } from 'vitest';
import type { TestDriver } from '../harness.ts';
import { updates } from './update.ts';

export function suite(driver: TestDriver): void {
  describe(driver.name, () => {
    updates(driver);
  });
}
