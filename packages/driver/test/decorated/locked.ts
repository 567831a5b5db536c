/** What `@Property({ version: true })` becomes, whichever decorators say it. */
import { type EntityClass, type MikroORM } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { expect } from 'vitest';

interface Titled {
  id: number;
  title: string;
  version: number;
}

/** New rows have their first version, and stale ones are neither updated nor deleted. */
export async function expectLocked(orm: MikroORM, Class: EntityClass<object>, initial: number): Promise<void> {
  const entity = Class as EntityClass<Titled>;
  const em = orm.em.fork();
  const ours = [1, 2].map((id) => em.create(entity, { id, title: 'new' } as never) as Titled);
  await em.flush();
  expect(ours.map((row) => row.version)).toEqual([initial, initial]);
  const theirs = orm.em.fork();
  (await theirs.findOneOrFail(entity, 1)).title = 'theirs';
  await theirs.flush();
  ours.forEach((row) => (row.title = 'ours'));
  await expect(em.flush()).rejects.toMatchObject({ conflicts: [{ expected: initial, actual: initial + 1 }] });
  const stale = orm.em.fork();
  stale.remove(stale.assign(stale.getReference(entity, 1), { version: initial }));
  await expect(stale.flush()).rejects.toBeInstanceOf(ConcurrentUpdate);
}
