/**
 * Writers past the ORM: `new VersionField({ guard: true })`. A trigger bumps the version of a row that is updated
 * without doing so: where the version stays what it was, and a column that counts does not. What we write bumps by
 * itself, or changes nothing that counts, so it passes.
 *
 * It is among MikroORM's own triggers, so its schema generator, diff and migrations know it. Columns of other tables
 * (joined-table inheritance) are not its business, nor what the database computes.
 */
import { createHash } from 'node:crypto';
import {
  type EntityMetadata,
  type EntityProperty,
  type MetadataStorage,
  type Platform,
  ReferenceKind,
} from '@mikro-orm/core';
import { type VersionField, maximumVersion } from '@mikro-ool/core';
import { dropTriggersFirst } from '../mikro-orm/schema-helper.ts';
import { type Dialect, GUARD } from '../write/dialects/dialect.ts';
import { dialectOf } from '../write/dialects/index.ts';
import { mysql } from '../write/dialects/mysql.ts';
import { postgresql } from '../write/dialects/postgresql.ts';
import { sqlite } from '../write/dialects/sqlite.ts';

type Trigger = EntityMetadata['triggers'][number];

/** The table of a guard. */
interface Guarded {
  readonly table: string;
  readonly schema: string | undefined;
  /** Quoted, like the columns. */
  readonly version: string;
  readonly maximum: number;
  readonly keys: readonly string[];
  /** Those that count. */
  readonly columns: readonly { readonly name: string; readonly type: string }[];
  quote(name: string): string;
}

/** What is written in one dialect. */
interface Form {
  /** What the trigger is named by, and how long it may be before the database cuts it off or refuses it. */
  longest(table: string): readonly [name: string, bytes: number];
  /** A name that MikroORM does not find again in the database. */
  readonly unreadable?: RegExp;
  /** A trigger must say its schema, so that one which is known at run time only cannot have any. */
  readonly namesSchema: boolean;
  trigger(guarded: Guarded): Omit<Trigger, 'events' | 'forEach'>;
}

const FORMS = new Map<Dialect, Form>([
  [
    postgresql,
    {
      // MikroORM names the function by both
      longest: (table) => [`${table}_${GUARD}_fn`, 63],
      namesSchema: false,
      trigger({ version, columns }) {
        // records are compared by their bytes: values of any type can be, and no collation takes two texts for one
        const row = (of: string) => `row(${columns.map(({ name }) => `${of}.${name}`).join(', ')})::record`;
        return {
          name: GUARD,
          timing: 'before',
          body:
            `if new.${version} = old.${version} and ${row('old')} *<> ${row('new')} ` +
            `then new.${version} := old.${version} + 1; end if; return new`,
        };
      },
    },
  ],
  [
    mysql,
    {
      longest: (table) => [`${table}_${GUARD}`, 64],
      namesSchema: true,
      trigger({ table, schema, version, columns }) {
        // as bytes, or a collation would take two texts for one
        const value = (of: string, name: string, type: string) =>
          /char|text|enum|set/i.test(type) ? `cast(${of}.${name} as binary)` : `${of}.${name}`;
        const same = columns.map(({ name, type }) => `${value('old', name, type)} <=> ${value('new', name, type)}`);
        return {
          name: inSchema(schema, `${table}_${GUARD}`),
          timing: 'before',
          body:
            `if new.${version} = old.${version} and not (${same.join(' and ')}) ` +
            `then set new.${version} = old.${version} + 1; end if`,
        };
      },
    },
  ],
  [
    sqlite,
    {
      longest: (table) => [table, Infinity],
      unreadable: /\W|^begin$/i,
      namesSchema: true,
      // a row cannot be changed before it is written; RETURNING and the row count are those of the statement itself
      trigger({ table, schema, version, maximum, keys, columns, quote }) {
        const changed = columns.map(({ name }) => `old.${name} is not new.${name} collate binary`).join(' or ');
        const text =
          `after update on ${quote(table)} for each row when new.${version} = old.${version} and (${changed}) ` +
          `begin update ${quote(table)} set ${version} = ${sqlite.next!(version, maximum)} ` +
          `where ${keys.map((key) => `${key} = new.${key}`).join(' and ')}; end`;
        // MikroORM compares no more than the name of what is written out, so another guard has another one
        const digest = createHash('sha256').update(text).digest('hex').slice(0, 8);
        const name = inSchema(schema, `${table}_${GUARD}_${digest}`);
        return { name, timing: 'after', expression: `create trigger ${quote(name)} ${text}` };
      },
    },
  ],
]);

function inSchema(schema: string | undefined, name: string): string {
  return schema ? `${schema}.${name}` : name;
}

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
