/**
 * Writers past the ORM: `new VersionField({ guard: true })`. A trigger bumps the version of a row that is updated
 * without doing so: where the version stays what it was, and a column that counts does not. What we write bumps by
 * itself, or changes nothing that counts, so it passes.
 *
 * It is among MikroORM's own triggers, so its schema generator, diff and migrations know it. Columns of other tables
 * (joined-table inheritance) are not its business, nor what the database computes.
 */
import {
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  type Platform,
  ReferenceKind,
} from '@mikro-orm/core';
import { type VersionField, maximumVersion } from '@mikro-ool/core';
import { dropTriggersFirst } from '../../mikro-orm/schema-helper.ts';
import { GUARD } from '../../write/dialects/dialect.ts';
import { dialectOf } from '../../write/dialects/index.ts';
import { sqlite } from '../../write/dialects/sqlite.ts';
import { FORMS } from './forms.ts';

/** What is wrong with a guard, if anything. */
export function flawOfGuard(
  { tableName, schema }: EntityMetadata,
  version: EntityProperty,
  platform: Platform,
): string | undefined {
  if (!(version.customType as VersionField).guard) {
    return undefined;
  }
  const dialect = dialectOf(platform);
  const form = dialect && FORMS.get(dialect);
  if (!form) {
    return 'has a guard, but we know no trigger for this database: PostgreSQL, MariaDB, MySQL and SQLite can have one. Remove "guard".';
  }
  const [name, bytes] = form.longest(tableName);
  if (Buffer.byteLength(name) > bytes) {
    return `has a guard that would be named "${name}", and this database knows ${bytes} bytes of a name. Give the table a shorter one, or remove "guard".`;
  }
  if (form.unreadable?.test(tableName)) {
    return `has a guard, but MikroORM does not find the triggers of a table "${tableName}" again. Name it by letters, digits and "_", or remove "guard".`;
  }
  if (form.namesSchema && schema === '*') {
    return 'has a guard, but its schema is known at run time only, and a trigger must say it here. Name the schema, or remove "guard".';
  }
  return undefined;
}

/**
 * Declares the guard of a version, on the class that makes its table.
 *
 * @param table the class that stands for the table
 */
export function declareGuard(
  table: EntityMetadata,
  version: EntityProperty,
  platform: Platform,
  storage: MetadataStorage,
): void {
  const { guard, exclude } = version.customType as VersionField;
  if (!guard) {
    return;
  }
  const quote = (name: string) => platform.quoteIdentifier(name);
  const counted = columnsOf(table, storage, [version.name, ...exclude]);
  // a class below may bring further columns when it is discovered
  table.triggers = table.triggers.filter(({ name }) => !name?.includes(GUARD));
  if (counted.size === 0) {
    return;
  }
  const dialect = dialectOf(platform)!;
  const trigger = FORMS.get(dialect)!.trigger({
    table: table.tableName,
    schema: table.schema === '*' ? undefined : table.schema,
    version: quote(version.fieldNames[0]!),
    maximum: maximumVersion(version),
    keys: table.getPrimaryProps().flatMap((prop) => prop.fieldNames.map(quote)),
    columns: [...counted].map(([name, type]) => ({ name: quote(name), type })),
    quote,
  });
  table.triggers.push({ ...trigger, events: ['update'], forEach: 'row' });
  table.hasTriggers = true;
  if (dialect === sqlite) {
    dropTriggersFirst(platform);
  }
}

/** The columns of a table that count, of whichever class, each with its type. */
function columnsOf(
  table: EntityMetadata,
  storage: MetadataStorage,
  without: readonly string[],
): ReadonlyMap<string, string> {
  const isJoined = table.inheritanceType === 'tpt';
  const classes = isJoined ? [table] : [...storage].filter((meta) => meta.root.class === table.root.class);
  const columns = classes.flatMap((meta) =>
    ((isJoined ? meta.ownProps! : meta.props) as EntityProperty[])
      .filter((prop) => !without.includes(outermost(meta, prop).name) && isWritten(meta, prop))
      .flatMap((prop) => prop.fieldNames.map((name, i) => [name, prop.columnTypes[i]!] as const)),
  );
  return new Map(columns);
}

/** Is it a column that somebody writes? */
function isWritten(meta: EntityMetadata, prop: EntityProperty): boolean {
  const { kind, object, owner, persist, generated, columnTypes } = prop;
  const around = outermost(meta, prop);
  return (
    persist !== false &&
    !generated &&
    columnTypes?.length > 0 &&
    // a JSON is one column, whatever is in it
    (around === prop || !around.object) &&
    (kind === ReferenceKind.EMBEDDED
      ? Boolean(object)
      : kind !== ReferenceKind.ONE_TO_MANY &&
        kind !== ReferenceKind.MANY_TO_MANY &&
        (kind !== ReferenceKind.ONE_TO_ONE || owner))
  );
}

/** The embeddable that a property is part of, or itself. */
function outermost(meta: EntityMetadata, prop: EntityProperty): EntityProperty {
  return prop.embedded ? outermost(meta, meta.properties[prop.embedded[0] as never]!) : prop;
}
