/**
 * A reporter of Vitest for our own tools: how each test ended, with its project and the title that it stands under, as
 * JSON in the file that `COUNTS_FILE` names.
 */
import { writeFileSync } from 'node:fs';
import type { Reporter, TestModule } from 'vitest/node';

export interface Outcome {
  readonly project: string;
  /** The outermost `describe`; with the shared suite it is the name of the database. */
  readonly title: string;
  readonly state: 'passed' | 'failed' | 'skipped';
}

export default class Counts implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const outcomes = modules.flatMap((module) => outcomesOf(module));
    outcomes.push(...errors.map(() => ({ project: '', title: 'outside of a test', state: 'failed' as const })));
    writeFileSync(process.env.COUNTS_FILE!, JSON.stringify(outcomes));
  }
}

function outcomesOf(module: TestModule): Outcome[] {
  const project = module.project.name;
  const outcomes = [...module.children.allTests()].map((test): Outcome => {
    const { state } = test.result();
    return { project, title: test.fullName.split(' > ')[0]!, state: state === 'pending' ? 'failed' : state };
  });
  // a file that does not load, or whose set-up fails, has no test to say so
  const isBroken = module.state() === 'failed' && outcomes.every(({ state }) => state !== 'failed');
  return isBroken ? [...outcomes, { project, title: module.moduleId, state: 'failed' }] : outcomes;
}
