/**
 * This workspace with another MikroORM: a copy of it in a temporary directory, with another catalog. A workspace holds one
 * `@mikro-orm/core`, and not every driver is released with it; so each driver is run with the core that it was made for.
 */
import { execFile, spawnSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Outcome } from './counts.ts';

const ROOT = dirname(import.meta.dirname);
const SETTINGS = 'pnpm-workspace.yaml';
const CATALOG_LINE = /^ {2}'(@mikro-orm\/[\w-]+)': (.*)$/gm;

/** Version by package, of all the packages of MikroORM that the workspace uses. */
export type Versions = ReadonlyMap<string, string>;

/** What the workspace itself runs on. */
export function ownVersions(): Versions {
  const catalog = readFileSync(join(ROOT, SETTINGS), 'utf8').matchAll(CATALOG_LINE);
  return new Map([...catalog].map(([, name, version]) => [name!, version!]));
}

/** Each package in the newest version that it has up to this one. */
export async function versionsUpTo(limit: string): Promise<Versions> {
  const newest = async (name: string): Promise<[string, string]> => {
    const answer = await promisify(execFile)('npm', ['view', name, 'versions', '--json']);
    const released = (JSON.parse(answer.stdout) as string[]).filter((version) => isRelease(version));
    const [version] = released.filter((one) => compare(one, limit) <= 0).toSorted((a, b) => compare(b, a));
    if (!version) {
      throw new Error(`${name} has no version up to ${limit}.`);
    }
    return [name, version];
  };
  return new Map(await Promise.all([...ownVersions().keys()].map(newest)));
}

export function isRelease(version: string): boolean {
  return /^\d+\.\d+\.\d+$/.test(version);
}

function compare(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number));
  const i = left!.findIndex((number, index) => number !== right![index]);
  return i < 0 ? 0 : left![i]! - right![i]!;
}

/**
 * Copies what git knows of the workspace, uncommitted changes too, and installs it.
 * Drivers that are older than the core are there for the files that import them, on the core's `@mikro-orm/sql`.
 */
export function copyWorkspace(versions: Versions): string {
  const copy = mkdtempSync(join(tmpdir(), 'mikro-ool-compat-'));
  chmodSync(copy, 0o755); // run as root, the tests' PostgreSQL becomes another user
  const files = output('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard']).split('\0');
  const deleted = new Set(output('git', ['ls-files', '-z', '--deleted']).split('\0'));
  for (const file of files.filter((name) => name && !deleted.has(name))) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(join(ROOT, file), join(copy, file));
  }
  const catalog = readFileSync(join(ROOT, SETTINGS), 'utf8').replace(
    CATALOG_LINE,
    (_, name: string) => `  '${name}': ${versions.get(name)}`,
  );
  const one = ['core', 'sql'].map((name) => `  '@mikro-orm/${name}': ${versions.get(`@mikro-orm/${name}`)}`);
  writeFileSync(join(copy, SETTINGS), `${catalog}\noverrides:\n${one.join('\n')}\n`);
  rmSync(join(copy, 'pnpm-lock.yaml'), { force: true });
  pnpm(copy, ['install', '--prefer-offline', '--no-frozen-lockfile', '--reporter=silent']);
  return copy;
}

function output(command: string, args: string[]): string {
  return spawnSync(command, args, { cwd: ROOT, encoding: 'utf8', maxBuffer: 2 ** 26 }).stdout;
}

/** Runs pnpm in a workspace, with its output on ours. Returns the exit code. */
export function pnpm(directory: string, args: string[], env: NodeJS.ProcessEnv = {}): number {
  const { status } = spawnSync('npx', ['--yes', 'pnpm', ...args], {
    cwd: directory,
    stdio: 'inherit',
    // MikroORM's command line has not been released with every core, and refuses another one
    env: { ...process.env, MIKRO_ORM_ALLOW_VERSION_MISMATCH: '1', ...env },
  });
  return status ?? 1;
}

/** Runs tests in a workspace. Returns how each of them ended. */
export function runTests(directory: string, args: string[]): Outcome[] {
  const file = join(mkdtempSync(join(tmpdir(), 'mikro-ool-counts-')), 'outcomes.json');
  const reporters = ['--reporter=default', `--reporter=${join(directory, 'tools/counts.ts')}`];
  pnpm(directory, ['exec', 'vitest', 'run', ...args, ...reporters], { COUNTS_FILE: file });
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Outcome[];
  } finally {
    rmSync(dirname(file), { recursive: true });
  }
}
