/** An application as the documentation of `@mikro-orm/nestjs` has it: it starts and answers the same when the driver is wrapped. */
import 'reflect-metadata';
import { EntityManager as CoreEntityManager, MikroORM, type Opt, OptimisticLockError } from '@mikro-orm/core';
import { Entity, EnsureRequestContext, PrimaryKey, Property, Transactional } from '@mikro-orm/decorators/legacy';
import { InjectRepository, MikroOrmModule, getRepositoryToken } from '@mikro-orm/nestjs';
import { EntityManager, EntityRepository, SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import {
  Body,
  ConflictException,
  Controller,
  Get,
  Injectable,
  Module,
  Param,
  ParseIntPipe,
  Post,
  Put,
  Scope,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { expect, test } from 'vitest';

@Entity()
class Account {
  @PrimaryKey({ type: 'integer' })
  id!: number;

  @Property({ type: 'string' })
  owner!: string;

  @Property({ type: 'integer' })
  balance: number & Opt = 0;

  @Property({ version: true, type: 'integer' })
  version!: number & Opt;
}

@Injectable()
class AccountService {
  readonly orm: MikroORM;
  readonly em: EntityManager;
  readonly core: CoreEntityManager;
  readonly accounts: EntityRepository<Account>;

  constructor(
    orm: MikroORM,
    em: EntityManager,
    core: CoreEntityManager,
    @InjectRepository(Account) accounts: EntityRepository<Account>,
  ) {
    this.orm = orm;
    this.em = em;
    this.core = core;
    this.accounts = accounts;
  }

  @Transactional()
  async transfer(from: number, to: number, amount: number): Promise<void> {
    const [payer, payee] = await Promise.all([this.accounts.findOneOrFail(from), this.accounts.findOneOrFail(to)]);
    payer.balance -= amount;
    payee.balance += amount;
    await this.em.flush();
    if (payer.balance < 0) {
      throw new ConflictException('not enough');
    }
  }

  async rename(id: number, owner: string, version: number): Promise<Account> {
    const account = await this.accounts.findOneOrFail(id, { lockMode: 1, lockVersion: version });
    account.owner = owner;
    await this.core.flush();
    return account;
  }

  /** Called outside of a request, by a timer for instance. */
  @EnsureRequestContext()
  async count(): Promise<number> {
    return this.em.count(Account);
  }
}

/** With a fork of its own for each request. */
@Injectable({ scope: Scope.REQUEST })
class Auditor {
  readonly #em: EntityManager;

  constructor(em: EntityManager) {
    this.#em = em;
  }

  async sum(): Promise<number> {
    const accounts = await this.#em.createQueryBuilder(Account).select('*').getResult();
    return accounts.reduce((sum, account) => sum + account.balance, 0);
  }
}

@Controller()
class AccountController {
  readonly #service: AccountService;
  readonly #auditor: Auditor;

  constructor(service: AccountService, auditor: Auditor) {
    this.#service = service;
    this.#auditor = auditor;
  }

  @Get('accounts')
  all(): Promise<Account[]> {
    return this.#service.accounts.findAll({ orderBy: { id: 1 } });
  }

  @Get('sum')
  async sum(): Promise<object> {
    return { sum: await this.#auditor.sum() };
  }

  @Post('accounts')
  async create(@Body() body: { id: number; owner: string; balance: number }): Promise<Account> {
    const account = this.#service.em.create(Account, body);
    await this.#service.em.flush();
    return account;
  }

  @Post('transfers')
  async transfer(@Body() body: { from: number; to: number; amount: number }): Promise<object> {
    await this.#service.transfer(body.from, body.to, body.amount);
    return { done: true };
  }

  @Put('accounts/:id')
  async rename(
    @Param('id', ParseIntPipe) id: number,
    @Body() body: { owner: string; version: number },
  ): Promise<Account> {
    return this.#service.rename(id, body.owner, body.version).catch((error: unknown) => {
      throw error instanceof OptimisticLockError ? new ConflictException() : error;
    });
  }
}

async function run(driver: typeof SqliteDriver, how: 'forRoot' | 'forRootAsync') {
  const config = { driver, dbName: ':memory:', autoLoadEntities: true } as const;
  const root =
    how === 'forRoot'
      ? MikroOrmModule.forRoot(config)
      : MikroOrmModule.forRootAsync({ driver, useFactory: () => ({ ...config }) });
  @Module({
    imports: [root, MikroOrmModule.forFeature([Account])],
    controllers: [AccountController],
    providers: [AccountService, Auditor],
  })
  // oxlint-disable-next-line typescript/no-extraneous-class -- a module is a class
  class AppModule {}
  const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
  await app.listen(0, '127.0.0.1');
  const orm = app.get<MikroORM>(MikroORM);
  await orm.schema.create();
  const url = await app.getUrl();
  const answers: unknown[] = [];
  const ask = async (method: string, path: string, body?: object) => {
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(`${url}/${path}`, { method, headers, body: body && JSON.stringify(body) });
    answers.push([response.status, await response.json()]);
  };
  await ask('POST', 'accounts', { id: 1, owner: 'ann', balance: 10 });
  await ask('POST', 'accounts', { id: 2, owner: 'bob', balance: 0 });
  await ask('POST', 'transfers', { from: 1, to: 2, amount: 4 });
  await ask('POST', 'transfers', { from: 1, to: 2, amount: 40 });
  await ask('GET', 'accounts');
  await ask('PUT', 'accounts/1', { owner: 'zoe', version: 2 });
  await ask('PUT', 'accounts/1', { owner: 'late', version: 2 });
  await ask('PUT', 'accounts/7', { owner: 'nobody', version: 2 });
  await ask('GET', 'sum');
  await Promise.all(
    [1, 1, 1, 1].map((amount) =>
      fetch(`${url}/transfers`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ from: 2, to: 1, amount }),
      }),
    ),
  );
  await ask('GET', 'sum');
  answers.push(await app.get(AccountService).count());
  const repository = app.get<EntityRepository<Account>>(getRepositoryToken(Account));
  const classes = [orm.em.constructor, repository.getEntityManager().constructor, orm.driver.constructor.name];
  await app.close();
  return { answers, classes };
}

for (const how of ['forRoot', 'forRootAsync'] as const) {
  test(`${how}: the same answers with the driver wrapped`, async () => {
    const plain = await run(SqliteDriver, how);
    const wrapped = await run(versioned(SqliteDriver), how);
    expect(wrapped).toEqual(plain);
    expect(plain.classes).toEqual([EntityManager, EntityManager, 'SqliteDriver']);
    expect(plain.answers.map((answer) => (Array.isArray(answer) ? answer[0] : answer))).toEqual([
      201, 201, 201, 409, 200, 200, 409, 500, 200, 200, 2,
    ]);
  });
}
