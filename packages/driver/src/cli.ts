#!/usr/bin/env node
/**
 * `npx mikro-ool doctor`: what is locked, and what is wrong with it. MikroORM's own command line finds the configuration, so
 * it is the one that `npx mikro-orm` has.
 */
import { parseArgs } from 'node:util';
import type { MikroORM } from '@mikro-orm/core';
import { type DescribedEntity, type LockReport, describeLocks } from './describe.ts';

const USAGE = `Usage: npx mikro-ool doctor

Says which entities are locked, how their rows are written, and what is wrong; ends with 1 when something is.
It needs @mikro-orm/cli, finds the configuration as that does, and asks the database.

  --config src/mikro-orm.config.ts   another file, may be given more than once
  --context name                     one of several configurations in a file
  --help                             this text`;

const OPTIONS = {
  config: { type: 'string', multiple: true },
  context: { type: 'string' },
  help: { type: 'boolean' },
} as const;

async function main(args: string[]): Promise<number> {
  let parsed;
  try {
    parsed = parseArgs({ args, options: OPTIONS, allowPositionals: true });
  } catch (error) {
    return refuse((error as Error).message);
  }
  const { values, positionals } = parsed;
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  if (positionals.join(' ') !== 'doctor') {
    return refuse(positionals.length === 0 ? 'Which command?' : `There is no command '${positionals.join(' ')}'.`);
  }
  let orm;
  try {
    orm = await openORM(values.context, values.config);
    const report = await describeLocks(orm);
    console.log(print(report));
    return report.problems.length > 0 ? 1 : 0;
  } catch (error) {
    console.error((error as Error).message);
    return 1;
  } finally {
    await orm?.close(true);
  }
}

function refuse(problem: string): number {
  console.error(`${problem}\n\n${USAGE}`);
  return 2;
}

/** As `npx mikro-orm` does. */
async function openORM(context: string | undefined, paths: string[] | undefined): Promise<MikroORM> {
  const { CLIHelper } = await import('@mikro-orm/cli').catch((error: Error & { code?: string }) => {
    throw error.code === 'ERR_MODULE_NOT_FOUND'
      ? new Error("It needs MikroORM's command line: npm install --save-dev @mikro-orm/cli", { cause: error })
      : error;
  });
  const { preferTs, tsConfigPath, tsLoader } = CLIHelper.getSettings();
  if (preferTs !== false && !(await CLIHelper.registerTypeScriptSupport(tsConfigPath, tsLoader))) {
    process.env.MIKRO_ORM_CLI_PREFER_TS ??= '0';
  }
  return CLIHelper.getORM(context, paths);
}

function print({ mikroOrm, driver, entities, problems, notes }: LockReport): string {
  const head = ['entity', 'table', 'version', 'new rows', 'rows of a flush'];
  const rows = [head, ...entities.map(rowOf)];
  const widths = head.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join('  ')
      .trimEnd(),
  );
  const found = problems.length === 0 ? ['Nothing is wrong.'] : problems.map((problem) => `wrong: ${problem}`);
  return [`MikroORM ${mikroOrm}, ${driver}`, '', ...lines, '', ...found, ...notes].join('\n');
}

function rowOf({ entity, table, lock, version = '-', startsAt, writes, because }: DescribedEntity): string[] {
  const how = { 'mikro-ool': '', 'mikro-orm': "MikroORM's own lock", none: 'not locked' }[lock];
  return [entity, table, version, String(startsAt ?? '-'), how || (because ? `${writes!}: ${because}` : writes!)];
}

process.exitCode = await main(process.argv.slice(2));
