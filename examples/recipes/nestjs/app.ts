/** NestJS: an exception filter answers for all controllers; here on Express. */
import 'reflect-metadata';
import { MikroORM, NotFoundError } from '@mikro-orm/core';
import { etag, ifMatch, notModified, problem } from '@mikro-ool/http';
import {
  type ArgumentsHost,
  BadRequestException,
  Body,
  Catch,
  Controller,
  Delete,
  type DynamicModule,
  Get,
  Headers,
  HttpCode,
  HttpStatus,
  Inject,
  Module,
  NotFoundException,
  Param,
  Put,
  Res,
} from '@nestjs/common';
import { APP_FILTER, BaseExceptionFilter } from '@nestjs/core';
import type { Response } from 'express';
import { ArticleSchema, changesIn, idIn } from '../article.ts';

@Catch()
export class ProblemFilter extends BaseExceptionFilter {
  override catch(error: unknown, host: ArgumentsHost): void {
    const answer = problem(error);
    if (answer) {
      host.switchToHttp().getResponse<Response>().status(answer.status).set(answer.headers).json(answer.body);
    } else {
      super.catch(error instanceof NotFoundError ? new NotFoundException() : error, host);
    }
  }
}

@Controller('articles')
export class ArticleController {
  readonly #orm: MikroORM;

  constructor(@Inject(MikroORM) orm: MikroORM) {
    this.#orm = orm;
  }

  @Get(':id')
  async read(
    @Param('id') id: string,
    @Headers('if-none-match') header: string | undefined,
    @Res({ passthrough: true }) response: Response,
  ): Promise<object | undefined> {
    const article = await this.#orm.em.fork().findOneOrFail(ArticleSchema, idIn(id));
    response.set('etag', etag(article));
    if (notModified(header, article)) {
      response.status(HttpStatus.NOT_MODIFIED);
      return undefined;
    }
    return article;
  }

  @Put(':id')
  async change(
    @Param('id') id: string,
    @Headers('if-match') header: string | undefined,
    @Body() body: unknown,
    @Res({ passthrough: true }) response: Response,
  ): Promise<object> {
    const em = this.#orm.em.fork();
    const changes = changesIn(body);
    if (!changes) {
      throw new BadRequestException();
    }
    const article = await em.findOneOrFail(ArticleSchema, idIn(id));
    article.version = ifMatch(header, article);
    em.assign(article, changes);
    await em.flush();
    response.set('etag', etag(article));
    return article;
  }

  @Delete(':id')
  @HttpCode(HttpStatus.NO_CONTENT)
  async remove(@Param('id') id: string, @Headers('if-match') header: string | undefined): Promise<void> {
    const em = this.#orm.em.fork();
    const article = em.getReference(ArticleSchema, idIn(id)); // no read
    article.version = ifMatch(header, article);
    em.remove(article);
    await em.flush();
  }
}

@Module({})
// oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
export class AppModule {
  /** `@mikro-orm/nestjs` provides the ORM in an application. */
  static with(orm: MikroORM): DynamicModule {
    return {
      module: AppModule,
      controllers: [ArticleController],
      providers: [
        { provide: MikroORM, useValue: orm },
        { provide: APP_FILTER, useClass: ProblemFilter },
      ],
    };
  }
}
