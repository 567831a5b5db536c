/** The situations, on both locks: the same entities, and one line of the config that differs. */
import { readFileSync } from 'node:fs';
import { MikroORM } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { versioned } from '@mikro-ool/driver';
import { startPostgres } from '../../tools/postgres.ts';
import { ENTITIES, type Finding, SITUATIONS, World } from './situations.ts';

const LOCKS = [
  { name: 'version: true', driver: PostgreSqlDriver },
  { name: 'mikro-ool', driver: versioned(PostgreSqlDriver) },
];

interface Row {
  server_version: string;
}

/** Prints what both report, and what is in the database. Returns whether ours was right each time. */
export async function compare(): Promise<boolean> {
  console.log('Starting PostgreSQL …');
  const server = await startPostgres();
  const worlds: World[] = [];
  try {
    for (const [i, { driver }] of LOCKS.entries()) {
      worlds.push(await open(driver, server.url, `mikro_ool_demo_${process.pid}_${i}`));
    }
    const [row] = await worlds[0]!.fork().getConnection().execute<Row[]>('show server_version');
    const version = row!.server_version.split(' ')[0];
    console.log(`MikroORM ${mikroOrmVersion()}, PostgreSQL ${version}. ✗ marks what went wrong.\n`);
    const findings: Finding[][] = [];
    for (const { run } of SITUATIONS) {
      const row: Finding[] = [];
      for (const world of worlds) {
        row.push(await run(world));
      }
      findings.push(row);
    }
    print(findings);
    return findings.every((row) => row[1]!.isRight);
  } finally {
    for (const { orm } of worlds) {
      await orm.schema.dropDatabase();
      await orm.close(true);
    }
    await server.stop();
  }
}

async function open(driver: typeof PostgreSqlDriver, clientUrl: string, dbName: string): Promise<World> {
  const sent: string[] = [];
  const orm = await MikroORM.init({
    driver,
    clientUrl,
    dbName,
    entities: ENTITIES,
    colors: false,
    debug: ['query'],
    logger: (line) => sent.push(line.replace(/^\[query\] /, '')),
  });
  await orm.schema.refresh();
  return new World(orm as unknown as MikroORM, sent);
}

function mikroOrmVersion(): string {
  const manifest = new URL('./node_modules/@mikro-orm/postgresql/package.json', import.meta.url);
  return (JSON.parse(readFileSync(manifest, 'utf8')) as { version: string }).version;
}

function print(findings: Finding[][]): void {
  const cell = ({ reported, database, isRight }: Finding) => `${isRight ? ' ' : '✗'} ${reported} → ${database}`;
  const lines = [
    ['', ...LOCKS.map(({ name }) => `  ${name}: reported → in the database`)],
    ...findings.map((row, i) => [SITUATIONS[i]!.title, ...row.map(cell)]),
  ];
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  for (const line of lines) {
    console.log(
      line
        .map((text, i) => text.padEnd(widths[i]!))
        .join('  ')
        .trimEnd(),
    );
  }
  console.log();
}
