/** The rooms of the driver, as CONTRIBUTING.md has them: what is below asks nothing of what is above. */
import { globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const src = join(import.meta.dirname, '../src');
/** From the top; rooms of one line are neighbours. */
const ROOMS = [['hooks'], ['flush'], ['memory', 'order'], ['write', 'covers', 'set-based'], ['mikro-orm']];
const levelOf = (room: string) => ROOMS.findIndex((rooms) => rooms.includes(room));

/** The rooms that a file imports from; types go away when it runs. */
function roomsAskedBy(file: string): string[] {
  const imports = readFileSync(join(src, file), 'utf8').matchAll(
    /^import (?!type )[^;]*? from '(?:\.\.\/)+([\w-]+)\//gm,
  );
  return [...imports].map(([, room]) => room!);
}

test.each(ROOMS.flat())('%s asks no room above it', (room) => {
  const files = globSync(`${room}/**/*.ts`, { cwd: src });
  expect(files.length).toBeGreaterThan(1);
  const asking = files.map((file) => [file, roomsAskedBy(file).filter((one) => levelOf(one) < levelOf(room))] as const);
  expect(asking.filter(([, above]) => above.length > 0)).toEqual([]);
});

test('every room is in the list', () => {
  const rooms = globSync('*/', { cwd: src }).map((room) => room.replace(/\/$/, ''));
  expect(rooms.toSorted()).toEqual(ROOMS.flat().toSorted());
});
