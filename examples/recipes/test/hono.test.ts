import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { MikroORM } from '@mikro-orm/core';
import { serve } from '@hono/node-server';
import { createApp } from '../hono.ts';
import { suite } from './suite.ts';

suite(async (options) => {
  const orm = await MikroORM.init(options);
  const server = serve({ fetch: createApp(orm).fetch, hostname: '127.0.0.1', port: 0 }) as Server;
  await once(server, 'listening');
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { orm, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
});
