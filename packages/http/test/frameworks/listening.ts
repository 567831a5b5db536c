/** A server of Node, on a free port of 127.0.0.1. */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Started } from './contract.ts';

/** @param server that begins to listen on it */
export async function listening(server: Server): Promise<Started> {
  if (!server.listening) {
    await once(server, 'listening');
  }
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close };
}
