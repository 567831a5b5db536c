import type { TestProject } from 'vitest/node';
import setup from './postgresql.setup.ts';

/** The same tests on the oldest PostgreSQL that is maintained. */
export default (project: TestProject): Promise<() => Promise<void>> => setup(project, 15);
