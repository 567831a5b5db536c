/** On both servers that Nest has. */
import 'reflect-metadata';
import { MikroORM } from '@mikro-orm/core';
import type { HeaderValue } from '@mikro-ool/http';
import { ETag, IfMatch, LockingModule, type Precondition } from '@mikro-ool/http/nestjs';
import {
  type ArgumentsHost,
  Body,
  Catch,
  Controller,
  Delete,
  Get,
  Headers,
  HttpCode,
  HttpException,
  Module,
  Param,
  Patch,
  Post,
  Put,
  Res,
} from '@nestjs/common';
import { APP_FILTER, BaseExceptionFilter, NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { inLanguage, serve, statusOf } from '../frameworks/articles.ts';
import { contract } from '../frameworks/contract.ts';

type Asked = Record<string, HeaderValue>;

/** As much of a response as Express and Fastify have in common. */
interface Reply {
  status(code: number): this;
  header(name: string, value: string): this;
  send(body: string): unknown;
}

@Controller('articles/:id')
class ArticleController {
  readonly #orm: MikroORM;

  constructor(orm: MikroORM) {
    this.#orm = orm;
  }

  @Get()
  @ETag()
  async read(@Param('id') id: string, @Headers() headers: Asked, @IfMatch() seen: Precondition): Promise<object> {
    return this.#entity('GET', id, headers, seen, undefined);
  }

  @Put()
  @ETag()
  async change(
    @Param('id') id: string,
    @Headers() headers: Asked,
    @IfMatch() seen: Precondition,
    @Body() body: object,
  ): Promise<object> {
    return this.#entity('PUT', id, headers, seen, body);
  }

  @Patch()
  @ETag()
  async claim(
    @Param('id') id: string,
    @Headers() headers: Asked,
    @IfMatch() seen: Precondition,
    @Body() body: object,
  ): Promise<object> {
    return this.#entity('PATCH', id, headers, seen, body);
  }

  @Delete()
  @HttpCode(204)
  async remove(@Param('id') id: string, @Headers() headers: Asked, @IfMatch() seen: Precondition): Promise<void> {
    await serve(this.#orm, { method: 'DELETE', id: Number(id), headers, body: undefined, seen });
  }

  @Post()
  async many(@Headers() headers: Asked, @IfMatch() seen: Precondition, @Res() response: Reply): Promise<void> {
    const answer = await serve(this.#orm, { method: 'POST', id: 0, headers, body: undefined, seen });
    const { partly } = answer as Extract<typeof answer, { partly: unknown }>;
    Object.entries(partly.headers).forEach(([name, value]) => response.header(name, value));
    response.status(partly.status).send(JSON.stringify(partly.body));
  }

  async #entity(method: string, id: string, headers: Asked, seen: Precondition, body: unknown): Promise<object> {
    const answer = await serve(this.#orm, { method, id: Number(id), headers, body, seen });
    return (answer as Extract<typeof answer, { article: object }>).article;
  }
}

@Catch()
class OtherErrors extends BaseExceptionFilter {
  override catch(error: unknown, host: ArgumentsHost): void {
    super.catch(error instanceof HttpException ? error : new HttpException('', statusOf(error)), host);
  }
}

for (const [server, Adapter] of [
  ['Express', ExpressAdapter],
  ['Fastify', FastifyAdapter],
] as const) {
  contract(`NestJS on ${server}`, async (orm: MikroORM) => {
    @Module({
      imports: [LockingModule.forRoot({ detail: (body, { headers }) => inLanguage(body, headers['accept-language']) })],
      controllers: [ArticleController],
      providers: [
        { provide: MikroORM, useValue: orm },
        { provide: APP_FILTER, useClass: OtherErrors },
      ],
    })
    // oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
    class AppModule {}

    const app = await NestFactory.create(AppModule, new Adapter(), { logger: false });
    // or Express tags the 207 by itself
    app.getHttpAdapter().getInstance().set?.('etag', false);
    await app.listen(0, '127.0.0.1');
    return { url: await app.getUrl(), close: () => app.close() };
  });
}
