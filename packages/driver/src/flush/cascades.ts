/** Which rows a database takes along when others are deleted: foreign keys that say `on delete cascade`. */
import { type EntityMetadata, type EntityProperty, type MetadataStorage, ReferenceKind } from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';

/** The tables whose rows may go along, by the one that rows are deleted from. */
interface Taken {
  /** How many classes there were. */
  readonly classes: number;
  readonly byTable: Map<EntityMetadata, ReadonlySet<EntityMetadata>>;
}

const known = new WeakMap<MetadataStorage, Taken>();

/** May deleting rows of one class delete rows of another (or of the same), directly or by way of further tables? */
export function cascades(driver: AbstractSqlDriver, from: EntityMetadata, to: EntityMetadata): boolean {
  const metadata = driver.getMetadata();
  const classes = metadata.getAll().size;
  let taken = known.get(metadata);
  // `orm.discoverEntity()` adds classes
  if (taken?.classes !== classes) {
    known.set(metadata, (taken = { classes, byTable: new Map() }));
  }
  let tables = taken.byTable.get(from.root);
  if (!tables) {
    taken.byTable.set(from.root, (tables = takenAlong(driver, from.root)));
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
