/** Everything that must hold on every database. */
import { describe } from 'vitest';
import type { TestDriver } from '../harness.ts';
import { adoption } from './adoption.ts';
import { claims } from './claim.ts';
import { deletes } from './delete.ts';
import { discovery } from './discovery.ts';
import { inheritance } from './inheritance.ts';
import { inserts } from './insert.ts';
import { keys } from './keys.ts';
import { loading } from './loading.ts';
import { oneBump } from './one-bump.ts';
import { races } from './race.ts';
import { readings } from './reading.ts';
import { rollbacks } from './rollback.ts';
import { removals } from './removal.ts';
import { schemas } from './schemas.ts';
import { shapesOfAll } from './shapes.ts';
import { setBased } from './set-based.ts';
import { surroundings } from './surroundings.ts';
import { statements } from './statements.ts';
import { telemetry } from './telemetry.ts';
import { transactions } from './transaction.ts';
import { undo } from './undo.ts';
import { updates } from './update.ts';
import { upserts } from './upserts.ts';
import { values } from './values.ts';

export function suite(driver: TestDriver): void {
  describe(driver.name, () => {
    discovery(driver);
    adoption(driver);
    inserts(driver);
    updates(driver);
    oneBump(driver);
    deletes(driver);
    removals(driver);
    claims(driver);
    keys(driver);
    inheritance(driver);
    values(driver);
    shapesOfAll(driver);
    schemas(driver);
    loading(driver);
    readings(driver);
    setBased(driver);
    upserts(driver);
    surroundings(driver);
    transactions(driver);
    statements(driver);
    telemetry(driver);
    undo(driver);
    rollbacks(driver);
    races(driver);
  });
}
