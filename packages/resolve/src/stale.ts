/** Which of the rows that a flush would write are stale: one SELECT of their versions per class, schema and batch. */
import {
  type ChangeSet,
  type Dictionary,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  FlushMode,
  Utils,
  helper,
} from '@mikro-orm/core';
import { type Conflict, type VersionField, isTouched, versionOf } from '@mikro-ool/core';
import { metaOf } from './managed.ts';

type Row = ChangeSet<object>;

/**
 * Reads the versions: not on a replica, not in a cache, not hidden by a filter. A row that is not found is for the flush, and
 * so is one that has another key, or no version that can be compared.
 *
 * @param sets the changes that a flush is about to write
 * @returns the rows with another version
 */
export async function findStale(em: EntityManager, sets: readonly Row[]): Promise<Conflict[]> {
  const stale: Conflict[] = [];
  const compared = sets.filter((set) => isCompared(em, set));
  const groups = Map.groupBy(compared, ({ entity }) => {
    return JSON.stringify([ownerOf(em, metaOf(em, entity)).uniqueName, schemaOf(em, entity)]);
  });
  const size = em.config.get('batchSize');
  for (const rows of groups.values()) {
    for (let i = 0; i < rows.length; i += size) {
      stale.push(...(await findStaleOf(em, rows.slice(i, i + size))));
    }
  }
  return stale;
}

/** With inheritance, the uppermost class that has the version: a child class may have it alone. */
function ownerOf(em: EntityManager, meta: EntityMetadata): EntityMetadata {
  const parent = meta.extends && (em.getMetadata().find(meta.extends as never) as EntityMetadata | undefined);
  const isOfItsTables = parent && parent.root === meta.root && versionOf(parent);
  return isOfItsTables ? ownerOf(em, parent) : meta;
}

function schemaOf(em: EntityManager, entity: object): string | undefined {
  return helper(entity).__schema ?? em.schema;
}

function isCompared(em: EntityManager, set: Row): boolean {
  const meta = metaOf(em, set.entity);
  const names = changedBy(set);
  const { name, customType } = versionOf(meta)!;
  const { exclude = [] } = customType as VersionField;
  const isExcluded = (prop: EntityProperty | undefined): boolean =>
    prop !== undefined &&
    (exclude.includes(prop.name) || isExcluded(prop.embedded && meta.properties[prop.embedded[0] as never]));
  return (
    Number.isSafeInteger((set.entity as Dictionary)[name]) &&
    !names.some((one) => meta.primaryKeys.includes(one as never)) &&
    // what the version does not cover is not checked
    !names.every((one) => isExcluded(meta.properties[one as never]))
  );
}

/** Joined-table inheritance has a change set per table. */
function changedBy({ payload, tptChangeSets = [] }: Row): string[] {
  return [payload, ...tptChangeSets.map((set) => set.payload)].flatMap((one) => Object.keys(one));
}

/** Of one class and schema. */
async function findStaleOf(em: EntityManager, rows: readonly Row[]): Promise<Conflict[]> {
  const [{ entity: first }] = rows as [Row];
  const meta = ownerOf(em, metaOf(em, first));
  const version = versionOf(meta)!.name;
  const keys = rows.map(({ entity }) => helper(entity).getPrimaryKeys()!);
  const where = {
    [Utils.getPrimaryKeyHash(meta.primaryKeys)]: { $in: keys.map((key) => (key.length > 1 ? key : key[0])) },
  };
  const current = { filters: false, connectionType: 'write', cache: false, flushMode: FlushMode.COMMIT } as const;
  const options = { ...current, schema: schemaOf(em, first), fields: [...meta.primaryKeys, version] } as never;
  const found = (await em.fork().find(meta.class, where as never, options)) as Dictionary[];
  const keyOf = (entity: object) => String(helper(entity).getSerializedPrimaryKey());
  const actual = new Map(found.map((row) => [keyOf(row), row[version] as number]));
  return rows.flatMap((set): Conflict[] => {
    const { entity } = set;
    const expected = (entity as Dictionary)[version] as number;
    const now = actual.get(keyOf(entity));
    return now === undefined || now === expected ? [] : [conflictOf(metaOf(em, entity), set, expected, now)];
  });
}

function conflictOf(meta: EntityMetadata, set: Row, expected: number, actual: number): Conflict {
  const { entity } = set;
  const version = versionOf(meta)!.name;
  const isClaim = changedBy(set).every((name) => name === version || meta.properties[name as never]?.['onUpdate']);
  const keys = meta.getPrimaryProps().map(({ name }) => {
    const value: unknown = (entity as Dictionary)[name];
    return [name, Utils.isEntity<object>(value, true) ? helper(value).getPrimaryKey() : value] as const;
  });
  return {
    entity,
    entityName: meta.className,
    primaryKey: keys.length === 1 ? keys[0]![1] : Object.fromEntries(keys),
    operation: isClaim && !isTouched(set.originalEntity, version) ? 'check' : 'update',
    expected,
    actual,
  };
}
