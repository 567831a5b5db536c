/**
 * A registry of npm that has our packed packages and nothing else. Package managers are told to ask it for `@mikro-ool/…`;
 * all other packages come from the registry that they ask anyway.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

/** What a package.json says that a registry repeats. */
export interface Manifest {
  readonly name: string;
  readonly version: string;
}

export interface Packed {
  readonly manifest: Manifest;
  /** The tarball's path. */
  readonly tarball: string;
}

export interface Registry {
  readonly url: string;
  stop(): Promise<void>;
}

export async function startRegistry(packages: readonly Packed[]): Promise<Registry> {
  const server = createServer((request, response) => {
    const path = decodeURIComponent(request.url!).slice(1);
    const [name, isTarball] = path.endsWith('.tgz') ? [path.slice(0, -'.tgz'.length), true] : [path, false];
    const found = packages.find(({ manifest }) => manifest.name === name);
    if (!found) {
      response.writeHead(404).end();
    } else if (isTarball) {
      response.writeHead(200, { 'content-type': 'application/octet-stream' }).end(readFileSync(found.tarball));
    } else {
      const body = describe(found, `http://${request.headers.host}`);
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const stop = async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop };
}

/** The document that describes a package, with the one version that there is. */
function describe({ manifest, tarball }: Packed, url: string) {
  const data = readFileSync(tarball);
  const dist = {
    tarball: `${url}/${manifest.name}.tgz`,
    integrity: `sha512-${createHash('sha512').update(data).digest('base64')}`,
    shasum: createHash('sha1').update(data).digest('hex'),
  };
  return {
    name: manifest.name,
    'dist-tags': { latest: manifest.version },
    versions: { [manifest.version]: { ...manifest, dist } },
    // some package managers want to know how old a version is
    time: { [manifest.version]: '2026-01-01T00:00:00.000Z' },
  };
}
