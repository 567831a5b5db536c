/** NestJS: `@mikro-orm/nestjs` as ever, and `LockingModule`; on Express or Fastify. */
import 'reflect-metadata';
import { Transactional } from '@mikro-orm/decorators/legacy';
import { InjectRepository, MikroOrmModule, type MikroOrmModuleSyncOptions } from '@mikro-orm/nestjs';
import { EntityManager, EntityRepository } from '@mikro-orm/sqlite';
import { ETag, IfMatch, LockingModule, type Precondition } from '@mikro-ool/http/nestjs';
import {
  BadRequestException,
  Body,
  Controller,
  Delete,
  type DynamicModule,
  Get,
  HttpCode,
  HttpStatus,
  Injectable,
  Module,
  NotFoundException,
  Param,
  Put,
} from '@nestjs/common';
import { type Article, ArticleSchema, changesIn, idIn } from '../article.ts';

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
    return this.#articles.findOneOrFail(id, { failHandler: () => new NotFoundException() });
  }

  /** Flushed by its COMMIT. */
  @Transactional()
  async change(id: number, body: unknown, seen: Precondition): Promise<Article> {
    const changes = changesIn(body);
    if (!changes) {
      throw new BadRequestException();
    }
    const article = await this.read(id);
    article.version = seen(article);
    return this.#articles.assign(article, changes);
  }

  async remove(id: number, seen: Precondition): Promise<void> {
    const article = this.#articles.getReference(id); // no read
    article.version = seen(article);
    await this.em.remove(article).flush();
  }
}

@Controller('articles/:id')
export class ArticleController {
  readonly #service: ArticleService;

  constructor(service: ArticleService) {
    this.#service = service;
  }

  @Get()
  @ETag()
  read(@Param('id') id: string): Promise<Article> {
    return this.#service.read(idIn(id));
  }

  @Put()
  @ETag()
  change(@Param('id') id: string, @IfMatch() seen: Precondition, @Body() body: unknown): Promise<Article> {
    return this.#service.change(idIn(id), body, seen);
  }

  @Delete()
  @HttpCode(HttpStatus.NO_CONTENT)
  remove(@Param('id') id: string, @IfMatch() seen: Precondition): Promise<void> {
    return this.#service.remove(idIn(id), seen);
  }
}

@Module({})
// oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
export class AppModule {
  /** @param config for MikroORM, with `driver: versioned(SqliteDriver)` */
  static with(config: MikroOrmModuleSyncOptions): DynamicModule {
    return {
      module: AppModule,
      imports: [LockingModule, MikroOrmModule.forRoot(config), MikroOrmModule.forFeature([ArticleSchema])],
      controllers: [ArticleController],
      providers: [ArticleService],
    };
  }
}
