/** A TCP proxy on the loopback interface that holds everything back for a while, in its own thread. */
import { once } from 'node:events';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';

interface Route {
  readonly port: number;
  /** Milliseconds in each direction. */
  readonly delay: number;
}

/** Returns the URL that leads through the proxy. */
export async function startProxy(url: string, delay: number): Promise<{ url: string; stop(): Promise<void> }> {
  const through = new URL(url);
  const worker = new Worker(new URL(import.meta.url), { workerData: { port: Number(through.port), delay } });
  const [port] = (await once(worker, 'message')) as [number];
  through.port = String(port);
  return { url: through.href, stop: async () => void (await worker.terminate()) };
}

function forward(from: Socket, to: Socket, delay: number): void {
  from.on('data', (data) => setTimeout(() => to.writable && to.write(data), delay));
  from.on('close', () => setTimeout(() => to.destroy(), delay));
  from.on('error', () => to.destroy());
}

if (!isMainThread) {
  const { port, delay } = workerData as Route;
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ port, host: '127.0.0.1', noDelay: true });
    forward(client, upstream, delay);
    forward(upstream, client, delay);
  });
  server.listen(0, '127.0.0.1', () => parentPort!.postMessage((server.address() as AddressInfo).port));
}
