/** The trigger of a guard in each dialect: it compares what counts, and bumps where the version stays what it was. */
import { createHash } from 'node:crypto';
import type { EntityMetadata } from '@mikro-orm/core';
import { type Dialect, GUARD } from '../../write/dialects/dialect.ts';
import { mysql } from '../../write/dialects/mysql.ts';
import { postgresql } from '../../write/dialects/postgresql.ts';
import { sqlite } from '../../write/dialects/sqlite.ts';

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
export interface Form {
  /** What the trigger is named by, and how long it may be before the database cuts it off or refuses it. */
  longest(table: string): readonly [name: string, bytes: number];
  /** A name that MikroORM does not find again in the database. */
  readonly unreadable?: RegExp;
  /** A trigger must say its schema, so that one which is known at run time only cannot have any. */
  readonly namesSchema: boolean;
  trigger(guarded: Guarded): Omit<Trigger, 'events' | 'forEach'>;
}

/** Without one, a database has no guards. */
export const FORMS: ReadonlyMap<Dialect, Form> = new Map<Dialect, Form>([
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
