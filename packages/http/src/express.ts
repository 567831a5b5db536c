/**
 * Express: one error-handling middleware behind the routes, and `ifMatch()` and `etag()` by request and response.
 *
 *   app.put('/articles/:id', async (req, res) => {
 *     const article = await em.findOneOrFail(Article, req.params.id);
 *     article.version = ifMatch(req, article);
 *     …
 *     etag(res, article).json(article);
 *   });
 *   app.use(problems());
 */
import type { ErrorRequestHandler, Request, Response } from 'express';
import { type AnswerOptions, answerTo, tagged } from './conditional.ts';
import { ifMatch as ifMatchHeader } from './preconditions.ts';

export type { AnswerOptions } from './conditional.ts';

/**
 * The version that the client has seen, by its `If-Match`; `ifMatch()` of `@mikro-ool/http`.
 *
 * @param req the request
 * @param entity a loaded one, or `em.getReference()`, which needs no query
 * @returns what to assign to the version of the entity
 * @throws {PreconditionError} which `problems()` answers
 */
export function ifMatch(req: Pick<Request, 'headers'>, entity: object): number {
  return ifMatchHeader(req.headers['if-match'], entity);
}

/**
 * Sets the `ETag`; of a GET or HEAD whose reader has got this state already, the status 304, too, and no body is sent.
 *
 * @param res the response
 * @param entity what is about to be sent
 * @returns the response
 * @throws {ValidationError} when the entity has no ETag
 * @throws {PreconditionError} of a GET or HEAD whose `If-Match` it does not match
 */
export function etag<Sent extends Response>(res: Sent, entity: object): Sent {
  const { method, headers } = res.req;
  const { tag, isKnown } = tagged(method, (name) => headers[name], entity);
  res.set('etag', tag);
  return isKnown ? res.status(304) : res;
}

/**
 * The middleware that answers `ConcurrentUpdate`, `PreconditionError` and `InvalidVersion` as `problem()` says, and hands
 * on every other error. Use it behind the routes, and before an error handler of the application.
 *
 * @param options what to say otherwise
 * @returns for `app.use()`
 */
export function problems(options: AnswerOptions<Request> = {}): ErrorRequestHandler {
  return (error, req, res, next) => {
    const answer = answerTo(error, options, req);
    if (!answer || res.headersSent) {
      next(error);
      return;
    }
    res.removeHeader('etag'); // of what was to be sent
    // not res.json(), which would put a tag of Express's own on it, of the problem and not of the row
    res.status(answer.status).set(answer.headers).end(JSON.stringify(answer.body));
  };
}
