/**
 * SQLite drops no column that a trigger names, and MikroORM's schema helper drops columns before triggers. Where there is a
 * guard, triggers that go are dropped first.
 */
import type { Platform } from '@mikro-orm/core';
import type { SchemaHelper } from '@mikro-orm/sql';

const hooked = new WeakSet<object>();

export function dropTriggersFirst(platform: Platform): void {
  const helper = platform.getSchemaHelper() as SchemaHelper;
  if (hooked.has(helper)) {
    return;
  }
  hooked.add(helper);
  const { alterTable } = helper;
  helper.alterTable = (diff, safe) => {
    if (safe) {
      return alterTable.call(helper, diff, safe);
    }
    const dropped = Object.values(diff.removedTriggers).map((trigger) => helper.dropTrigger(diff.toTable, trigger));
    return [...dropped, ...alterTable.call(helper, { ...diff, removedTriggers: {} }, safe)];
  };
}
