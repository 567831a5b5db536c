/**
 * A Galera cluster of three MariaDB nodes on the loopback interface, each of which may be stopped, killed, paused, cut off
 * and held back. It ends with this process, however it ends.
 */
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { createConnection } from 'mysql2/promise';
import { type MariaDbInstallation, installMariaDb } from '../tools/mariadb.ts';
import { freePort } from '../tools/postgres.ts';
import { type Controls, ServerProcess, control } from '../tools/processes.ts';
import { requirePackages } from './packages.ts';

export interface GaleraNode extends Controls {
  readonly name: string;
  /** Connection URL without a database name. */
  readonly url: string;
  /** One statement of the user root, on a connection of its own. */
  query<Row = Record<string, unknown>>(sql: string): Promise<Row[]>;
  /** Waits until it is in the cluster and has everything. */
  synced(): Promise<void>;
  /** Neither hears nor says anything in the cluster, while its clients reach it. */
  isolate(): Promise<void>;
  /** @see isolate */
  rejoin(): Promise<void>;
  /** Applies nothing from the others until what it returns is called. Nothing can be written on it meanwhile. */
  holdBack(): Promise<() => Promise<void>>;
}

export interface Galera {
  readonly nodes: readonly [GaleraNode, GaleraNode, GaleraNode];
  /** Waits until all say that all are there: one that was out may not have noticed it. */
  whole(): Promise<void>;
  /** Waits until all have what any of them has. */
  settled(): Promise<void>;
  dispose(): Promise<void>;
}

/** A node that says nothing is out after one to four seconds; Galera's own times are three times as long. */
const EVICTION = [
  ...['evs.suspect_timeout=PT1.5S', 'evs.inactive_timeout=PT4S', 'evs.install_timeout=PT4S'],
  ...['evs.keepalive_period=PT0.3S', 'evs.inactive_check_period=PT0.2S'],
  ...['gmcast.peer_timeout=PT1S', 'pc.announce_timeout=PT1S'],
];

const SETTINGS = [
  ...['--skip-name-resolve', '--max-connections=200', '--default-storage-engine=InnoDB', '--binlog-format=ROW'],
  ...['--innodb-autoinc-lock-mode=2', '--innodb-buffer-pool-size=64M', '--innodb-log-file-size=32M'],
  ...['--innodb-lock-wait-timeout=5', '--wsrep-on=ON', '--wsrep-provider=/usr/lib/galera/libgalera_smm.so'],
  ...['--wsrep-cluster-name=mikro-ool', '--wsrep-sst-method=rsync', '--wsrep-slave-threads=2'],
];

/** How often a node is started: now and then one aborts (SIGABRT) within a second, and its log does not say why. */
const ATTEMPTS = 3;

/** Starts the nodes one after the other: each gets its data from those that are there. */
export async function startGalera(): Promise<Galera> {
  requirePackages('galera');
  const installations: MariaDbInstallation[] = [];
  const members: string[] = [];
  for (let i = 0; i < 3; i++) {
    installations.push((await installMariaDb('mikro-ool-galera-'))!);
    members.push(`127.0.0.1:${await freePort()}`);
  }
  const nodes: GaleraNode[] = [];
  const dispose = async () => {
    await Promise.all(nodes.map((node) => node.dispose()));
  };
  try {
    for (const [i, installation] of installations.entries()) {
      const node = await install(`n${i + 1}`, installation, members, members[i]!, i === 0);
      nodes.push(node);
      await node.start();
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  const whole = async () => {
    const size = `show status like 'wsrep_cluster_size'`;
    // one that has just noticed that it was out ends its connections
    const sizeOf = async (node: GaleraNode) => (await node.query<{ Value: string }>(size).catch(() => []))[0]?.Value;
    for (const node of nodes) {
      await node.synced();
      while ((await sizeOf(node)) !== String(nodes.length)) {
        await wait(50);
        await node.synced();
      }
    }
  };
  const settled = async () => {
    const position = `show status like 'wsrep_last_committed'`;
    for (;;) {
      const rows = await Promise.all(nodes.map((node) => node.query<{ Value: string }>(position)));
      if (new Set(rows.map(([row]) => row!.Value)).size === 1) {
        return;
      }
      await wait(20);
    }
  };
  return { nodes: nodes as unknown as Galera['nodes'], whole, settled, dispose };
}

async function install(
  name: string,
  { program, directory, port, options, env }: MariaDbInstallation,
  members: readonly string[],
  member: string,
  isFirst: boolean,
): Promise<GaleraNode> {
  const log = join(directory, 'log');
  const provider = [
    ...[`gmcast.listen_addr=tcp://${member}`, `ist.recv_addr=127.0.0.1:${await freePort()}`, 'gcache.size=64M'],
    ...EVICTION,
  ];
  const settings = [
    ...options,
    ...SETTINGS,
    ...[`--log-error=${log}`, `--tmpdir=${directory}`, `--wsrep-node-name=${name}`, '--wsrep-node-address=127.0.0.1'],
    ...[`--wsrep-cluster-address=gcomm://${members.join()}`, `--wsrep-provider-options=${provider.join(';')}`],
    `--wsrep-sst-receive-address=127.0.0.1:${await freePort()}`,
  ];
  const url = `mysql://root@127.0.0.1:${port}`;
  const server = new ServerProcess(`Node ${name}`, log);
  let founds = isFirst;
  const query = async <Row>(sql: string) => {
    const connection = await createConnection({ uri: `${url}/mysql`, connectTimeout: 2000 });
    try {
      return (await connection.query(sql))[0] as Row[];
    } finally {
      connection.destroy();
    }
  };
  const status = async (variable: string) => {
    const [row] = await query<{ Value: string }>(`show status like '${variable}'`).catch(() => []);
    return row?.Value;
  };
  const synced = () =>
    server.until(
      async () => (await status('wsrep_ready')) === 'ON' && (await status('wsrep_local_state_comment')) === 'Synced',
    );
  const launch = async (attempt = 1): Promise<void> => {
    server.spawn(program, [...settings, ...(founds ? ['--wsrep-new-cluster'] : [])], { env });
    try {
      await synced();
    } catch (error) {
      // one that runs and is not ready has another reason
      if (attempt === ATTEMPTS || server.pids().length > 0) {
        throw error;
      }
      console.warn(`${(error as Error).message}\nIt is started again.`);
      return launch(attempt + 1);
    }
    founds = false;
  };
  const isolation = (is: 0 | 1) => query(`set global wsrep_provider_options = 'gmcast.isolate=${is}'`);
  return {
    ...control(port, directory, launch, server.pids, 'SIGTERM'),
    ...{ name, url, query, synced },
    isolate: async () => void (await isolation(1)),
    rejoin: async () => void (await isolation(0)),
    async holdBack() {
      const holder = await createConnection(`${url}/mysql`);
      await holder.query('set global wsrep_desync = on');
      await holder.query('flush tables with read lock');
      return async () => {
        await holder.query('unlock tables');
        await holder.query('set global wsrep_desync = off');
        holder.destroy();
      };
    },
  };
}
