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
import { describeRow, etag } from './etag.ts';

/** A header as frameworks hand it over: `null` is what `Headers.get()` returns. */
export type HeaderValue = string | readonly string[] | null | undefined;

/** A request that must not be carried out. Its message is for the client, and repeats nothing that the client sent. */
export class PreconditionError extends Error {
  /** 400: cannot be understood. 412: the row is in another state. 428: the request does not say which state it means. */
  readonly status: 400 | 412 | 428;

  constructor(status: 400 | 412 | 428, message: string) {
    super(message);
    this.name = 'PreconditionError';
    this.status = status;
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
 * state. A weak tag matches nothing. Tags of other rows and of other classes do not match either.
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
  const { className, prefix, version: known, isRead } = describeRow(entity);
  const version = isRead ? known : undefined;
  if (!tags) {
    throw new PreconditionError(428, `Send the ETag of this ${className} as If-Match, so that no change gets lost.`);
  }
  if (tags === '*') {
    if (version == null) {
      throw new PreconditionError(428, `Here, If-Match: * is not enough. Send the ETag of this ${className}.`);
    }
    return version as number;
  }
  const seen = new Set(tags.flatMap((tag) => (tag.weak ? [] : versionIn(tag.opaque, prefix))));
  if (version != null ? !seen.has(version as number) : seen.size === 0) {
    const why = tags.some((tag) => tag.weak) ? ' Weak tags (W/) do not count here.' : '';
    throw new PreconditionError(
      412,
      `This ${className} is not in the state that If-Match names.${why} Nothing was written. Read it again.`,
    );
  }
  if (version != null) {
    setPrecondition(entity, version as number);
    return version as number;
  }
  if (seen.size > 1) {
    throw new PreconditionError(428, `If-Match names several versions of this ${className}. Send one.`);
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
    throw new PreconditionError(412, 'It exists already, in a state that If-None-Match excludes. Nothing was written.');
  }
  throw new PreconditionError(428, 'It exists already. Send its ETag as If-Match to change it.');
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
 * The version in a JSON body or a form, as an alternative to `If-Match`. Assign it to the entity.
 *
 * @param value what was sent, already a number
 * @returns the same, when it can be a version
 * @throws {PreconditionError} 428 when it is missing or null, 400 when it is no integer from 0 on
 */
export function claimedVersion(value: unknown): number {
  if (value == null) {
    throw new PreconditionError(428, 'Send the version that the change is based on, so that no change gets lost.');
  }
  if (!Number.isSafeInteger(value) || (value as number) < 0) {
    throw new PreconditionError(400, 'The version is not an integer from 0 on. Send the one that was read.');
  }
  return value as number;
}

/** Weak comparison. */
function matches(tags: '*' | readonly Tag[], entity: object): boolean {
  const current = etag(entity);
  return tags === '*' || tags.some((tag) => `"${tag.opaque}"` === current);
}

function versionIn(opaque: string, prefix: string): number[] {
  const version = opaque.slice(prefix.length);
  const number = Number(version);
  return opaque.startsWith(prefix) && /^(?:0|[1-9]\d*)$/.test(version) && Number.isSafeInteger(number) ? [number] : [];
}

/** The tags of a header, of which a client may have sent several; `undefined` when it sent none. */
function parse(name: string, header: HeaderValue): '*' | Tag[] | undefined {
  const lines = typeof header === 'string' ? [header] : (header ?? []);
  if (lines.length === 0) {
    return undefined;
  }
  const length = lines.reduce((sum, line) => sum + line.length, 0);
  if (length > MAXIMUM_LENGTH || lines.length > MAXIMUM_TAGS) {
    throw new PreconditionError(400, `${name} is too long.`);
  }
  const value = lines.join(',');
  if (/^[ \t]*\*[ \t]*$/.test(value)) {
    return '*';
  }
  const tags: Tag[] = [];
  for (ELEMENT.lastIndex = 0; ;) {
    const element = ELEMENT.exec(value);
    if (!element) {
      throw new PreconditionError(400, `${name} is neither * nor a list of entity tags in double quotes.`);
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
    throw new PreconditionError(400, `${name} lists more than ${MAXIMUM_TAGS} entity tags.`);
  }
  return tags;
}
