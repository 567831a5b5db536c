/**
 * What happens to the metadata when MikroORM is done with it: an integer `version: true` becomes a `VersionField`, versions
 * get their default, and unusable declarations are refused. What makes the column is settled by then, so the schema stays
 * what it is. `meta.versionProperty` is set, so that MikroORM's own `version + 1`, `em.lock()` and `em.clone()` know the
 * property; `prop.version` is off, or MikroORM's persister would check, reload and return it by itself.
 */
import {
  type Configuration,
  type EntityMetadata,
  type EntityProperty,
  MetadataError,
  type MetadataStorage,
  type Platform,
} from '@mikro-orm/core';
import { VersionField, initialVersion, isOfType, versionOf } from '@mikro-ool/core';
import { flawOfAggregate, settleAggregates } from './covers/aggregate/ways.ts';
import { flawOfExclude } from './covers/exclude.ts';
import { declareGuard, flawOfGuard } from './covers/guard/guard.ts';
import { childrenOf } from './mikro-orm/entity.ts';
import { hookLaterDiscovery, isCompiledWithout } from './mikro-orm/metadata-storage.ts';

/** The version property of a class whose own table has the column: with joined-table inheritance only one of them. */
export function ownVersionOf(meta: EntityMetadata): EntityProperty | undefined {
  return meta.ownsVersionProperty() ? versionOf(meta) : undefined;
}

/** Does a trigger bump what we write without a bump? */
export function isGuarded(meta: EntityMetadata): boolean {
  return (versionOf(meta)?.customType as Partial<VersionField> | undefined)?.guard === true;
}

/** The class that stands for the table with the version column, which with joined-table inheritance may be a parent's. */
export function versionTable(meta: EntityMetadata): EntityMetadata {
  let owner = meta;
  while (owner.tptParent && !owner.ownsVersionProperty()) {
    owner = owner.tptParent;
  }
  return owner.inheritanceType === 'tpt' ? owner : owner.root;
}

/** The classes that stand for the tables of a row, its own first: with joined-table inheritance those above, too. */
export function tableClasses(meta: EntityMetadata): EntityMetadata[] {
  if (meta.inheritanceType !== 'tpt') {
    return [meta.root];
  }
  return [meta, ...(meta.tptParent ? tableClasses(meta.tptParent) : [])];
}

/**
 * Classes with a version that extend this one, which has none: what was loaded as this may be one of theirs.
 * The uppermost ones, because a query of a class finds the classes below, too.
 */
export function versionedBelow(meta: EntityMetadata, metadata: MetadataStorage): EntityMetadata[] {
  if (!meta.root.inheritanceType || versionOf(meta)) {
    return [];
  }
  return childrenOf(meta, metadata).flatMap((child) => (versionOf(child) ? [child] : versionedBelow(child, metadata)));
}

/** Makes versions ours also where entities are discovered without an ORM, by `mikro-orm compile` for one. */
export function hookDiscovery(config: Configuration): void {
  // the configuration is the ORM's private copy
  const discovery = config.get('discovery');
  const { afterDiscovered, onMetadata } = discovery;
  const declared = new Map<string, VersionField>();
  discovery.onMetadata = (meta, platform) => {
    shareAlike(meta, declared);
    return onMetadata?.(meta, platform);
  };
  discovery.afterDiscovered = (storage, platform) => {
    [...storage].forEach((meta) => adoptVersion(meta, platform, storage));
    return afterDiscovered?.(storage, platform);
  };
}

/**
 * Makes the versions of all discovered classes ours: whatever the user's own hooks did, which `new MikroORM()` does not
 * wait for, and also those of classes that `orm.discoverEntity()` adds later.
 */
export function adoptVersions(storage: MetadataStorage, config: Configuration): void {
  const adopt = (metas: Iterable<EntityMetadata>) => {
    const left: string[] = [];
    for (const meta of metas) {
      const foreign = adoptVersion(meta, config.getPlatform(), storage);
      const version = versionOf(meta);
      if (foreign) {
        left.push(`${meta.className}.${foreign.name}`);
      } else if (version && isCompiledWithout(version, meta, storage, config)) {
        refuse(meta, version, 'is missing in the compiled functions. Run `npx mikro-orm compile` again.');
      }
    }
    if (left.length > 0) {
      config
        .getLogger()
        .warn(
          'discovery',
          `versioned() locks by integers, so MikroORM's own lock stays in charge of ${left.join(', ')}. It misses ` +
            `conflicts; Date versions on SQLite miss all within a second. Declare an integer version instead.`,
          { enabled: true },
        );
    }
    settleAggregates(storage);
    [...storage].filter(versionOf).forEach((meta) => completeReferences(meta, storage));
  };
  adopt(storage);
  hookLaterDiscovery(storage, (meta) => adopt([meta]));
}

/**
 * ES decorators give every class of a hierarchy a copy of an inherited `new VersionField({ … })`, and with single-table
 * inheritance MikroORM takes a property of two types for two columns. So those that say the same are one.
 */
function shareAlike(meta: EntityMetadata, declared: Map<string, VersionField>): void {
  for (const prop of Object.values<EntityProperty>(meta.properties)) {
    const type: unknown = prop.type;
    if (type instanceof VersionField && type.constructor === VersionField) {
      const { start, aggregate, exclude, guard } = type;
      const options = JSON.stringify([start, aggregate, exclude, guard]);
      prop.type = (declared.get(options) ?? type) as never;
      declared.set(options, prop.type as never);
    }
  }
}

/**
 * When a row is removed, MikroORM takes its entity out of all that refers to it, or the next flush would insert it again. It
 * misses what refers to a class above.
 */
function completeReferences(meta: EntityMetadata, storage: MetadataStorage): EntityMetadata['referencingProperties'] {
  const { referencingProperties: own, root } = meta;
  const above = meta.extends && (storage.find(meta.extends as never) as EntityMetadata | undefined);
  const inherited = above && above.root === root ? completeReferences(above, storage) : [];
  own.push(...inherited.filter((one) => !own.some(({ prop }) => prop === one.prop)));
  return own;
}

/** Returns a version that stays MikroORM's. */
function adoptVersion(meta: EntityMetadata, platform: Platform, storage: MetadataStorage): EntityProperty | undefined {
  const versions = Object.values<EntityProperty>(meta.properties).filter(
    (prop) => prop.version || prop.customType instanceof VersionField,
  );
  const [version] = versions;
  if (!version || (versions.length === 1 && !isInteger(version, platform))) {
    return version;
  }
  if (version.default == null) {
    version.defaultRaw ??= '1';
  }
  // with single-table inheritance the root has the columns of its child classes too, but its own rows have no version
  const inherited = versions.length === 1 && version.inherited;
  const suspect = versions.find((prop) => prop.embedded) ?? version;
  const flaw = inherited
    ? undefined
    : (flawOf(meta, suspect, versions, storage) ?? flawOfOptions(meta, version, platform, storage));
  if (flaw) {
    refuse(meta, suspect, flaw);
  }
  if (version.version) {
    version.version = false;
    version.customType = Object.assign(new VersionField(), { platform, meta, prop: version });
    version.type = version.customType.name;
  }
  meta.versionProperty = inherited ? (undefined as never) : (version.name as never);
  if (!inherited && ownVersionOf(meta) && !(meta.abstract && !meta.root.inheritanceType)) {
    // of a class that is discovered later, the root may be an older copy
    declareGuard(storage.find(versionTable(meta).class) ?? meta, version, platform, storage);
  }
  meta.sync(); // now the version is among the properties that are compared
  return undefined;
}

/** Dates and a user's own type of version are none; a bigint that is not read as a number neither. */
function isInteger({ customType, runtimeType, columnTypes }: EntityProperty, platform: Platform): boolean {
  return (
    customType instanceof VersionField ||
    (runtimeType === 'number' &&
      (!customType || isOfType(customType, 'bigint')) &&
      platform.isNumericColumn(platform.getMappedType(columnTypes[0]!)))
  );
}

function refuse(meta: EntityMetadata, prop: EntityProperty, sentence: string): never {
  throw new MetadataError(`${meta.className}.${prop.name} ${sentence}`);
}

/** What is wrong with the version of a class, if anything. */
function flawOf(
  meta: EntityMetadata,
  prop: EntityProperty,
  versions: EntityProperty[],
  storage: MetadataStorage,
): string | undefined {
  if (meta.embeddable || prop.embedded) {
    return 'is a version inside an embeddable, but a version belongs to a row. Move it to the entity itself.';
  }
  if (versions.length > 1) {
    const names = versions.map(({ name }) => name).join(' and ');
    return `is not the only version: there are ${names}. A row has one version, so keep one of them.`;
  }
  if (prop.nullable && !isRepeatedElsewhere(meta, prop, storage)) {
    return 'is a nullable version, but a row without a version cannot be checked. Remove "nullable", and set NULLs in existing rows to 1.';
  }
  if (prop.primary || prop.persist === false || prop.formula || prop.generated) {
    return 'is a version, so it must be an ordinary column: no key, not generated, not a formula, persisted.';
  }
  if (prop.default != null && (prop.customType as VersionField | undefined)?.start === 'random') {
    return `is a version that starts at random, so its default ${String(prop.default)} would never be used. Remove one of the two.`;
  }
  if (!Number.isInteger(initialVersion(prop))) {
    return `is a version with the default ${String(prop.default ?? prop.defaultRaw)}, but versions start at an integer. Leave the default out to start at 1.`;
  }
  return undefined;
}

/** What is wrong with what a version is told to cover. */
function flawOfOptions(
  meta: EntityMetadata,
  version: EntityProperty,
  platform: Platform,
  storage: MetadataStorage,
): string | undefined {
  return version.customType instanceof VersionField
    ? (flawOfExclude(meta, version, storage) ??
        flawOfAggregate(meta, version, storage) ??
        flawOfGuard(meta, version, platform))
    : undefined;
}

/**
 * With single-table inheritance MikroORM makes the root's column nullable when a class below repeats the property, and the
 * classes that do not repeat it have the root's: nobody has declared those nullable.
 */
function isRepeatedElsewhere(meta: EntityMetadata, prop: EntityProperty, storage: MetadataStorage): boolean {
  const isOfRoot = meta.root === meta || prop.inherited === false;
  const others = [...storage].filter((other) => other !== meta && other.root === meta.root);
  return (
    isOfRoot &&
    others.some((other) => {
      const repeated = (other.properties as Record<string, EntityProperty>)[prop.name];
      return repeated !== undefined && !repeated.nullable;
    })
  );
}
