/**
 * NestJS, on Express or Fastify: a module that answers for all controllers, and decorators for what a handler takes and gives.
 *
 *   @Module({ imports: [LockingModule, …] })
 *
 *   @Put(':id')
 *   @ETag()
 *   async change(@Param('id') id: number, @IfMatch() seen: Precondition, @Body() body: ArticleDto) {
 *     const article = await this.articles.findOneOrFail(id);
 *     article.version = seen(article);
 *     …
 *     return article;
 *   }
 *
 * Decorators are called as functions here, because Node runs these files as they are.
 */
import { ConcurrentUpdate, InvalidVersion } from '@mikro-ool/core';
import {
  type ArgumentsHost,
  type CallHandler,
  Catch,
  type DynamicModule,
  type ExceptionFilter,
  type ExecutionContext,
  Inject,
  Injectable,
  Module,
  type NestInterceptor,
  Optional,
  UseInterceptors,
  createParamDecorator,
} from '@nestjs/common';
import { APP_FILTER, HttpAdapterHost } from '@nestjs/core';
import { type Observable, map } from 'rxjs';
import { type AnswerOptions, answerTo, tagged } from './conditional.ts';
import { type HeaderValue, PreconditionError, ifMatch } from './preconditions.ts';

export type { AnswerOptions } from './conditional.ts';

/** What `@IfMatch()` injects: given the entity, the version that the client has seen. */
export type Precondition = (entity: object) => number;

/** As much of a request as is needed, of Express and of Fastify. */
export interface HttpRequest {
  readonly method: string;
  readonly headers: Readonly<Record<string, HeaderValue>>;
}

/**
 * Injects what `If-Match` says, as a function: `article.version = seen(article)`. It is `ifMatch()` of `@mikro-ool/http`, so
 * it throws a `PreconditionError`, which `LockingModule` answers.
 */
export const IfMatch: () => ParameterDecorator = createParamDecorator(
  (_data: unknown, context: ExecutionContext): Precondition => {
    const { headers } = context.switchToHttp().getRequest<HttpRequest>();
    return (entity) => ifMatch(headers['if-match'], entity);
  },
);

/** Sets the `ETag` of the entity that a handler returns; answers 304 where the reader has got this state already. */
export class ETagInterceptor implements NestInterceptor {
  readonly #host: HttpAdapterHost;

  constructor(host: HttpAdapterHost) {
    this.#host = host;
  }

  /**
   * @param context of the request
   * @param next the handler
   * @returns what the handler returns, or nothing, with a 304
   * @throws {ValidationError} when that is no entity, or has no ETag
   * @throws {PreconditionError} of a GET or HEAD whose `If-Match` it does not match
   */
  intercept(context: ExecutionContext, next: CallHandler<object>): Observable<object | undefined> {
    const http = context.switchToHttp();
    const { method, headers } = http.getRequest<HttpRequest>();
    const [response, adapter] = [http.getResponse<object>(), this.#host.httpAdapter];
    return next.handle().pipe(
      map((entity) => {
        const { tag, isKnown } = tagged(method, (name) => headers[name], entity);
        adapter.setHeader(response, 'etag', tag);
        if (isKnown) {
          adapter.status(response, 304);
          return undefined;
        }
        return entity;
      }),
    );
  }
}
Injectable()(ETagInterceptor);
Inject(HttpAdapterHost)(ETagInterceptor, undefined, 0);

/** For a handler that returns an entity, or a controller of which all do: `ETagInterceptor`. */
export function ETag(): MethodDecorator & ClassDecorator {
  return UseInterceptors(ETagInterceptor);
}

/** What a provider of the options is called. */
const OPTIONS = Symbol('@mikro-ool/http/nestjs');

/** Answers `ConcurrentUpdate`, `PreconditionError` and `InvalidVersion` as `problem()` says. */
export class ProblemFilter implements ExceptionFilter {
  readonly #host: HttpAdapterHost;
  readonly #options: AnswerOptions<HttpRequest>;

  constructor(host: HttpAdapterHost, options: AnswerOptions<HttpRequest> = {}) {
    this.#host = host;
    this.#options = options;
  }

  /**
   * @param error one of these
   * @param host of the request
   */
  catch(error: ConcurrentUpdate | InvalidVersion | PreconditionError, host: ArgumentsHost): void {
    const http = host.switchToHttp();
    const { status, headers, body } = answerTo(error, this.#options, http.getRequest<HttpRequest>())!;
    const [response, adapter] = [http.getResponse<object>(), this.#host.httpAdapter];
    Object.entries(headers).forEach(([name, value]) => adapter.setHeader(response, name, value));
    if (adapter.getType() === 'express') {
      // not by response.json(), which would put a tag of Express's own on it, of the problem and not of the row
      adapter.status(response, status);
      adapter.end(response, JSON.stringify(body));
    } else {
      adapter.reply(response, body, status);
    }
  }
}
Catch(ConcurrentUpdate, InvalidVersion, PreconditionError)(ProblemFilter);
Inject(HttpAdapterHost)(ProblemFilter, undefined, 0);
Optional()(ProblemFilter, undefined, 1);
Inject(OPTIONS)(ProblemFilter, undefined, 1);

/** Import it once, in the application's module: its filter answers for all controllers. Other errors are left alone. */
// oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
export class LockingModule {
  /** @param options what to say otherwise */
  static forRoot(options: AnswerOptions<HttpRequest>): DynamicModule {
    return { module: LockingModule, providers: [{ provide: OPTIONS, useValue: options }] };
  }
}
Module({ providers: [{ provide: APP_FILTER, useClass: ProblemFilter }] })(LockingModule);
