/** What has to be installed on the machine, in a sentence. */
import { existsSync } from 'node:fs';
import { find } from '../tools/processes.ts';

/** What a Debian package is looked for by: a program, or a file. */
const PACKAGES: Readonly<Record<string, string>> = {
  'mariadb-server': 'mariadbd',
  'galera-4': '/usr/lib/galera/libgalera_smm.so',
  rsync: 'rsync',
  iproute2: 'ss',
  pgbouncer: 'pgbouncer',
};

/** What each cluster needs. A hot standby needs nothing: its PostgreSQL comes from npm. */
const NEEDED = {
  galera: ['mariadb-server', 'galera-4', 'rsync', 'iproute2'],
  pgbouncer: ['pgbouncer'],
} as const;

export function missingPackages(cluster: keyof typeof NEEDED): string[] {
  return NEEDED[cluster].filter((name) => {
    const sought = PACKAGES[name]!;
    return !(sought.startsWith('/') ? existsSync(sought) : find(sought));
  });
}

/** @throws where one of them is missing, with all that are */
export function requirePackages(cluster: keyof typeof NEEDED): void {
  const missing = missingPackages(cluster);
  if (missing.length > 0) {
    const all = NEEDED[cluster].join(', ');
    throw new Error(`${cluster} needs ${all}. Install what is missing: apt-get install ${missing.join(' ')}`);
  }
}
