/**
 * The service of docs/request-handlers.md: installed, saved and started as that page says, under each Node that it is given.
 * What it answers is tested elsewhere; here it is whether it comes up, of what is published.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { freePort } from '../tools/postgres.ts';
import { type Surroundings, run } from './walk.ts';

export async function startService({ registry, nodes, scratch, report }: Surroundings): Promise<void> {
  const page = readFileSync(new URL('../docs/request-handlers.md', import.meta.url), 'utf8');
  const [, install] = page.match(/^ {4}(npm install -E .*)$/m)!;
  const [, file, command, first, older] = page.match(
    /Save it as `(.*?)`, and start it with `(.*?)` \(before Node ([\d.]+), `(.*?)`\)/,
  )!;
  const [, program] = page.match(/```ts\n(.*?)```/s)!;
  const directory = join(scratch, 'service');
  mkdirSync(directory);
  writeFileSync(join(directory, '.npmrc'), `@mikro-ool:registry=${registry}\n`);
  const { failed, all } = await run(install!.split(' '), directory, {});
  report('request-handlers.md: install', failed ? [all] : []);
  for (const [version, bin] of nodes) {
    const port = String(await freePort());
    writeFileSync(join(directory, file!), program!.replace('3000', port));
    const how = isBefore(version, first!) ? older! : command!;
    const problems = await answers(how, directory, bin, `http://localhost:${port}/articles/1`);
    report(`request-handlers.md: ${how} under Node ${version}`, problems);
  }
}

/** Starts a command, asks until somebody answers or the command has ended, and ends it; what is wrong. */
async function answers(command: string, cwd: string, bin: string, url: string): Promise<string[]> {
  const [program, ...args] = command.split(' ');
  const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };
  const service = spawn(program!, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = once(service, 'close');
  const said: string[] = [];
  service.stdout.on('data', (chunk) => said.push(String(chunk)));
  service.stderr.on('data', (chunk) => said.push(String(chunk)));
  let etag: string | null | undefined;
  while (service.exitCode === null && etag === undefined) {
    await setTimeout(100);
    etag = await fetch(url).then(
      ({ headers }) => headers.get('etag'),
      () => undefined,
    );
  }
  service.kill();
  await ended;
  return etag === '"Article/1/1"' ? [] : [`${command}: the ETag is ${etag}\n${said.join('')}`];
}

function isBefore(version: string, other: string): boolean {
  const [[major, minor = 0], [otherMajor, otherMinor = 0]] = [version, other].map((text) =>
    text.split('.').map(Number),
  ) as [number[], number[]];
  return major! < otherMajor! || (major === otherMajor && minor < otherMinor);
}
