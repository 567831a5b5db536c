/**
 * Hono: one error handler, and `ifMatch()` and `etag()` by context.
 *
 *   app.put('/articles/:id', async (c) => {
 *     const article = await em.findOneOrFail(Article, c.req.param('id'));
 *     article.version = ifMatch(c, article);
 *     …
 *     return etag(c, article) ?? c.json(article);
 *   });
 *   app.onError(problems());
 */
import type { Context, ErrorHandler } from 'hono';
import { type AnswerOptions, answerTo, tagged } from './conditional.ts';
import { ifMatch as ifMatchHeader } from './preconditions.ts';

export type { AnswerOptions } from './conditional.ts';

/**
 * The version that the client has seen, by its `If-Match`; `ifMatch()` of `@mikro-ool/http`.
 *
 * @param c the context
 * @param entity a loaded one, or `em.getReference()`, which needs no query
 * @returns what to assign to the version of the entity
 * @throws {PreconditionError} which `problems()` answers
 */
export function ifMatch(c: Context, entity: object): number {
  return ifMatchHeader(c.req.header('if-match'), entity);
}

/**
 * Sets the `ETag` of the answer that is made with this context.
 *
 * @param c the context
 * @param entity what is about to be sent
 * @returns the answer, 304 without a body, to a GET or HEAD whose reader has got this state already; else nothing
 * @throws {ValidationError} when the entity has no ETag
 * @throws {PreconditionError} of a GET or HEAD whose `If-Match` it does not match
 */
export function etag(c: Context, entity: object): Response | undefined {
  const { tag, isKnown } = tagged(c.req.method, (name) => c.req.header(name), entity);
  c.header('etag', tag);
  return isKnown ? c.body(null, 304) : undefined;
}

/** What the application says for itself, and how errors are answered that are not the lock's. */
export interface ProblemsOptions extends AnswerOptions<Context> {
  /** The application's error handler. Without, they are answered as Hono does by itself. */
  readonly otherwise?: ErrorHandler;
}

/**
 * The error handler that answers `ConcurrentUpdate`, `PreconditionError` and `InvalidVersion` as `problem()` says.
 *
 * @param options what to say otherwise, and what to do with other errors
 * @returns for `app.onError()`
 */
export function problems(options: ProblemsOptions = {}): ErrorHandler {
  const { otherwise = unknownError } = options;
  return (error, c) => {
    const answer = answerTo(error, options, c);
    if (!answer) {
      return otherwise(error, c);
    }
    c.header('etag', undefined); // of what was to be sent
    // or the headers that a middleware has set would be lost, or replace these
    Object.entries(answer.headers).forEach(([name, value]) => c.header(name, value));
    return c.body(JSON.stringify(answer.body), answer.status as 400);
  };
}

/** Hono's own handler is not to be had: an `HTTPException` brings its answer along, anything else is logged. */
const unknownError: ErrorHandler = (error, c) => {
  if ('getResponse' in error) {
    return error.getResponse();
  }
  console.error(error);
  return c.text('Internal Server Error', 500);
};
