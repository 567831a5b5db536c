/** A TCP proxy on the loopback interface that cuts connections: after any number of bytes, or instead of the answer to a COMMIT. */
import { once } from 'node:events';
import { type AddressInfo, type Socket, connect, createServer } from 'node:net';

export interface Proxy {
  readonly port: number;
  /** Cuts one of the connections after this many more bytes in one direction; `false`: there is none. */
  cut(which: number, direction: Direction, bytes: number, done: () => void): boolean;
  /** Lets the next COMMIT through, and cuts its connection before the answer. */
  loseCommit(done: () => void): void;
  readonly connections: number;
  stop(): void;
}

type Direction = 'request' | 'answer';

interface Cut {
  readonly direction: Direction;
  left: number;
  readonly done: () => void;
}

class Link {
  readonly #sockets: readonly Socket[];
  cut?: Cut;
  /** The answer to a COMMIT is on its way, and shall not arrive. */
  lost?: () => void;

  constructor(client: Socket, server: Socket) {
    this.#sockets = [client, server];
  }

  get isOpen(): boolean {
    return this.#sockets.every((socket) => !socket.destroyed);
  }

  /** What of this may pass; less than all of it when the connection is cut here. */
  passing(data: Buffer, direction: Direction): Buffer {
    if (direction === 'answer' && this.lost) {
      this.lost();
      return data.subarray(0, 0);
    }
    if (this.cut?.direction !== direction) {
      return data;
    }
    const part = data.subarray(0, this.cut.left);
    this.cut.left -= part.length;
    if (part.length < data.length) {
      this.cut.done();
    }
    return part;
  }

  close(): void {
    this.#sockets.forEach((socket) => socket.destroy());
  }
}

/** @param target whose port may change: new connections go to where it is now */
export async function startProxy(target: { readonly port: number }): Promise<Proxy> {
  const links = new Set<Link>();
  let losing: (() => void)[] = [];
  const server = createServer({ noDelay: true }, (client) => {
    const upstream = connect({ port: target.port, host: '127.0.0.1', noDelay: true });
    const link = new Link(client, upstream);
    links.add(link);
    const forward = (from: Socket, to: Socket, direction: Direction) => {
      from.on('data', (data) => {
        if (direction === 'request' && losing.length > 0 && !link.lost && /\bcommit\b/i.test(data.toString('latin1'))) {
          link.lost = losing.shift()!;
        }
        const part = link.passing(data, direction);
        if (part.length > 0) {
          to.write(part);
        }
        if (part.length < data.length) {
          // what was allowed to pass leaves before the connection goes
          to.end(() => link.close());
          from.destroy();
        }
      });
      from.on('error', () => link.close());
      from.on('close', () => {
        links.delete(link);
        to.end(() => link.close());
      });
    };
    forward(client, upstream, 'request');
    forward(upstream, client, 'answer');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return links.size;
    },
    cut(which, direction, left, done) {
      const open = [...links].filter((link) => link.isOpen && !link.cut);
      if (open.length === 0) {
        return false;
      }
      open[which % open.length]!.cut = { direction, left, done };
      return true;
    },
    loseCommit: (done) => void losing.push(done),
    stop() {
      losing = [];
      server.close();
      links.forEach((link) => link.close());
    },
  };
}
