/** A config that MikroORM's command line finds by itself in this directory, with what `DOCTOR` says. */
import { defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';

const id = p.integer().primary();
const version = p.type(VersionField);
const Article = defineEntity({ name: 'Article', properties: { id, version } });
const Dated = defineEntity({ name: 'Dated', properties: { id, changed: p.datetime().version() } });
const Keyed = defineEntity({ name: 'Keyed', properties: { id, owner: p.string().concurrencyCheck(), version } });
const Tag = defineEntity({ name: 'Tag', properties: { id } });

const { fault, ...database } = JSON.parse(process.env.DOCTOR);
const Driver = database.clientUrl ? PostgreSqlDriver : SqliteDriver;

export default {
  ...database,
  driver: fault === 'not wrapped' ? Driver : versioned(Driver),
  entities: [Article, Keyed, Tag, ...(fault === 'a date' ? [Dated] : [])],
};
