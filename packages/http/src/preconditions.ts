/**
 * What a client says about the state that its request is based on: `If-Match`, `If-None-Match`, or a version in the body.
 *
 *   const article = em.getReference(Article, id);                             // or em.findOneOrFail(Article, id)
 *   article.version = ifMatch(request.headers['if-match'], article);          // 400, 412 or 428
 *   em.remove(article);                                                       // or em.assign(article, changes)
 *   await em.flush();                                                         // the database compares the version
 *
 * The functions only read headers. What decides is the flush, so nothing can come between the check and the write.
 */
import { setPrecondition } from '@mikro-ool/core';
import { type TaggedRow, describeRow, etag, inWords } from './etag.ts';

/** A header as frameworks hand it over: `null` is what `Headers.get()` returns. */
export type HeaderValue = string | readonly string[] | null | undefined;

/**
 * Why a request is refused by what it says itself. `malformed`: cannot be understood. `missing`: it does not say which state
 * it is based on. `ambiguous`: it names none in particular, or several. `stale`: it names a state that is not the current one
 * of this row. `changed`: one that the row has been in before. `exists`: it wants to create what is there.
 */
export type PreconditionReason = 'ambiguous' | 'changed' | 'exists' | 'malformed' | 'missing' | 'stale';

/** A request that must not be carried out. Its message is for the client, and repeats nothing that the client sent. */
export class PreconditionError extends Error {
  /**
   * 400: cannot be understood. 409, 412: the row is in another state than the body, the header says. 428: the request does
   * not say which state it means.
   */
  readonly status: 400 | 409 | 412 | 428;
  readonly reason: PreconditionReason;
  /** Of a 412: the tag that the row has now. */
  readonly etag: string | undefined;

  constructor(status: 400 | 409 | 412 | 428, reason: PreconditionReason, message: string, current?: string) {
    super(message);
    this.name = 'PreconditionError';
    this.status = status;
    this.reason = reason;
    this.etag = current;
  }
}

const MAXIMUM_LENGTH = 8192;
const MAXIMUM_TAGS = 100;

/** One element of a list, which may be empty, and the comma or the end behind it. Never scans a character twice. */
const ELEMENT = /[ \t]*(?:(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|$)/y;

interface Tag {
  readonly weak: boolean;
  readonly opaque: string;
}

/**
 * The version that a write is based on. Assign it to the entity; the flush then checks it in the database.
 *
 * What is compared is the version that was loaded, also after `em.assign(entity, body)` with another one in the body.
 * With `If-Match: *`, this is the version that was loaded. With a tag, `mergeOnConflict()` merges nothing into a later
 * state. A weak tag matches nothing. Tags of other rows and of other classes do not match either, and nothing matches an
 * entity that was never saved: such a request does not want to create.
 *
 * @param header the value of `If-Match`
 * @param entity a loaded one, or `em.getReference()`, which needs no query
 * @returns the version that the client has seen
 * @throws {PreconditionError} 428 without the header, and where one version is needed and it names none or several; 412
 *   when it does not match; 400 when it cannot be parsed
 * @throws {ValidationError} when the class of the entity has no `VersionField`
 * @see RFC 9110, section 13.1.1; RFC 6585, section 3
 */
export function ifMatch(header: HeaderValue, entity: object): number {
  const tags = parse('If-Match', header);
  const row = describeRow(entity);
  const { prefix, isRead, isNew } = row;
  const name = inWords(row.className);
  const version = isRead ? row.version : undefined;
  if (!tags) {
    const message = `Send the ETag of this ${name} as If-Match, so that no change gets lost.`;
    throw new PreconditionError(428, 'missing', message);
  }
  if (isNew) {
    throw notThere(412, name);
  }
  if (tags === '*') {
    if (version == null) {
      throw new PreconditionError(428, 'ambiguous', `If-Match: * is not enough here. Send the ETag of this ${name}.`);
    }
    return version as number;
  }
  const seen = new Set(tags.flatMap((tag) => versionIn(tag, row)));
  if (version != null ? !seen.has(version as number) : seen.size === 0) {
    throw notCurrent(412, row, tags, version == null ? undefined : `"${prefix}${version as number}"`);
  }
  if (version != null) {
    setPrecondition(entity, version as number);
    return version as number;
  }
  if (seen.size > 1) {
    throw new PreconditionError(428, 'ambiguous', `If-Match names several versions of this ${name}. Send one.`);
  }
  const [claimed] = seen as Set<number>;
  setPrecondition(entity, claimed!);
  return claimed!;
}

/**
 * Lets a write pass only where there is nothing yet, for instance `PUT` with `If-None-Match: *`, which creates only.
 *
 * A row that is there is never written by this condition, also not by one that lists other tags: it does not say which
 * state the write is based on.
 *
 * @param header the value of `If-None-Match`
 * @param entity what is there now, if anything
 * @throws {PreconditionError} when something is there: 412 when the header matches it, else 428; 400 when the header
 *   cannot be parsed
 * @throws {ValidationError} when the entity has no ETag
 * @see RFC 9110, section 13.1.2
 */
export function ifNoneMatch(header: HeaderValue, entity: object | null | undefined): void {
  const tags = parse('If-None-Match', header);
  if (!entity) {
    return;
  }
  if (tags && matches(tags, entity)) {
    const message = 'It exists already, in a state that If-None-Match excludes. Nothing was written.';
    throw new PreconditionError(412, 'exists', message, etag(entity));
  }
  throw new PreconditionError(428, 'exists', 'It exists already. Send its ETag as If-Match to change it.');
}

/**
 * Has the reader got this state already? Then answer a `GET` or `HEAD` with 304 and the `ETag`, without a body.
 *
 * @param header the value of `If-None-Match`
 * @param entity what would be sent
 * @throws {PreconditionError} 400 when it cannot be parsed
 * @throws {ValidationError} when the entity has no ETag
 * @see RFC 9110, sections 13.1.2 and 13.2.2
 */
export function notModified(header: HeaderValue, entity: object): boolean {
  const tags = parse('If-None-Match', header);
  return tags !== undefined && matches(tags, entity);
}

/**
 * The version in a JSON body or a form, as an alternative to `If-Match`: the number, or the tag of the row. Assign what is
 * returned to the entity; the flush then checks it in the database.
 *
 * @param value what was sent: a number, or what `etag()` gave, with its quotes
 * @param entity the row that the tag must be of; without it, a tag is not accepted
 * @returns the version that the client has seen
 * @throws {PreconditionError} 428 when it is missing or null; 400 when it is no integer from 0 on and no tag; 409 when it is
 *   the tag of another row, or a weak one, or the entity was never saved
 * @see AIP-154, of which a missing `etag` would be no error
 */
export function claimedVersion(value: unknown, entity?: object): number {
  if (value == null) {
    const what = entity ? 'etag' : 'version';
    const message = `Send the ${what} that the change is based on, so that no change gets lost.`;
    throw new PreconditionError(428, 'missing', message);
  }
  const row = entity && describeRow(entity);
  if (row?.isNew) {
    throw notThere(409, inWords(row.className));
  }
  if (row && typeof value === 'string') {
    return versionInTag(value, row);
  }
  if (!Number.isSafeInteger(value) || (value as number) < 0) {
    throw new PreconditionError(
      400,
      'malformed',
      'The version is not an integer from 0 on. Send the one that was read.',
    );
  }
  return value as number;
}

/** Weak comparison. */
function matches(tags: '*' | readonly Tag[], entity: object): boolean {
  const current = etag(entity);
  return tags === '*' || tags.some((tag) => `"${tag.opaque}"` === current);
}

function versionInTag(sent: string, row: TaggedRow): number {
  const tags = parse('The etag', sent);
  if (!Array.isArray(tags) || tags.length !== 1) {
    throw new PreconditionError(400, 'malformed', 'The etag is not one entity tag in double quotes.');
  }
  const [version] = versionIn(tags[0]!, row);
  if (version === undefined) {
    throw notCurrent(409, row, tags);
  }
  return version;
}

/** A state that the row has been in, or one that it never was in. */
function notCurrent(status: 409 | 412, row: TaggedRow, tags: readonly Tag[], current?: string) {
  const name = inWords(row.className);
  if (tags.some((tag) => versionIn(tag, row).length > 0)) {
    const message = `The ${name} was changed by somebody else. Nothing was written. Read it again.`;
    return new PreconditionError(status, 'changed', message, current);
  }
  const why = tags.some((tag) => tag.weak) ? ' Weak tags (W/) do not count here.' : '';
  const message = `The tag that was sent is not of this ${name}.${why} Nothing was written. Read it again.`;
  return new PreconditionError(status, 'stale', message, current);
}

function notThere(status: 409 | 412, name: string) {
  return new PreconditionError(
    status,
    'stale',
    `The ${name} that the request means is not there. Nothing was written.`,
  );
}

/** Of a number that no version of the row can be, there never was a tag. */
function versionIn({ weak, opaque }: Tag, { prefix, maximum }: TaggedRow): number[] {
  if (weak) {
    return [];
  }
  const version = opaque.slice(prefix.length);
  const number = Number(version);
  return opaque.startsWith(prefix) && /^(?:0|[1-9]\d*)$/.test(version) && number <= maximum ? [number] : [];
}

/** The tags of a header, of which a client may have sent several; `undefined` when it sent none. */
function parse(name: string, header: HeaderValue): '*' | Tag[] | undefined {
  const lines = typeof header === 'string' ? [header] : (header ?? []);
  if (lines.length === 0) {
    return undefined;
  }
  const length = lines.reduce((sum, line) => sum + line.length, 0);
  if (length > MAXIMUM_LENGTH || lines.length > MAXIMUM_TAGS) {
    throw new PreconditionError(400, 'malformed', `${name} is too long.`);
  }
  const value = lines.join(',');
  if (/^[ \t]*\*[ \t]*$/.test(value)) {
    return '*';
  }
  const tags: Tag[] = [];
  for (ELEMENT.lastIndex = 0; ;) {
    const element = ELEMENT.exec(value);
    if (!element) {
      throw new PreconditionError(400, 'malformed', `${name} is no list of entity tags in double quotes.`);
    }
    const [matched, weak, opaque] = element;
    if (opaque !== undefined) {
      tags.push({ weak: weak !== undefined, opaque });
    }
    if (!matched.endsWith(',')) {
      break;
    }
  }
  if (tags.length > MAXIMUM_TAGS) {
    throw new PreconditionError(400, 'malformed', `${name} lists more than ${MAXIMUM_TAGS} entity tags.`);
  }
  return tags;
}
