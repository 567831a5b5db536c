/** What the proxy lets pass, and what not. */
import { once } from 'node:events';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';
import { expect, onTestFinished, test } from 'vitest';
import { startProxy } from '../proxy.ts';

/** Where the proxy goes, a property that may change. */
interface Address {
  port: number;
}

/** A server that answers everything with the same in capitals, behind a proxy. */
async function open() {
  const received: string[] = [];
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', (data) => {
      received.push(String(data));
      socket.write(String(data).toUpperCase());
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address: Address = { port: (server.address() as AddressInfo).port };
  const proxy = await startProxy(address);
  const client = connect(proxy.port, '127.0.0.1');
  client.on('error', () => {});
  await once(client, 'connect');
  onTestFinished(() => {
    client.destroy();
    proxy.stop();
    server.close();
  });
  return { address, proxy, client, received };
}

async function ask(client: Socket, text: string): Promise<string> {
  client.write(text);
  return String((await once(client, 'data'))[0]);
}

/** All that arrives until the connection is gone. */
async function askForTheLastTime(client: Socket, text: string): Promise<string> {
  let answer = '';
  client.on('data', (data) => (answer += String(data)));
  client.write(text);
  await once(client, 'close');
  return answer;
}

test('passes everything on', async () => {
  const { client, proxy } = await open();
  expect(await ask(client, 'begin')).toBe('BEGIN');
  expect(await ask(client, 'commit')).toBe('COMMIT');
  expect(proxy.connections).toBe(1);
});

test('goes where the server is now, with what connects from now on', async () => {
  const { address, proxy, client } = await open();
  const other = await open();
  address.port = other.address.port;
  const later = connect(proxy.port, '127.0.0.1');
  onTestFinished(() => void later.destroy());
  expect(await ask(later, 'new')).toBe('NEW');
  expect(await ask(client, 'old')).toBe('OLD');
  expect(other.received).toEqual(['new']);
});

test('cuts a request after some bytes', async () => {
  const { proxy, client, received } = await open();
  await ask(client, 'hello');
  let cuts = 0;
  expect(proxy.cut(0, 'request', 6, () => cuts++)).toBe(true);
  expect(await ask(client, 'abcd')).toBe('ABCD');
  expect(cuts).toBe(0);
  await askForTheLastTime(client, 'efgh');
  expect(cuts).toBe(1);
  expect('abcdef'.startsWith(received.slice(1).join(''))).toBe(true);
  await expect.poll(() => proxy.connections).toBe(0);
  expect(proxy.cut(0, 'request', 6, () => cuts++)).toBe(false);
});

test('cuts an answer after some bytes', async () => {
  const { proxy, client, received } = await open();
  await ask(client, 'hello');
  let cuts = 0;
  proxy.cut(0, 'answer', 2, () => cuts++);
  expect('AB'.startsWith(await askForTheLastTime(client, 'abcd'))).toBe(true);
  expect({ cuts, received }).toEqual({ cuts: 1, received: ['hello', 'abcd'] });
});

test('loses the answer to a COMMIT that has arrived', async () => {
  const { proxy, client, received } = await open();
  let losses = 0;
  proxy.loseCommit(() => losses++);
  expect(await ask(client, 'begin')).toBe('BEGIN');
  expect(losses).toBe(0);
  expect(await askForTheLastTime(client, 'commit')).toBe('');
  expect({ losses, received }).toEqual({ losses: 1, received: ['begin', 'commit'] });
});
