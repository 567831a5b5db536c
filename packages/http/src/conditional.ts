/** What the parts for frameworks share. */
import { etag } from './etag.ts';
import { type HeaderValue, notModified } from './preconditions.ts';
import { type Problem, type ProblemBody, problem } from './problem.ts';

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
