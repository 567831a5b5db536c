/** What `npx pnpm bench` was told. */
import { readOptions } from '../tools/command-line.ts';

const USAGE = `Usage: npx pnpm bench [options]

Measures what a flush costs on PostgreSQL and SQLite, contenders in turn, and writes bench/results.

  --only <words>   only the jobs whose title, database and number of rows have these words; writes no results
  --quick          compares with MikroORM without a lock only, where that matters, in two minutes; writes no results
  --profile        where the time goes, by package and by room of ours, of what --quick and --only leave; writes no results
  --help           this text

PostgreSQL is the one that POSTGRES_URL names, else one that is started and thrown away.`;

export const values = readOptions(USAGE, {
  only: { type: 'string' },
  quick: { type: 'boolean', default: false },
  profile: { type: 'boolean', default: false },
});
