/**
 * Is the suite green on another MikroORM? `npx pnpm compat 7.2.5` runs it there and prints a table.
 *
 * Each driver is run in the newest version that it has up to that one. Drivers for which that is the version of this
 * workspace, where `npx pnpm test` runs them, are left out.
 */
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { readArguments, refuse } from './command-line.ts';
import {
  type Versions,
  copyWorkspace,
  isRelease,
  ownVersions,
  pnpm,
  runTests,
  versionsUpTo,
} from './other-mikro-orm.ts';

const USAGE = `Usage: npx pnpm compat <version> [options]

Runs the tests on another MikroORM, in a copy of this workspace, and prints a table.
Each driver is in the newest version that it has up to <version>.

  --project <name>   only this project of Vitest, or with !name all but this one; may be repeated
  --all              also what is run in the version that this workspace has
  --run "<script>"   instead of the tests, a script of this workspace: "demo --postgres", "bench", "chaos --minutes 10".
                     Results that it writes are copied back.
  --keep             leave the copies where they are, and say where
  --help             this text`;

/** The projects of Vitest, by the package whose version decides what they are run on. */
const PROJECTS: Record<string, string[]> = {
  '@mikro-orm/postgresql': ['postgresql', 'postgresql-15'],
  '@mikro-orm/sqlite': ['sqlite', 'decorators-es', 'decorators-legacy'],
  '@mikro-orm/libsql': ['libsql'],
  '@mikro-orm/pglite': ['pglite'],
  '@mikro-orm/mariadb': ['mariadb', 'mariadb-storm'],
  '@mikro-orm/core': ['core', 'driver', 'http', 'docs'],
};

/** Projects of Vitest that test our programs, which --run runs on another MikroORM, and the site, which has none. */
const PROGRAMS = ['chaos', 'cluster', 'examples', 'site'];

/** What a script may write. */
const RESULTS = ['bench/results', 'chaos/results'];

interface Row {
  readonly project: string;
  readonly name: string;
  readonly version: string;
  readonly result: string;
  readonly isGreen: boolean;
}

function fail(problem: string): never {
  refuse(problem, USAGE);
}

/** Runs what is to be run in one copy of the workspace. */
function inCopy<T>(versions: Versions, work: (directory: string) => T): T {
  const core = versions.get('@mikro-orm/core');
  console.log(`Installing MikroORM ${core} …`);
  const directory = copyWorkspace(versions);
  try {
    return work(directory);
  } finally {
    if (values.keep) {
      console.log(`MikroORM ${core} is in ${directory}`);
    } else {
      rmSync(directory, { recursive: true, force: true });
    }
  }
}

function testsOn(versions: Versions, names: string[]): Row[] {
  const projects = names.flatMap((name) => chosen(name).map((project) => ({ name, project })));
  const outcomes = inCopy(versions, (directory) =>
    runTests(
      directory,
      projects.map(({ project }) => `--project=${project}`),
    ),
  );
  const broken = outcomes.filter(({ project }) => project === '').length;
  return projects.map(({ name, project }) => {
    const own = outcomes.filter((outcome) => outcome.project === project);
    const passed = own.filter(({ state }) => state === 'passed').length;
    return {
      project,
      name,
      version: versions.get(name)!,
      result: `${passed} of ${own.length}${broken > 0 ? `, ${broken} errors outside of tests` : ''}`,
      isGreen: own.length > 0 && passed === own.length && broken === 0,
    };
  });
}

function chosen(name: string): string[] {
  const [only, without] = [wanted.filter((one) => !one.startsWith('!')), wanted.filter((one) => one.startsWith('!'))];
  return PROJECTS[name]!.filter(
    (project) => (only.length === 0 || only.includes(project)) && !without.includes(`!${project}`),
  );
}

function print(rows: Row[]): void {
  const lines = [
    ['project', 'MikroORM', 'tests passed'],
    ...rows.map(({ project, name, version, result }) => [
      project,
      `${name.slice('@mikro-orm/'.length)} ${version}`,
      result,
    ]),
  ];
  const widths = [0, 1, 2].map((column) => Math.max(...lines.map((line) => line[column]!.length)));
  console.log(
    lines
      .map((line) =>
        line
          .map((cell, i) => cell.padEnd(widths[i]!))
          .join('  ')
          .trimEnd(),
      )
      .join('\n'),
  );
}

async function runSuite(limit: string): Promise<boolean> {
  const [own, other] = [ownVersions(), await versionsUpTo(limit)];
  const names = Object.keys(PROJECTS).filter((name) => chosen(name).length > 0);
  const differs = (name: string) => values.all || other.get(name) !== own.get(name);
  const rows: Row[] = [];
  const tried = names.filter((name) => differs(name));
  for (const version of new Set(tried.map((name) => other.get(name)!))) {
    // with the core and the rest that were the newest when this driver was released
    rows.push(
      ...testsOn(
        await versionsUpTo(version),
        tried.filter((name) => other.get(name) === version),
      ),
    );
  }
  const left = names.filter((name) => !differs(name));
  rows.push(
    ...left.flatMap((name) =>
      chosen(name).map((project) => ({
        project,
        name,
        version: own.get(name)!,
        result: 'as in npx pnpm test',
        isGreen: true,
      })),
    ),
  );
  print(rows);
  return rows.every((row) => row.isGreen);
}

async function runScript(limit: string, script: string): Promise<boolean> {
  return inCopy(await versionsUpTo(limit), (directory) => {
    const status = pnpm(directory, script.trim().split(/\s+/));
    for (const results of RESULTS) {
      cpSync(join(directory, results), results, { recursive: true });
    }
    return status === 0;
  });
}

const { values, positionals } = readArguments(USAGE, {
  project: { type: 'string', multiple: true },
  all: { type: 'boolean' },
  run: { type: 'string' },
  keep: { type: 'boolean' },
});
const wanted = values.project ?? [];
const [limit, ...more] = positionals;
if (!limit || more.length > 0 || !isRelease(limit)) {
  fail('One version of MikroORM is needed, like 7.2.5.');
}
const known = [...Object.values(PROJECTS).flat(), ...PROGRAMS];
const unknown = wanted.filter((project) => !known.includes(project.replace(/^!/, '')));
if (unknown.length > 0) {
  fail(`There is no project ${unknown.join(', ')}. There are ${known.join(', ')}.`);
}
const isGreen = await (values.run === undefined ? runSuite(limit) : runScript(limit, values.run));
process.exitCode = isGreen ? 0 : 1;
