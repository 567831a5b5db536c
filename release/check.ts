/**
 * `npx pnpm release:check`: would what is published work for others?
 *
 * Packs every package, looks at the tarballs with publint and "Are the types wrong?", and at what npm shows of them; then
 * does what README says, in empty directories, against a registry of our own that has these tarballs: see walk.ts, and
 * service.ts for docs/request-handlers.md.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import { type Package, checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { startPostgres } from '../tools/postgres.ts';
import { type Manifest, type Packed, startRegistry } from './registry.ts';
import { startService } from './service.ts';
import { type Surroundings, walk } from './walk.ts';

/** Beside the oldest that we claim. */
const NODES = ['24', '26'];
const root = new URL('..', import.meta.url).pathname;
const scratch = mkdtempSync(join(tmpdir(), 'mikro-ool-release-'));
let problems = 0;

function run(command: string, args: string[], cwd: string): string {
  return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

function report(name: string, found: readonly string[]): void {
  console.log(
    found.length === 0 ? `ok    ${name}` : `wrong ${name}\n${found.map((text) => `      ${text}`).join('\n')}`,
  );
  problems += found.length;
}

/** What is looked for in a package.json, beside what a registry repeats. */
interface Described extends Manifest {
  readonly engines: { readonly node: string };
  readonly [field: string]: unknown;
}

interface Inspected extends Packed {
  readonly manifest: Described;
  readonly files: Package;
}

function pack(directory: string): Inspected {
  const [packed] = JSON.parse(`[${run('pnpm', ['pack', '--json', '--pack-destination', scratch], directory)}]`) as [
    { filename: string },
  ];
  const tarball = packed.filename;
  const files = createPackageFromTarballData(new Uint8Array(readFileSync(tarball)));
  const prefix = `/node_modules/${files.packageName}`;
  return { tarball, files, manifest: JSON.parse(files.readFile(`${prefix}/package.json`)) as Described };
}

/** `require()` of an ES module is meant: Node does it since 22.12. */
const IGNORED = new Set<string>(['CJSResolvesToESM']);

async function inspect({ tarball, files, manifest }: Inspected): Promise<void> {
  const data = readFileSync(tarball);
  const buffer = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  report(
    `${manifest.name}: publint`,
    messages.map((message) => formatMessage(message, pkg!) ?? message.code),
  );
  const analysis = await checkPackage(files);
  const wrong = analysis.types ? analysis.problems.filter(({ kind }) => !IGNORED.has(kind)) : [{ kind: 'no types' }];
  report(
    `${manifest.name}: types`,
    wrong.map((problem) => JSON.stringify(problem)),
  );
  const fields = ['description', 'keywords', 'homepage', 'repository', 'license', 'engines', 'main', 'types'];
  report(`${manifest.name}: what npm shows`, [
    ...fields.filter((field) => !manifest[field]).map((field) => `package.json has no ${field}`),
    ...['README.md', 'LICENSE'].filter((file) => !files.fileExists(`/node_modules/${manifest.name}/${file}`)),
  ]);
  report(`${manifest.name}: source maps`, danglingSources(files));
}

/** Sources that a source map names, and the tarball lacks. */
function danglingSources(files: Package): string[] {
  return files
    .listFiles()
    .filter((file) => file.endsWith('.map'))
    .flatMap((map) => {
      const { sources } = JSON.parse(files.readFile(map)) as { sources: string[] };
      return sources.map((source) => posix.join(posix.dirname(map), source));
    })
    .filter((source) => !files.fileExists(source));
}

/** Installs a Node; returns the directory that it is in. */
function installNode(version: string): string {
  const directory = join(scratch, `node-${version}`);
  mkdirSync(directory);
  writeFileSync(join(directory, 'package.json'), JSON.stringify({ private: true }));
  run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', `node@${version}`], directory);
  return join(directory, 'node_modules/node/bin');
}

try {
  const packages = readdirSync(join(root, 'packages')).map((name) => pack(join(root, 'packages', name)));
  for (const one of packages) {
    await inspect(one);
  }
  const oldest = `${packages[0]!.manifest.engines.node.replace('>=', '')}.0`;
  const nodes = new Map([oldest, ...NODES].map((version) => [version, installNode(version)]));
  const [registry, postgres] = [await startRegistry(packages), await startPostgres()];
  try {
    const others = run('npm', ['config', 'get', 'registry'], scratch).trim();
    const around: Surroundings = { registry: registry.url, others, nodes, postgres: postgres.url, scratch, report };
    await walk(around);
    await startService(around);
  } finally {
    await Promise.all([registry.stop(), postgres.stop()]);
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.exitCode = problems > 0 ? 1 : 0;
