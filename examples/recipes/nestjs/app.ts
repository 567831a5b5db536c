/** NestJS: `@mikro-orm/nestjs` as ever, and an exception filter that answers for all controllers; here on Express. */
import 'reflect-metadata';
import { NotFoundError } from '@mikro-orm/core';
import { Transactional } from '@mikro-orm/decorators/legacy';
import { InjectRepository, MikroOrmModule, type MikroOrmModuleSyncOptions } from '@mikro-orm/nestjs';
import { EntityManager, EntityRepository } from '@mikro-orm/sqlite';
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
  Injectable,
  Module,
  NotFoundException,
  Param,
  Put,
  Res,
} from '@nestjs/common';
import { APP_FILTER, BaseExceptionFilter } from '@nestjs/core';
import type { Response } from 'express';
import { type Article, ArticleSchema, changesIn, idIn } from '../article.ts';

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

/** What the application does, with what `@mikro-orm/nestjs` injects: the EntityManager of the request. */
@Injectable()
export class ArticleService {
  readonly em: EntityManager;
  readonly #articles: EntityRepository<Article>;

  constructor(em: EntityManager, @InjectRepository(ArticleSchema) articles: EntityRepository<Article>) {
    this.em = em;
    this.#articles = articles;
  }

  async read(id: number): Promise<Article> {
    return this.#articles.findOneOrFail(id);
  }

  /** Flushed by its COMMIT. */
  @Transactional()
  async change(id: number, header: string | undefined, changes: Partial<Article>): Promise<Article> {
    const article = await this.#articles.findOneOrFail(id);
    article.version = ifMatch(header, article);
    return this.#articles.assign(article, changes);
  }

  async remove(id: number, header: string | undefined): Promise<void> {
    const article = this.#articles.getReference(id); // no read
    article.version = ifMatch(header, article);
    await this.em.remove(article).flush();
  }
}

@Controller('articles')
export class ArticleController {
  readonly #service: ArticleService;

  constructor(service: ArticleService) {
    this.#service = service;
  }

  @Get(':id')
  async read(
    @Param('id') id: string,
    @Headers('if-none-match') header: string | undefined,
    @Res({ passthrough: true }) response: Response,
  ): Promise<object | undefined> {
    const article = await this.#service.read(idIn(id));
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
    const changes = changesIn(body);
    if (!changes) {
      throw new BadRequestException();
    }
    const article = await this.#service.change(idIn(id), header, changes);
    response.set('etag', etag(article));
    return article;
  }

  @Delete(':id')
  @HttpCode(HttpStatus.NO_CONTENT)
  async remove(@Param('id') id: string, @Headers('if-match') header: string | undefined): Promise<void> {
    await this.#service.remove(idIn(id), header);
  }
}

@Module({})
// oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
export class AppModule {
  /** @param config for MikroORM, with `driver: versioned(SqliteDriver)` */
  static with(config: MikroOrmModuleSyncOptions): DynamicModule {
    return {
      module: AppModule,
      imports: [MikroOrmModule.forRoot(config), MikroOrmModule.forFeature([ArticleSchema])],
      controllers: [ArticleController],
      providers: [ArticleService, { provide: APP_FILTER, useClass: ProblemFilter }],
    };
  }
}
