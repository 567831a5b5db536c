/** Which rows a database takes along when others are deleted: foreign keys that say `on delete cascade`. */
import { type EntityMetadata, type EntityProperty, ReferenceKind } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { ofAllClasses } from '../mikro-orm/all-classes.ts';

/** The tables whose rows may go along, by the one that rows are deleted from. */
const takenFrom = ofAllClasses(() => new Map<EntityMetadata, ReadonlySet<EntityMetadata>>());

/** May deleting rows of one class delete rows of another (or of the same), directly or by way of further tables? */
export function cascades(driver: AbstractSqlDriver, from: EntityMetadata, to: EntityMetadata): boolean {
  const known = takenFrom(driver.getMetadata());
  let tables = known.get(from.root);
  if (!tables) {
    known.set(from.root, (tables = takenAlong(driver, from.root)));
  }
  return tables.has(to.root);
}

function takenAlong(driver: AbstractSqlDriver, from: EntityMetadata): Set<EntityMetadata> {
  const { defaultDeleteRule } = driver.config.get('schemaGenerator');
  const isCascading = ({ kind, owner, deleteRule }: EntityProperty) =>
    (kind === ReferenceKind.MANY_TO_ONE || (kind === ReferenceKind.ONE_TO_ONE && owner)) &&
    (deleteRule ?? defaultDeleteRule)?.toLowerCase() === 'cascade';
  const taken = new Set<EntityMetadata>();
  const takenBy = (target: EntityMetadata) => {
    for (const { root, relations } of driver.getMetadata()) {
      if (!taken.has(root) && relations.some((prop) => prop.targetMeta?.root === target && isCascading(prop))) {
        taken.add(root);
        takenBy(root);
      }
    }
  };
  takenBy(from);
  return taken;
}
