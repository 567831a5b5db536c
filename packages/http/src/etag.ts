/**
 * The entity tag of a row: class, primary key and version, for instance `"Article/1/3"`. The tag of another row or of
 * another class is never the same, and the version can be read back from it without a query.
 */
import { createHash } from 'node:crypto';
import {
  type EntityClass,
  type EntityMetadata,
  type EntityProperty,
  type Platform,
  Reference,
  Utils,
  ValidationError,
  helper,
} from '@mikro-orm/core';
import { Refusal, loadedVersion, maximumVersion, versionOf } from '@mikro-ool/core';

/** @internal What a tag says about a row. */
export interface TaggedRow {
  /** For a sentence. */
  readonly className: string;
  /** All of the opaque tag but the version. */
  readonly prefix: string;
  /** The version that was loaded, whatever was assigned since; else the one that was assigned. */
  readonly version: unknown;
  /** Is that the version of a row that was read? */
  readonly isRead: boolean;
  /** Was it never in the database? */
  readonly isNew: boolean;
  /** The largest version that its column can hold. */
  readonly maximum: number;
}

/**
 * The strong entity tag of an entity, for the `ETag` header.
 *
 * It changes with the version, so it stands for what is made from this row alone; `touch()` the entity when a part of
 * it changes that is a row of its own.
 *
 * @param entity loaded or flushed; one with unsaved changes has the tag of what they are based on
 * @returns the tag with its quotes
 * @throws {ValidationError} when its class has no `VersionField`, or its version is not known
 * @see RFC 9110, section 8.8.3
 */
export function etag(entity: object): string {
  const { className, prefix, version } = describeRow(entity);
  if (version == null) {
    throw new Refusal(
      `This ${className} has no ETag, because its version is not known. Load it, or flush it when it is new.`,
      entity,
    );
  }
  return `"${prefix}${version as number}"`;
}

/** @internal */
export function describeRow(entity: object): TaggedRow {
  const wrapped = Utils.isEntity(entity) ? helper(entity) : undefined;
  if (!wrapped) {
    throw new ValidationError('Only an entity has an ETag. Pass one that an EntityManager made.');
  }
  // what stands on the entity may be the metadata of another ORM in this process
  const found = wrapped.__em?.getMetadata().get(entity.constructor as EntityClass<object>) ?? wrapped.__meta;
  const meta = found as unknown as EntityMetadata;
  const property = versionOf(meta);
  if (!property) {
    throw new Refusal(`${meta.className} has no ETag, because it has no VersionField. Add one.`, entity);
  }
  // a reference may be of the base class of what is loaded elsewhere; keys are those of the root
  const parts = [...schemaOf(entity, meta), meta.root.className, ...keyParts(entity, meta, wrapped.__platform)];
  const prefix = parts.map((part) => `${encodeURIComponent(part.toWellFormed())}/`).join('');
  // a body that was assigned may have a version of its own
  const loaded = loadedVersion(wrapped.__originalEntityData, property.name);
  const isLoaded = typeof loaded === 'number';
  return {
    className: meta.className,
    prefix: prefix.length > LONGEST_PREFIX ? shortened(prefix) : prefix,
    version: isLoaded ? loaded : (entity as Record<string, unknown>)[property.name],
    isRead: isLoaded || wrapped.__initialized,
    // what `em.stream()` has read, or `em.insert()` has written, has no snapshot either
    isNew: wrapped.__initialized && wrapped.__originalEntityData === undefined && !wrapped.__managed,
    maximum: maximumVersion(property),
  };
}

/** @internal What a client calls a class: `OrderLine` is an order line. */
export function inWords(className: string): string {
  return className.replaceAll(/(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_/g, ' ').toLowerCase();
}

/** @internal The tag that a row has in another version than the one that is in memory. */
export function tagOf(entity: object, version: number): string {
  return `"${describeRow(entity).prefix}${version}"`;
}

/** A tag has to come back in a header, of which servers accept some kilobytes in all. */
const LONGEST_PREFIX = 512;

function shortened(prefix: string): string {
  return `sha256/${createHash('sha256').update(prefix).digest('hex')}/`;
}

/** The schema of a row, where its class has several: a reference does not name the default one, a loaded row does. */
function schemaOf(entity: object, meta: EntityMetadata): string[] {
  const { __schema: schema, __config: config, __platform: platform } = helper(entity);
  const isOne = meta.schema && meta.schema !== '*';
  const usual = config.get('schema') ?? platform.getDefaultSchemaName();
  return !schema || isOne || schema === usual ? [] : [schema];
}

/** The primary key as it is in the database; of foreign keys, the keys that they point to. */
function keyParts(entity: object, meta: EntityMetadata, platform: Platform): string[] {
  return meta.getPrimaryProps().flatMap((prop) => {
    const { name, customType } = prop;
    const value: unknown = Reference.unwrapReference((entity as Record<string, object>)[name] as never);
    if (Utils.isEntity(value)) {
      return keyParts(value, helper(value).__meta as unknown as EntityMetadata, platform);
    }
    const stored = text(customType ? customType.convertToDatabaseValue(value, platform) : value);
    return asStored(stored, prop, platform);
  });
}

/**
 * A key as the database spells it. A URL may spell it otherwise, and what the database takes for the same row must have the
 * same tag: a reference that is made of the URL, and the row that was read.
 */
function asStored(key: string, prop: EntityProperty, platform: Platform): string {
  const type = prop.columnTypes[0] ?? '';
  if (/^(?:uuid|uniqueidentifier)/i.test(type) && /^\{?[0-9a-f-]{32,36}\}?$/i.test(key)) {
    return key
      .toLowerCase()
      .replace(/[{}-]/g, '')
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
  }
  if (/int|serial/i.test(type) && /^\s*[+-]?\d+\s*$/.test(key)) {
    return String(BigInt(key.trim().replace(/^\+/, '')));
  }
  if (/^(?:decimal|numeric)/i.test(type) && /^\s*[+-]?\d*(?:\.\d*)?\s*$/.test(key)) {
    const [, sign, whole, fraction] = /([+-]?)0*(\d*)(?:\.(\d*?)0*)?\s*$/.exec(key)!;
    return `${sign === '-' ? '-' : ''}${whole || '0'}${fraction ? `.${fraction}` : ''}`;
  }
  const isCased = comparesCase(prop, type, platform);
  const [isSqlite, isMySql] = [isA('SqlitePlatform', platform), isA('BaseMySqlPlatform', platform)];
  const isFixed = /^(?:char|character|bpchar|nchar)\b(?! varying)/i.test(type) && !isSqlite;
  // with spaces, and with nothing else that looks like one
  const unpadded = isFixed || (isMySql && !isCased) ? key.replace(/ +$/, '') : key;
  if (isCased) {
    return unpadded;
  }
  // SQLite knows the case of no other letters; and what comes back as another one, as a Kelvin sign does, is one of its own
  return unpadded.replaceAll(isSqlite ? /[A-Z]/g : /\p{Lu}/gu, (letter) => {
    const small = letter.toLowerCase();
    return small.toUpperCase() === letter ? small : letter;
  });
}

/** MariaDB and MySQL do not, unless the column says so, or the configuration; the others do, unless it says otherwise. */
function comparesCase({ collation }: EntityProperty, type: string, platform: Platform): boolean {
  return isA('BaseMySqlPlatform', platform)
    ? /_bin\b|_cs\b|binary|blob/i.test(`${type} ${collation ?? platform.getConfig().get('collate') ?? ''}`)
    : !/citext|nocase|_ci\b/i.test(`${type} ${collation ?? ''}`);
}

/** By name: this package knows no driver. */
function isA(name: string, platform: object | null): boolean {
  return (
    platform !== null && (platform.constructor.name === name || isA(name, Object.getPrototypeOf(platform) as object))
  );
}

function text(value: unknown): string {
  if (value instanceof Uint8Array) {
    return Buffer.from(value).toString('hex');
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
