/**
 * Fastify: one registration, after which every request and reply knows the lock.
 *
 *   app.register(locking);
 *   app.put('/articles/:id', async (request, reply) => {
 *     const article = await em.findOneOrFail(Article, request.params.id);
 *     article.version = request.ifMatch(article);
 *     …
 *     return reply.etag(article).send(article);
 *   });
 */
import type { FastifyError, FastifyPluginAsync, FastifyReply, FastifyRequest } from 'fastify';
import { type AnswerOptions, answerTo, tagged } from './conditional.ts';
import { ifMatch } from './preconditions.ts';

export type { AnswerOptions } from './conditional.ts';

declare module 'fastify' {
  interface FastifyRequest {
    /** The version that the client has seen, by its `If-Match`; `ifMatch()` of `@mikro-ool/http`. */
    ifMatch(entity: object): number;
  }
  interface FastifyReply {
    /** Sets the `ETag`; of a GET or HEAD whose reader has got this state already, the status 304, too, and no body is sent. */
    etag(entity: object): this;
  }
}

/** What the application says for itself, and how errors are answered that are not the lock's. */
export interface LockingOptions extends AnswerOptions<FastifyRequest> {
  /** The application's error handler. Without, errors go to the one that was set before, or to Fastify's own. */
  readonly otherwise?: (error: FastifyError, request: FastifyRequest, reply: FastifyReply) => unknown;
}

/**
 * The plugin, for `app.register(locking)`: an error handler that answers `ConcurrentUpdate`, `PreconditionError` and
 * `InvalidVersion` as `problem()` says, `request.ifMatch(entity)` and `reply.etag(entity)`. It holds for the whole scope in
 * which it is registered; a scope inside of it that sets an error handler of its own throws on what it does not know.
 */
export const locking: FastifyPluginAsync<LockingOptions> = async (app, options) => {
  const { otherwise } = options;
  app.decorateRequest('ifMatch', function (this: FastifyRequest, entity: object): number {
    return ifMatch(this.headers['if-match'], entity);
  });
  app.decorateReply('etag', function (this: FastifyReply, entity: object): FastifyReply {
    const { method, headers } = this.request;
    const { tag, isKnown } = tagged(method, (name) => headers[name], entity);
    return (isKnown ? this.code(304) : this).header('etag', tag);
  });
  app.setErrorHandler<FastifyError>(async (error, request, reply) => {
    const answer = answerTo(error, options, request);
    if (answer) {
      // the tag that it may have is of what was to be sent
      return reply.removeHeader('etag').code(answer.status).headers(answer.headers).send(answer.body);
    }
    if (otherwise) {
      return otherwise(error, request, reply);
    }
    throw error; // to the handler before this one
  });
};

// for the scope that registers it, and not for one of its own: what the package fastify-plugin does
Object.assign(locking, {
  [Symbol.for('skip-override')]: true,
  [Symbol.for('fastify.display-name')]: '@mikro-ool/http',
});
