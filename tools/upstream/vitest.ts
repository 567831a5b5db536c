/** Runs test files with the Vitest of the checkout, some at once, and each by itself where that does not end well. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Results } from './reporter.ts';
import type { Run } from './runs.ts';

interface Task {
  checkout: string;
  run: Run;
  files: string[];
  /** For reports. */
  directory: string;
  /** How many files one process runs. */
  atOnce?: number;
  note(done: number): void;
}

export async function runFiles(task: Task): Promise<Results> {
  const { files, atOnce = 60, note } = task;
  const results: Results = {};
  for (let i = 0; i < files.length; i += atOnce) {
    const some = files.slice(i, i + atOnce);
    let report = await vitest(task, some);
    if (!report && some.length > 1) {
      // one of them hangs, or ends the process
      report = await runFiles({ ...task, files: some, atOnce: 1, note: () => {} });
    }
    Object.assign(results, report);
    note(Math.min(i + atOnce, files.length));
  }
  return results;
}

async function vitest({ checkout, run, directory }: Task, files: string[]): Promise<Results | undefined> {
  const report = join(directory, 'report.json');
  rmSync(report, { force: true });
  const here = (file: string) => fileURLToPath(new URL(file, import.meta.url));
  const program = join(checkout, 'node_modules/vitest/vitest.mjs');
  const options = ['--root', checkout, '--config', here('./vitest.config.ts'), '--reporter', here('./reporter.ts')];
  const child = spawn(process.execPath, [program, 'run', ...options, ...files], {
    cwd: checkout,
    stdio: 'ignore',
    env: {
      ...process.env,
      UPSTREAM_CHECKOUT: checkout,
      UPSTREAM_RUN: run,
      UPSTREAM_REPORT: report,
      UPSTREAM_DATABASES: join(directory, 'databases'),
    },
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 120_000 + files.length * 10_000);
  await once(child, 'exit');
  clearTimeout(timer);
  return existsSync(report) ? JSON.parse(readFileSync(report, 'utf8')) : undefined;
}
