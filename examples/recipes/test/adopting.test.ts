/**
 * Applications on Fastify and Express as MikroORM's own documentation has them, with `version: true` and a RequestContext:
 * they start and answer the same when the driver is wrapped.
 */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import {
  EntityManager as CoreEntityManager,
  MikroORM,
  NotFoundError,
  OptimisticLockError,
  RequestContext,
  defineEntity,
  p,
  wrap,
} from '@mikro-orm/core';
import { EntityManager, EntityRepository, SqliteDriver } from '@mikro-orm/sqlite';
import { versioned } from '@mikro-ool/driver';
import express, { type ErrorRequestHandler } from 'express';
import Fastify from 'fastify';
import { expect, test } from 'vitest';

const Account = defineEntity({
  name: 'Account',
  properties: {
    id: p.integer().primary(),
    owner: p.string(),
    balance: p.integer().default(0),
    version: p.integer().version(),
  },
});

async function initServices(driver: typeof SqliteDriver) {
  const orm = await MikroORM.init({ driver, dbName: ':memory:', entities: [Account] });
  await orm.schema.create();
  return { orm, em: orm.em, accounts: orm.em.getRepository(Account) };
}
type Services = Awaited<ReturnType<typeof initServices>>;

/** What the handlers of both do. */
const handlers = ({ em, accounts }: Services) => ({
  all: () => accounts.find({}, { orderBy: { id: 1 } }),
  async create(body: { id: number; owner: string }) {
    const account = accounts.create(body);
    await em.flush();
    return account;
  },
  async change(id: number, body: object) {
    const account = await accounts.findOneOrFail(id);
    wrap(account).assign(body);
    await em.flush();
    return account;
  },
  async transfer(from: number, to: number) {
    await em.transactional(async () => {
      (await accounts.findOneOrFail(from)).balance--;
      (await accounts.findOneOrFail(to)).balance++;
    });
    return { done: true };
  },
});

const statusOf = (error: unknown) =>
  error instanceof OptimisticLockError ? 409 : error instanceof NotFoundError ? 404 : 500;

async function onFastify(services: Services) {
  const app = Fastify();
  const { all, create, change, transfer } = handlers(services);
  app.addHook('onRequest', (_request, _reply, done) => RequestContext.create(services.em, done));
  app.addHook('onClose', async () => services.orm.close());
  app.setErrorHandler((error, _request, reply) => reply.code(statusOf(error)).send({}));
  app.get('/accounts', all);
  app.post('/accounts', ({ body }) => create(body as never));
  app.put<{ Params: { id: string } }>('/accounts/:id', ({ params, body }) => change(Number(params.id), body as object));
  app.post<{ Params: { from: string; to: string } }>('/transfers/:from/:to', ({ params }) =>
    transfer(Number(params.from), Number(params.to)),
  );
  return { url: await app.listen({ host: '127.0.0.1', port: 0 }), close: () => app.close() };
}

async function onExpress(services: Services) {
  const app = express();
  const { all, create, change, transfer } = handlers(services);
  app.use(express.json());
  app.use((_req, _res, next) => RequestContext.create(services.em, next));
  app.get('/accounts', async (_req, res) => void res.json(await all()));
  app.post('/accounts', async (req, res) => void res.json(await create(req.body)));
  app.put('/accounts/:id', async (req, res) => void res.json(await change(Number(req.params.id), req.body)));
  app.post('/transfers/:from/:to', async (req, res) => {
    res.json(await transfer(Number(req.params.from), Number(req.params.to)));
  });
  const answer: ErrorRequestHandler = (error, _req, res, _next) => void res.status(statusOf(error)).json({});
  app.use(answer);
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await services.orm.close();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}

type Start = (services: Services) => Promise<{ url: string; close: () => Promise<unknown> }>;

async function run(driver: typeof SqliteDriver, start: Start) {
  const services = await initServices(driver);
  const { url, close } = await start(services);
  const ask = async (method: string, path: string, body: object = {}) => {
    const headers = { 'content-type': 'application/json' };
    const sent = method === 'GET' ? {} : { headers, body: JSON.stringify(body) };
    const response = await fetch(`${url}/${path}`, { method, ...sent });
    return [response.status, await response.json()];
  };
  const answers = [
    await ask('POST', 'accounts', { id: 1, owner: 'ann' }),
    await ask('POST', 'accounts', { id: 2, owner: 'bob' }),
    await ask('PUT', 'accounts/1', { owner: 'zoe' }),
    await ask('PUT', 'accounts/1', { owner: 'late', version: 1 }),
    await ask('PUT', 'accounts/7', { owner: 'nobody' }),
    await ask('POST', 'transfers/1/2'),
    await ask('POST', 'transfers/1/9'),
    await ask('GET', 'accounts'),
  ];
  const { em, orm, accounts } = services;
  const classes = [em.constructor, em.fork().constructor, accounts.constructor, orm.driver.constructor.name];
  const isOne = em instanceof EntityManager && em instanceof CoreEntityManager && accounts instanceof EntityRepository;
  await close();
  return { answers, classes, isOne };
}

for (const start of [onFastify, onExpress]) {
  test(`${start.name}: the same answers with the driver wrapped`, async () => {
    const plain = await run(SqliteDriver, start);
    expect(await run(versioned(SqliteDriver), start)).toEqual(plain);
    expect(plain.answers.map(([status]) => status as number)).toEqual([200, 200, 200, 409, 404, 200, 404, 200]);
    expect([plain.isOne, plain.classes[0]]).toEqual([true, EntityManager]);
  });
}
