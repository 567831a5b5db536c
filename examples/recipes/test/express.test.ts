import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { MikroORM } from '@mikro-orm/core';
import { createApp } from '../express.ts';
import { suite } from './suite.ts';

suite(async (options) => {
  const orm = await MikroORM.init(options);
  const server = createApp(orm).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { orm, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
});
