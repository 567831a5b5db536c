/**
 * What happens to the metadata when MikroORM discovers the entities: versions get their default, unusable declarations
 * are refused, and `meta.versionProperty` is set, so that MikroORM's own `version + 1`, `em.lock()` and `em.clone()`
 * know the property. `prop.version` stays off: MikroORM's persister would check, reload and return it by itself.
 */
import {
  type Configuration,
  type EntityMetadata,
  type EntityProperty,
  MetadataError,
  type MetadataStorage,
  type Platform,
} from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

/** The version property of a class, when it is one of ours; a `Date` version is not. */
export function versionOf(meta: EntityMetadata): EntityProperty | undefined {
  const prop = meta.versionProperty && meta.properties[meta.versionProperty];
  return prop && prop.customType instanceof VersionField ? prop : undefined;
}

/** The version property of a class whose own table has the column: with joined-table inheritance only one of them. */
export function ownVersionOf(meta: EntityMetadata): EntityProperty | undefined {
  return meta.ownsVersionProperty() ? versionOf(meta) : undefined;
}

/** The version a row starts with when none is given. */
export function initialVersion(prop: EntityProperty): number {
  return Number(prop.default ?? prop.defaultRaw);
}

/** Installs our part of the discovery behind the user's own hooks. The configuration is the ORM's private copy. */
export function hookDiscovery(config: Configuration): void {
  const discovery = config.get('discovery');
  const { onMetadata, afterDiscovered } = discovery;
  // never async by itself: `new MikroORM()` does not wait for hooks
  discovery.onMetadata = (meta, platform) => after(onMetadata?.(meta, platform), () => addDefaults(meta));
  discovery.afterDiscovered = (storage, platform) =>
    after(afterDiscovered?.(storage, platform), () => adopt(storage, platform));
}

function after(first: void | Promise<void>, then: () => void): void | Promise<void> {
  return first instanceof Promise ? first.then(then) : then();
}

/** At this stage properties are as declared: the type is a class or an instance, nothing is resolved. */
function addDefaults(meta: EntityMetadata): void {
  for (const prop of Object.values<EntityProperty>(meta.properties)) {
    const type: unknown = prop.customType ?? prop.type;
    const declared = type instanceof VersionField || type === VersionField;
    if (declared && prop.default == null && prop.defaultRaw === undefined) {
      prop.defaultRaw = '1';
    }
  }
}

function adopt(storage: MetadataStorage, _platform: Platform): void {
  for (const meta of storage) {
    const props = Object.values<EntityProperty>(meta.properties).filter((p) => p.customType instanceof VersionField);
    if (props.length > 0) {
      refuseUnusable(meta, props);
      meta.versionProperty = props[0]!.name as never;
    }
  }
}

function refuseUnusable(meta: EntityMetadata, props: EntityProperty[]): void {
  const [prop] = props;
  const refuse = (property: EntityProperty, sentence: string): never => {
    throw new MetadataError(`${meta.className}.${property.name} ${sentence}`);
  };
  const embedded = props.find((p) => p.embedded);
  if (meta.embeddable || embedded) {
    refuse(
      embedded ?? prop!,
      'is a VersionField inside an embeddable, but a version belongs to a row. Move it to the entity itself.',
    );
  }
  if (props.length > 1) {
    const names = props.map((p) => p.name).join(' and ');
    refuse(prop!, `is not the only VersionField: there are ${names}. A row has one version, so keep one of them.`);
  }
  if (prop!.nullable) {
    refuse(
      prop!,
      'is a nullable VersionField, but a row without a version cannot be checked. Remove "nullable", and set NULLs in existing rows to 1.',
    );
  }
  if (prop!.primary || prop!.persist === false || prop!.formula || prop!.generated) {
    refuse(
      prop!,
      'is a VersionField, so it must be an ordinary column: no key, not generated, not a formula, persisted.',
    );
  }
  if (!Number.isInteger(initialVersion(prop!))) {
    refuse(
      prop!,
      `is a VersionField with the default ${String(prop!.default ?? prop!.defaultRaw)}, but versions start at an integer. Leave the default out to start at 1.`,
    );
  }
}
