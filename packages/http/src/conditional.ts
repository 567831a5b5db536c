/** What the parts for frameworks share. */
import { etag } from './etag.ts';
import { type HeaderValue, ifMatch, notModified } from './preconditions.ts';
import { type Problem, type ProblemBody, problem } from './problem.ts';

/** What an answer with a tag begins with: the tag itself, and whether the reader has got this state already. */
export interface Tagged {
  readonly tag: string;
  readonly isKnown: boolean;
}

/**
 * @param method of the request: only reading ones have their preconditions looked at here
 * @param header by its name
 * @param entity what is about to be sent
 * @throws {PreconditionError} when a reading request has an `If-Match` that the entity does not match
 * @see RFC 9110, section 13.2.2
 */
export function tagged(method: string, header: (name: string) => HeaderValue, entity: object): Tagged {
  const tag = etag(entity);
  if (method !== 'GET' && method !== 'HEAD') {
    return { tag, isKnown: false };
  }
  const wanted = header('if-match');
  if (wanted != null) {
    ifMatch(wanted, entity);
  }
  return { tag, isKnown: notModified(header('if-none-match'), entity) };
}

/** What an application says for itself, in answer to a request. */
export interface AnswerOptions<Request> {
  /** What `detail` says instead, in the language of the request for instance; it is given what would be sent, in English. */
  readonly detail?: (body: ProblemBody, request: Request) => string;
}

/** `problem()` with the request at hand. */
export function answerTo<Request>(
  error: unknown,
  { detail }: AnswerOptions<Request>,
  request: Request,
): Problem | undefined {
  return problem(error, detail && { detail: (body) => detail(body, request) });
}
