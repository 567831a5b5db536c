/** Where a database that nobody needs tomorrow has its files. */
import { accessSync, constants, mkdtempSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Linux' file system in memory: there, what a server writes is "on the disk" at once, a new table in a third of the time. */
const MEMORY = '/dev/shm';
/** Three servers, and what tests put into them; containers often have 64 MiB. */
const ROOM = 4 * 2 ** 30;

/** Those that this process has made. Whoever has a server in one removes it when the server has ended; … */
const made = new Set<string>();

/** A new, empty directory: where TMPDIR says, else in memory where there is room. What disks do is under test nowhere. */
export function dataDirectory(prefix: string): string {
  const directory = mkdtempSync(join(!process.env.TMPDIR && hasRoom() ? MEMORY : tmpdir(), prefix));
  if (made.size === 0) {
    process.once('exit', () => made.forEach(remove));
  }
  made.add(directory);
  return directory;
}

/** … this is for who is interrupted before there is one. */
function remove(directory: string): void {
  try {
    rmSync(directory, { recursive: true, force: true });
  } catch {
    // a server that writes into it is ended next
  }
}

function hasRoom(): boolean {
  try {
    accessSync(MEMORY, constants.W_OK);
    const { bavail, bsize } = statfsSync(MEMORY);
    return bavail * bsize >= ROOM;
  } catch {
    return false;
  }
}
