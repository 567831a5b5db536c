/**
 * Who needs no BEGIN: a flush that is a single statement is a transaction by itself, where nothing is read beside it,
 * nothing can fail after it, and nobody watches.
 */
import {
  ChangeSetType,
  type EntityManager,
  type EntityMetadata,
  type EntityProperty,
  EventType,
  ReferenceKind,
  helper,
} from '@mikro-orm/core';
import type { AbstractSqlDriver } from '@mikro-orm/sql';
import { VersionField } from '@mikro-ool/core';
import { ownVersionOf } from '../discovery.ts';
import { isAbortable } from '../mikro-orm/driver.ts';
import { type AnyChangeSet, targetClasses } from '../mikro-orm/entity.ts';
import { dialectOf } from '../write/dialects/index.ts';
import { cascades } from '../write/cascades.ts';
import { areOneDelete, areOneUpdate } from '../write/one-statement.ts';

/** Classes of which a statement that was sent alone wrote nothing, and the same one in a transaction wrote all rows. */
export const neverAlone = new WeakSet<EntityMetadata>();

const TRANSACTION_EVENTS = Object.values(EventType).filter((event) => event.includes('Transaction'));
const EVENTS = {
  insert: [EventType.beforeCreate, EventType.afterCreate],
  update: [EventType.beforeUpdate, EventType.afterUpdate],
  delete: [EventType.beforeDelete, EventType.afterDelete],
};

/** How a flush is sent; one object for all of its parts. */
export interface Sending {
  /** Its one statement has no transaction around it. */
  alone: boolean;
}

/** The class whose rows are all that a flush writes, in one statement that needs no transaction; else `undefined`. */
export function loneClassOf(
  em: EntityManager,
  driver: AbstractSqlDriver,
  written: readonly AnyChangeSet[][],
  uncovered: ReadonlySet<object>,
): EntityMetadata | undefined {
  const [sets] = written;
  if (written.length !== 1 || !sets || !dialectOf(driver.getPlatform())) {
    return undefined;
  }
  const [{ meta, type, schema }] = sets as [AnyChangeSet];
  const operation = type === ChangeSetType.CREATE ? 'insert' : type.startsWith('update') ? 'update' : 'delete';
  const isAlone =
    meta.inheritanceType !== 'tpt' &&
    !neverAlone.has(meta) &&
    em.getTransactionSessionContext() === undefined &&
    !isAbortable(em) &&
    // rows whose version does not cover what changes have a statement of their own
    sets.every((set) => uncovered.has(set.entity) === uncovered.has(sets[0]!.entity)) &&
    sets.every((set) => set.schema === schema && ownVersionOf(set.meta)) &&
    CAN_BE_ONE[operation](driver, sets) &&
    !isWatched(em, sets, EVENTS[operation]);
  return isAlone ? meta : undefined;
}

function isWatched(em: EntityManager, sets: readonly AnyChangeSet[], watched: readonly EventType[]): boolean {
  const events = em.getEventManager();
  const metas = new Set(sets.map(({ meta }) => meta));
  return (
    [...metas].some((meta) => watched.some((event) => events.hasListeners(event, meta))) ||
    [...events.getSubscribers()].some((subscriber) => TRANSACTION_EVENTS.some((event) => event in subscriber))
  );
}

const CAN_BE_ONE = {
  update(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
    const { meta } = sets[0]!;
    // what the database computes is returned by the statement of a single row, and by nothing without RETURNING
    const isComputed = meta.root.props.some((prop) => prop.generated && !prop.primary);
    const isReturned = sets.length === 1 && driver.getPlatform().usesReturningStatement();
    return isReturned || (!isComputed && areOneUpdate(driver, sets));
  },

  delete(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
    const { meta } = sets[0]!;
    return (
      sets.length === 1 ||
      // the rows that its own cascade has taken along may not be counted
      (areOneDelete(driver, sets) && !cascades(driver, meta, meta))
    );
  },

  insert(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
    const { meta } = sets[0]!;
    const platform = driver.getPlatform();
    const { root } = meta;
    return (
      // what else is known of the row comes back with the statement, by no conversion that may fail
      platform.usesReturningStatement() &&
      dialectOf(platform)!.aloneWhen === undefined &&
      root.props.every((prop) => prop.customType instanceof VersionField || !prop.customType || !isFilled(prop)) &&
      // a row that refers to one of its own class may need an UPDATE behind the INSERT
      root.relations.every(
        (prop) =>
          prop.kind === ReferenceKind.MANY_TO_MANY || targetClasses(prop).every((target) => target.root !== root),
      ) &&
      (sets.length === 1 || canInsertTogether(driver, sets))
    );
  },
};

function isFilled({ autoincrement, defaultRaw, generated }: EntityProperty): boolean {
  return Boolean(autoincrement || defaultRaw || generated);
}

/** Rows that a trigger keeps back must not be mistaken for others, so their keys are known. */
function canInsertTogether(driver: AbstractSqlDriver, sets: readonly AnyChangeSet[]): boolean {
  const { config } = driver;
  return (
    sets.length <= config.get('batchSize') &&
    config.get('useBatchInserts', driver.getPlatform().usesBatchInserts()) &&
    sets.every(({ entity }) => helper(entity).hasPrimaryKey())
  );
}
