/** What the parts for frameworks share. */
import { etag } from './etag.ts';
import { type HeaderValue, notModified } from './preconditions.ts';

/** What an answer with a tag begins with: the tag itself, and whether the reader has got this state already. */
export interface Tagged {
  readonly tag: string;
  readonly isKnown: boolean;
}

/**
 * @param request its method, and the value of `If-None-Match`, which only reading requests mean in this way
 * @param entity what is about to be sent
 * @see RFC 9110, section 13.2.2
 */
export function tagged(request: { method: string; ifNoneMatch: HeaderValue }, entity: object): Tagged {
  const isRead = request.method === 'GET' || request.method === 'HEAD';
  return { tag: etag(entity), isKnown: isRead && notModified(request.ifNoneMatch, entity) };
}
