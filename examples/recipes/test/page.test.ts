/** What docs/request-handlers.md shows is what happens: its service is started as it stands, its curl lines are sent. */
import { execFile, spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { freePort } from '../../../tools/postgres.ts';

const page = readFileSync(join(import.meta.dirname, '../../../docs/request-handlers.md'), 'utf8');

test('the service of the page answers its curl lines as the page says', async () => {
  const port = String(await freePort());
  const program = page.match(/```ts\n(.*?)```/s)![1]!.replace('3000', port);
  expect(program.trim().split('\n').length).toBeLessThanOrEqual(38);
  const file = join(import.meta.dirname, `page-program-${process.pid}.ts`);
  writeFileSync(file, program);
  onTestFinished(() => rmSync(file));
  const service = spawn(process.execPath, [file], { stdio: ['ignore', 'ignore', 'inherit'] });
  onTestFinished(() => void service.kill());
  const isUp = () =>
    fetch(`http://localhost:${port}/`).then(
      () => true,
      () => false,
    );
  while (service.exitCode === null && !(await isUp())) {
    await setTimeout(50);
  }
  const lines = page
    .match(/```sh\n(.*?)```/s)![1]!
    .trim()
    .split('\n');
  const answers: string[] = [];
  for (const line of lines) {
    const command = `${line.replace(/#.*$/, '').replaceAll('3000', port)} -s -o /dev/null -w '%{http_code}'`;
    answers.push((await promisify(execFile)('bash', ['-c', command])).stdout);
  }
  expect(answers).toEqual(lines.map((line) => line.match(/# (\d+)$/)?.[1]));
  expect(new Set(answers)).toEqual(new Set(['200', '204', '400', '409', '412', '428']));
});
