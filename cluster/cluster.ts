/** `npx pnpm cluster`: a real cluster on this machine, until it is told to stop. */
import { endWithReader, readArguments, refuse } from '../tools/command-line.ts';
import { startPostgres } from '../tools/postgres.ts';
import { startGalera } from './galera.ts';
import { MODES, type Mode, startPgBouncer } from './pgbouncer.ts';
import { startReplicated } from './standby.ts';

const USAGE = `Usage: npx pnpm cluster <name> [options]

Starts a cluster on the loopback interface, prints its URLs, and runs until Ctrl-C, or until nobody reads what it prints,
which is a line a minute.
Nothing of it is kept.

  galera        three nodes of MariaDB (Debian: mariadb-server, galera-4, rsync)
  standby       a PostgreSQL and its hot standby
  pgbouncer     a PostgreSQL behind PgBouncer (Debian: pgbouncer); POSTGRES_URL names one that runs

  --lag <ms>    standby: how far it stays behind (0)
  --mode <name> pgbouncer: transaction (without), session, statement
  --help        this text`;

/** What PostgreSQL allows, in milliseconds. */
const LONGEST_LAG = 2 ** 31 - 1;

const { values, positionals } = readArguments(USAGE, { lag: { type: 'string' }, mode: { type: 'string' } });
const [name, ...more] = positionals;
const lag = Number(values.lag ?? 0);
const mode = (values.mode ?? 'transaction') as Mode;
if (!Number.isInteger(lag) || lag < 0 || lag > LONGEST_LAG) {
  refuse(`A lag is a number of milliseconds, ${LONGEST_LAG} at most.`, USAGE);
}
if (!MODES.includes(mode)) {
  refuse(`There is no mode "${mode}".`, USAGE);
}

/** Each returns its URLs, by what they are. */
const CLUSTERS: Readonly<Record<string, () => Promise<Record<string, string>>>> = {
  async galera() {
    const { nodes } = await startGalera();
    return Object.fromEntries(nodes.map(({ name, url }) => [name, url]));
  },
  async standby() {
    const replicated = await startReplicated();
    await replicated.lag(lag);
    return { primary: replicated.primary.url, standby: replicated.standby.url };
  },
  async pgbouncer() {
    const { url } = await startPostgres();
    const pooler = await startPgBouncer(url, mode);
    return { [`pgbouncer, ${mode} mode`]: pooler.url, postgresql: url };
  },
};

const start = CLUSTERS[name ?? ''];
if (!start || more.length > 0) {
  refuse(`One of these is needed: ${Object.keys(CLUSTERS).join(', ')}.`, USAGE);
}
if (values.lag !== undefined && name !== 'standby') {
  refuse('--lag is for a standby.', USAGE);
}
if (values.mode !== undefined && name !== 'pgbouncer') {
  refuse('--mode is for pgbouncer.', USAGE);
}
endWithReader();
// what runs is ended by handlers of "exit"
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(130));
}
try {
  for (const [what, url] of Object.entries(await start())) {
    console.log(`${what}: ${url}`);
  }
  console.log('Ctrl-C ends it.');
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}
// a reader that is gone is noticed by writing to it
let minutes = 0;
setInterval(() => console.log(`Running for ${++minutes} min.`), 60_000);
