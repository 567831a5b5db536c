/** What RFC 9110, section 13.2.2, and docs/request-handlers.md say about any request, without a database. */
import * as fc from 'fast-check';

/** What a header may be made of; what is current then is only known when it is sent. */
const tag = fc.constantFrom('current', 'current', 'current', 'older', 'weak', 'other row', 'other class', 'beyond');
const header = fc.oneof(
  fc.constant(undefined),
  tag,
  fc.constantFrom('*', 'junk', 'W/current', '', ' , '),
  fc.tuple(tag, tag).map((tags) => tags.join(', ')),
);

/** One request of one of two clients. */
export const request = fc.record({
  method: fc.constantFrom('GET', 'HEAD', 'PUT', 'PUT', 'PATCH', 'DELETE'),
  id: fc.constantFrom(1, 1, 2, 3),
  ifMatch: header,
  ifNoneMatch: fc.oneof({ weight: 2, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: header }),
  version: fc.oneof(fc.constantFrom<unknown>('current', 'current', undefined, 1, 99, -1, '3', 2 ** 40), tag),
  rival: fc.boolean(),
});
export type Request = typeof request extends fc.Arbitrary<infer Value> ? Value : never;

/** A header in which the names of tags are spelled out. */
export function spelled(header: string, { id, version }: { id: number; version: number }): string {
  const tags: Record<string, string> = {
    current: `"Article/${id}/${version}"`,
    older: `"Article/${id}/${version - 1}"`,
    weak: `W/"Article/${id}/${version}"`,
    'other row': `"Article/7/${version}"`,
    'other class': `"Note/${id}/${version}"`,
    beyond: `"Article/${id}/${2 ** 40}"`,
  };
  return header
    .split(', ')
    .map((part) => tags[part] ?? part)
    .join(', ');
}

/** How a header compares with the state of a row; nothing is there without one. */
function compared(header: string, version: number | undefined, isWeak: boolean) {
  const parts = header.split(',').map((part) => part.trim());
  if (parts.some((part) => part === 'junk' || part === 'W/current' || (part === '*' && parts.length > 1))) {
    return 'malformed';
  }
  const isThere = version !== undefined;
  return isThere && parts.some((part) => part === '*' || part === 'current' || (isWeak && part === 'weak'));
}

/**
 * @param version of the row, if it is there
 * @returns the status of the answer
 */
export function expected(
  { method, ifMatch, ifNoneMatch, version: sent, rival }: Request,
  version: number | undefined,
): number {
  const matches = ifMatch === undefined ? undefined : compared(ifMatch, version, false);
  const isKnown = ifNoneMatch === undefined ? undefined : compared(ifNoneMatch, version, true);
  const isThere = version !== undefined;
  const race = (status: number) => (rival ? status : 200);
  if (method === 'GET' || method === 'HEAD') {
    if (!isThere) {
      return 404;
    }
    if (matches === 'malformed' || (isKnown === 'malformed' && matches !== false)) {
      return 400;
    }
    return matches === false ? 412 : isKnown ? 304 : 200;
  }
  if (method === 'DELETE') {
    // by a reference, which is not read: what names no version, or several, says too little
    const parts = new Set((ifMatch ?? '').split(',').map((part) => part.trim()));
    const versions = ['current', 'older', 'beyond'].filter((part) => part !== 'beyond' && parts.has(part));
    if (ifMatch === undefined) {
      return 428;
    }
    if (compared(ifMatch, 0, false) === 'malformed') {
      return 400;
    }
    return ifMatch === '*' || versions.length > 1 ? 428 : versions[0] === 'current' && isThere ? 204 : 412;
  }
  if (method === 'PUT' && ifNoneMatch !== undefined) {
    if (matches === 'malformed') {
      return 400;
    }
    if (matches === false) {
      return 412;
    }
    return isKnown === 'malformed' ? 400 : isKnown ? 412 : isThere ? 428 : 200;
  }
  if (!isThere) {
    return 404;
  }
  if (method === 'PUT') {
    return matches === undefined
      ? 428
      : matches === 'malformed'
        ? 400
        : !matches
          ? 412
          : race(ifMatch === '*' ? 409 : 412);
  }
  switch (sent) {
    case undefined:
      return 428;
    case 'current':
      return race(409);
    case 'older':
    case 'weak':
    case 'other row':
    case 'other class':
    case 'beyond':
    case 1:
    case 99:
      return 409;
    default:
      return 400;
  }
}
