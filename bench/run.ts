/** All jobs that were chosen, one after the other, on one database after the other. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, totalmem, type, release } from 'node:os';
import { Client } from 'pg';
import Sqlite from 'better-sqlite3';
import { startPostgres } from '../tools/postgres.ts';
import type { Server, Session } from './contender.ts';
import { createDatabase, createTables, tidyUp } from './database.ts';
import { guaranteeOf } from './guarantee.ts';
import { CONTENDERS, JOBS, type Job, QUICK, planFor } from './jobs.ts';
import { type Task, type Timings, measure } from './measure.ts';
import { values } from './options.ts';
import { profileTable } from './profile.ts';
import { startProxy } from './proxy.ts';
import { type Section, chart, guaranteeTable, memoryTable, sectionTable, writeResult } from './report.ts';

const NAMES = { postgresql: 'PostgreSQL', sqlite: 'SQLite' };

const steps = (['postgresql', 'sqlite'] as const).flatMap((kind) =>
  JOBS.filter((job) => job.servers.includes(kind)).flatMap((job) =>
    (values.quick ? (job.quick ?? []) : job.sizes).map((n) => ({ kind, job, n })),
  ),
);
const chosen = steps.filter(({ kind, job, n }) => {
  const text = `${NAMES[kind]} ${job.title} ${n}`.toLowerCase();
  return (values.only ?? '')
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
});

let done = 0;
function progress(text: string): void {
  const line = `${String(Math.round((100 * done) / chosen.length)).padStart(3)} % ${text}`;
  process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${line}` : `${line}\n`);
}

/** Sessions of the contenders that speak this database, those of SQLite with the tables in them. */
async function openAll(job: Job, server: Server): Promise<Map<string, Session>> {
  const sessions = new Map<string, Session>();
  for (const contender of job.contenders.filter((one) => !values.quick || QUICK.has(one))) {
    const session = await contender.open(server);
    if (session) {
      sessions.set(contender.name, session);
      if (server.kind === 'sqlite') {
        await createTables(session);
      }
    }
  }
  return sessions;
}

/** Does something with the tasks of a job, for one number of rows after the other. */
async function run(
  job: Job,
  server: Server,
  sizes: readonly number[],
  use: (tasks: readonly Task[], n: number) => Promise<void>,
): Promise<void> {
  const proxy = job.distant && server.kind === 'postgresql' ? await startProxy(server.url, 1) : undefined;
  const sessions = await openAll(job, proxy ? { kind: 'postgresql', url: proxy.url } : server);
  try {
    for (const n of sizes) {
      progress(`${NAMES[server.kind]}, ${job.title}, ${n} rows`);
      await use(
        [...sessions].map(([name, session]) => job.task(name, session, n)),
        n,
      );
      await tidyUp(server);
      done++;
    }
  } finally {
    await Promise.all([...sessions.values()].map((session) => session.close()));
    await proxy?.stop();
  }
}

async function profileJob(job: Job, server: Server, sizes: readonly number[]): Promise<void> {
  await run(job, server, sizes, async (tasks, n) => {
    const table = await profileTable(`${NAMES[server.kind]}, ${job.title}, ${n} rows`, tasks);
    print(table);
  });
}

async function measureJob(job: Job, server: Server, sizes: readonly number[]): Promise<Section> {
  const results: [number, Timings][] = [];
  await run(job, server, sizes, async (tasks, n) => {
    results.push([n, await measure(tasks, planFor(job, n, values.quick))]);
  });
  const section = { job, results: new Map(results) };
  print(sectionTable(section));
  return section;
}

/** Over the line that says how far we are. */
function print(text: string): void {
  process.stderr.write(process.stderr.isTTY ? '\r\x1b[K' : '');
  console.log(text);
}

function memory(): Map<string, number> {
  const locks = ['mikro-ool', 'version: true', 'unlocked'];
  const script = new URL('./memory.ts', import.meta.url).pathname;
  const flags = ['--expose-gc', '--max-semi-space-size=512', '--min-semi-space-size=512'];
  return new Map(
    locks.map((lock) => [lock, Number(execFileSync(process.execPath, [...flags, script, lock], { encoding: 'utf8' }))]),
  );
}

function machine(database: string): string {
  const version = (name: string) => {
    const manifest = readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), 'utf8');
    return (JSON.parse(manifest) as { version: string }).version;
  };
  const packages = ['@mikro-orm/core', 'sequelize', 'typeorm', 'drizzle-orm'].map((name) => `${name} ${version(name)}`);
  const [cpu] = cpus();
  return [
    `${cpus().length} × ${cpu!.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GiB, ${type()} ${release()}`,
    `Node ${process.versions.node}, ${database}, ${packages.join(', ')}`,
    new Date().toISOString().slice(0, 10),
  ].join('  \n');
}

const EXPLANATION = `Medians in milliseconds; in brackets, mikro-ool's time divided by this one. Taken in turn, in one run of \`npx pnpm bench\`.`;

async function measureAll(server: Server, database: string): Promise<void> {
  const sections: Section[] = [];
  for (const job of JOBS) {
    const sizes = chosen.filter((step) => step.kind === server.kind && step.job === job).map((step) => step.n);
    if (sizes.length > 0 && values.profile) {
      await profileJob(job, server, sizes);
    } else if (sizes.length > 0) {
      sections.push(await measureJob(job, server, sizes));
    }
  }
  if (values.only !== undefined || values.quick || values.profile) {
    return;
  }
  const guarantees = [];
  for (const contender of CONTENDERS) {
    progress(`${NAMES[server.kind]}, what ${contender.name} guarantees`);
    const guarantee = await guaranteeOf(contender, server);
    guarantees.push(...(guarantee ? [guarantee] : []));
  }
  const more = [guaranteeTable(guarantees), ...(server.kind === 'sqlite' ? [memoryTable(memory())] : [])];
  print(more.join('\n'));
  const head = `# ${NAMES[server.kind]}\n\n${machine(database)}\n\n${EXPLANATION}\n`;
  writeResult(`${server.kind}.md`, [head, ...sections.map(sectionTable), ...more].join('\n'));
  writeResult(`${server.kind}.svg`, chart(sections[0]!, NAMES[server.kind]));
}

const needsPostgres = chosen.some((step) => step.kind === 'postgresql');
if (needsPostgres) {
  const postgres = await startPostgres();
  try {
    const database = await createDatabase(postgres.url);
    const client = new Client({ connectionString: database.url });
    await client.connect();
    const { rows } = await client.query<{ version: string }>('show server_version');
    await client.end();
    await measureAll({ kind: 'postgresql', url: database.url }, `PostgreSQL ${Object.values(rows[0]!)[0]!}`);
    await database.drop();
  } finally {
    await postgres.stop();
  }
}
const sqliteVersion = new Sqlite(':memory:').prepare<[], { v: string }>('select sqlite_version() as v').get()!.v;
await measureAll({ kind: 'sqlite' }, `SQLite ${sqliteVersion}`);
// contenders leave timers behind that would keep the process alive
process.exit();
