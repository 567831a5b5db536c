/**
 * What is locked, and what is wrong with it: looks at the metadata of an ORM and at its database, changes neither.
 *
 *   const { problems } = await describeLocks(orm);
 *   if (problems.length > 0) throw new Error(problems.join('\n'));
 */
import {
  Configuration,
  type Dictionary,
  type EntityMetadata,
  type EntityProperty,
  type MikroORM,
  Platform,
  Utils,
} from '@mikro-orm/core';
import { VersionField, isChecked, versionOf } from '@mikro-ool/core';
import { isTested, TESTED } from './mikro-orm/required.ts';
import { isComparable } from './write/batch.ts';
import { dialectOf } from './write/dialects/index.ts';

/** One class, and who checks its rows. */
export interface DescribedEntity {
  readonly entity: string;
  readonly table: string;
  /** `mikro-orm`: its own lock, which misses conflicts; `none`: the last one to write wins. */
  readonly lock: 'mikro-ool' | 'mikro-orm' | 'none';
  /** Name of the version property. */
  readonly version?: string;
  /** What the version of a new row is. */
  readonly startsAt?: number | 'random';
  /** How the rows of one flush are written. */
  readonly writes?: 'one statement' | 'row by row';
  /** Why row by row. */
  readonly because?: string;
}

/** What `describeLocks()` finds. */
export interface LockReport {
  /** The version of MikroORM. */
  readonly mikroOrm: string;
  /** The class of the driver. */
  readonly driver: string;
  readonly entities: readonly DescribedEntity[];
  /** What lets a conflict pass, or a flush fail; a sentence each. */
  readonly problems: readonly string[];
  /** What one may want to know. */
  readonly notes: readonly string[];
}

/**
 * Which entities are locked, how their rows are written, and what is wrong: entities that MikroORM's own lock is in charge
 * of, rows without a version, columns and tables that the database lacks, a driver that is not wrapped, two copies of a
 * package. It asks the database one question per class with a version.
 *
 * @param orm an initialised one
 * @returns the same as `npx mikro-ool doctor` prints
 * @throws what the driver throws when the database cannot be asked
 */
export async function describeLocks(orm: MikroORM): Promise<LockReport> {
  const all = [...orm.getMetadata().getAll().values()] as EntityMetadata[];
  const metas = all.filter(hasRows).toSorted((a, b) => a.className.localeCompare(b.className, 'en'));
  const entities = metas.map((meta) => describeEntity(orm, meta));
  const unlocked = entities.filter(({ lock }) => lock === 'none').map(({ entity }) => entity);
  return {
    mikroOrm: Utils.getORMVersion(),
    driver: orm.driver.constructor.name,
    entities,
    problems: [...problemsOfSetUp(orm, metas), ...leftOut(orm, entities), ...(await problemsOfRows(orm, metas))],
    notes: [
      ...(unlocked.length > 0
        ? [`Without a version, so that the last one to write wins: ${unlocked.join(', ')}.`]
        : []),
      ...(isTested() ? [] : [`These packages were tested with MikroORM ${TESTED.join(' to ')}.`]),
    ],
  };
}

function hasRows({ embeddable, virtual, pivotTable, abstract, inheritanceType, root }: EntityMetadata): boolean {
  return !embeddable && !virtual && !pivotTable && !(abstract && !(inheritanceType ?? root.inheritanceType));
}

function describeEntity(orm: MikroORM, meta: EntityMetadata): DescribedEntity {
  const table = meta.schema && meta.schema !== '*' ? `${meta.schema}.${meta.tableName}` : meta.tableName;
  const named = { entity: meta.className, table };
  const version = versionOf(meta);
  if (!version) {
    const own = Object.values<EntityProperty>(meta.properties).find((prop) => prop.version);
    return own ? { ...named, lock: 'mikro-orm', version: own.name } : { ...named, lock: 'none' };
  }
  const { start } = version.customType as VersionField;
  const because = whyRowByRow(orm, meta);
  return {
    ...named,
    lock: 'mikro-ool',
    version: version.name,
    startsAt: start ?? Number(version.default ?? version.defaultRaw),
    ...(because === undefined ? { writes: 'one statement' } : { writes: 'row by row', because }),
  };
}

function whyRowByRow({ config, driver }: MikroORM, meta: EntityMetadata): string | undefined {
  const platform = driver.getPlatform();
  if (!dialectOf(platform)) {
    return 'there is no batch statement for this database';
  }
  if (!config.get('useBatchUpdates', platform.usesBatchUpdates())) {
    return 'useBatchUpdates is off';
  }
  if (config.get('batchSize') === 1) {
    return 'batchSize is 1';
  }
  if (meta.getOwnConcurrencyCheckKeys().length > 0) {
    return 'it has concurrencyCheck columns, which MikroORM compares';
  }
  return isComparable(meta) ? undefined : 'its key is converted by SQL, or a native enum';
}

function problemsOfSetUp(orm: MikroORM, metas: readonly EntityMetadata[]): string[] {
  const problems: string[] = [];
  if (!isChecked(orm.driver.getPlatform())) {
    const name = orm.driver.constructor.name;
    problems.push(`The driver is not wrapped, so nothing of this is checked. Configure driver: versioned(${name}).`);
  }
  // MikroORM's command line makes the ORM with our copy; the driver is of the application's
  if (!(orm.config instanceof Configuration && orm.driver.getPlatform() instanceof Platform)) {
    problems.push('There are two copies of @mikro-orm/core: a ConcurrentUpdate may be no OptimisticLockError.');
  }
  const types = metas.flatMap((meta) => versionOf(meta)?.customType ?? []);
  // `instanceof` takes those of another copy, too
  if (!types.every((type) => Function.prototype[Symbol.hasInstance].call(VersionField, type))) {
    problems.push('There are two copies of @mikro-ool/core. They lock like one; install one copy, of one version.');
  }
  return problems;
}

/** Versions that are no integers; without the lock, all are MikroORM's. */
function leftOut({ driver }: MikroORM, entities: readonly DescribedEntity[]): string[] {
  const left = isChecked(driver.getPlatform()) ? entities.filter(({ lock }) => lock === 'mikro-orm') : [];
  return left.map(
    ({ entity, version }) =>
      `${entity}.${version} is no integer, so MikroORM's own lock is in charge, which misses conflicts. Declare an integer version.`,
  );
}

async function problemsOfRows(orm: MikroORM, metas: readonly EntityMetadata[]): Promise<string[]> {
  const problems: string[] = [];
  for (const meta of metas) {
    const version = versionOf(meta);
    // the tables of a class with the schema `*` are the application's to name
    if (version && meta.schema !== '*') {
      problems.push(...(await problemOfRows(orm, meta, version)));
    }
  }
  return problems;
}

async function problemOfRows(orm: MikroORM, meta: EntityMetadata, { name, fieldNames }: EntityProperty) {
  const column = `${meta.className}.${name}`;
  try {
    const where: Dictionary = { [name]: null };
    const count = await orm.em.fork().count(meta.class, where, { filters: false });
    return count === 0 ? [] : [`${column} is NULL in ${count} rows, which cannot be written. Set it to 1 there.`];
  } catch (error) {
    // by name: it may be of another copy of MikroORM
    switch ((error as Error).name) {
      case 'TableNotFoundException':
        return [`${meta.className} has no table ${meta.tableName} in the database. Migrate.`];
      case 'InvalidFieldNameException':
        return [`${column} has no column ${fieldNames[0]} in the database. Migrate.`];
      default:
        throw error;
    }
  }
}
