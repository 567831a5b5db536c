/** Vitest's reporter: what became of each test, with the error of its own or of the set-up that failed before it. */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

/** By "file > name of the test". */
export type Results = Record<string, { passed: boolean; error?: string }>;

/** The part of Vitest's interface that is needed here, whichever version the checkout has. */
interface Task {
  type: string;
  name: string;
  parent: Task;
  moduleId: string;
  errors(): Failure[];
  result(): { state: string; errors?: Failure[] };
}

interface Failure {
  message?: string;
  stack?: string;
  diff?: string;
}

const checkout = process.env.UPSTREAM_CHECKOUT!;

export default class {
  onTestRunEnd(modules: { children: { allTests(): Iterable<Task> } }[]): void {
    const results: Results = {};
    for (const test of modules.flatMap((module) => [...module.children.allTests()])) {
      const { state, errors = [] } = test.result();
      const error = [...errors, ...parentsOf(test).flatMap((parent) => parent.errors())].map(shorten).join('\n');
      results[nameOf(test)] = { passed: state === 'passed', ...(error && { error }) };
    }
    writeFileSync(process.env.UPSTREAM_REPORT!, JSON.stringify(results));
  }
}

function parentsOf(task: Task): Task[] {
  return task.type === 'module' ? [] : [task.parent, ...parentsOf(task.parent)];
}

function nameOf(task: Task): string {
  return task.type === 'module' ? relative(checkout, task.moduleId) : `${nameOf(task.parent)} > ${task.name}`;
}

/** What went wrong, and where in the test: no frames of Vitest, and no colours. */
function shorten({ message = '', stack = '', diff = '' }: Failure): string {
  const frames = stack.split('\n').filter((line) => /^ +at .*\/(tests|packages|tools)\//.test(line));
  const lines = [message, ...diff.split('\n').slice(0, 60), ...frames].join('\n');
  return stripVTControlCharacters(lines).replaceAll(`${checkout}/`, '');
}
