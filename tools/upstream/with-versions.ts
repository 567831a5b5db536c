/**
 * Gives every entity without a version one that its tests do not see, so that the lock is in play in all of them: an
 * integer that is not serialised, and an accessor on the prototype, so that an entity still equals what it equalled.
 */
import {
  BaseEntity,
  type Configuration,
  type EntityMetadata,
  EntitySchema,
  MetadataStorage,
  type Transaction,
} from '@mikro-orm/core';
import type { AbstractSqlConnection } from '@mikro-orm/sql';
import type { DriverClass } from '@mikro-ool/driver';

const NAME = 'hiddenVersion';
const COLUMN = 'hidden_version';

export function withVersions(Base: DriverClass): DriverClass {
  class Driver extends Base {
    constructor(config: Configuration) {
      super(config);
      const metas = new Map<unknown, EntityMetadata>();
      // the configuration is the ORM's private copy
      const discovery = config.get('discovery');
      const { onMetadata } = discovery;
      discovery.onMetadata = (meta, platform) => {
        const done = onMetadata?.(meta, platform);
        addVersion(meta, metas);
        return done;
      };
      this.#completeTables();
    }

    override createEntityManager(useContext?: boolean) {
      // afterwards, and in the same turn, MikroORM puts accessors of its own on the prototypes
      queueMicrotask(() => [...this.getMetadata()].filter(hasHidden).forEach((meta) => hide(meta.prototype)));
      return super.createEntityManager(useContext);
    }

    /** Some tests make their tables by SQL of their own, which knows nothing of the column. */
    #completeTables(): void {
      const { connection } = this as unknown as { connection: AbstractSqlConnection };
      const { execute, executeDump } = connection;
      const complete = async (sql: unknown, ctx?: Transaction) => {
        if (typeof sql !== 'string' || !/create table/i.test(sql) || sql.includes(COLUMN)) {
          return;
        }
        for (const meta of this.getMetadata()) {
          const name = new RegExp(
            `create table (if not exists )?([\\w"\`]+\\.)?["\`]?${meta.tableName}["\`]?\\s*\\(`,
            'i',
          );
          if (hasHidden(meta) && name.test(sql)) {
            const table = this.getPlatform().quoteIdentifier(meta.tableName);
            await execute.call(connection, `alter table ${table} add ${COLUMN} int not null default 1`, [], 'run', ctx);
          }
        }
      };
      connection.execute = (async (sql: string, params: never, method: never, ctx?: Transaction, ...rest: never[]) => {
        const result = await execute.call(connection, sql, params, method, ctx, ...rest);
        await complete(sql, ctx);
        return result;
      }) as typeof execute;
      connection.executeDump = async (dump) => {
        await executeDump.call(connection, dump);
        await complete(dump);
      };
    }
  }
  Object.defineProperty(Driver, 'name', { value: Base.name });
  return Driver;
}

/** The uppermost class of a hierarchy gets it, and the others inherit it; none, where one of them has a version. */
function addVersion(meta: EntityMetadata, metas: Map<unknown, EntityMetadata>): void {
  const isTable =
    meta.class !== (BaseEntity as unknown) && !meta.embeddable && !meta.virtual && !meta.expression && !meta.view;
  const hasOwn = Object.values(meta.properties).some((prop) => prop.version && prop.name !== NAME);
  const above = classesAbove(meta);
  const root = above.at(-1) ?? meta.class;
  if (hasOwn || !isTable) {
    const rootMeta = metas.get(root);
    rootMeta?.removeProperty(NAME, false);
    metas.set(root, rootMeta ?? meta);
  }
  if (!metas.has(root) && root === meta.class) {
    metas.set(root, meta);
    meta.properties[NAME as never] = { ...VERSION } as never;
  }
}

const VERSION = {
  name: NAME,
  fieldNames: [COLUMN],
  kind: 'scalar',
  type: 'integer',
  runtimeType: 'number',
  version: true,
  hidden: true,
};

function hasHidden(meta: EntityMetadata): boolean {
  return NAME in meta.properties;
}

function hide(prototype: object): void {
  const values = new WeakMap<object, unknown>();
  Object.defineProperty(prototype, NAME, {
    configurable: true,
    get(this: object) {
      return values.get(this);
    },
    set(this: object, value: unknown) {
      values.set(this, value);
    },
  });
}

/** The classes above, nearest first, but for those that MikroORM itself has or makes. */
function classesAbove(meta: EntityMetadata): unknown[] {
  const { extends: parent } = meta;
  const first = EntitySchema.is(parent) ? parent.init().meta.class : (parent ?? Object.getPrototypeOf(meta.class));
  const classes: { name: string }[] = [];
  for (let one = first; one?.name && one !== BaseEntity; one = Object.getPrototypeOf(one)) {
    const isOfSchema =
      one.name === (classes.at(-1) ?? meta.class).name && !Object.hasOwn(one, MetadataStorage.META_SYMBOL);
    if (isOfSchema) {
      break;
    }
    classes.push(one);
  }
  return classes;
}
