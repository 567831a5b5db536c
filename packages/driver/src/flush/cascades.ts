/** Which rows a database takes along when others are deleted: foreign keys that say `on delete cascade`. */
import { type EntityMetadata, type EntityProperty, ReferenceKind } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';

/** May deleting rows of one class delete rows of another (or of the same), directly or by way of further tables? */
export function cascades(driver: AbstractSqlDriver, from: EntityMetadata, to: EntityMetadata): boolean {
  const { defaultDeleteRule } = driver.config.get('schemaGenerator');
  const isCascading = ({ kind, owner, deleteRule }: EntityProperty) =>
    (kind === ReferenceKind.MANY_TO_ONE || (kind === ReferenceKind.ONE_TO_ONE && owner)) &&
    (deleteRule ?? defaultDeleteRule)?.toLowerCase() === 'cascade';
  const reached = new Set([from.root]);
  // what is added meanwhile is visited too
  for (const target of reached) {
    for (const meta of driver.getMetadata()) {
      if (meta.relations.some((prop) => prop.targetMeta?.root === target && isCascading(prop))) {
        if (meta.root === to.root) {
          return true;
        }
        reached.add(meta.root);
      }
    }
  }
  return false;
}
