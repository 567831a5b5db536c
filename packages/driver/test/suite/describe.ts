/** What `describeLocks()` says of entities and of the database, with every fault that it knows. */
import { type EntitySchema, type Options, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describeLocks } from '@mikro-ool/driver';
import { describe, expect, test } from 'vitest';
import { type TestDriver, open } from '../harness.ts';
import { Shout } from './shapes.ts';

const id = p.integer().primary();
const version = p.type(VersionField);
const Article = defineEntity({ name: 'Article', properties: { id, owner: p.string(), version } });
const Account = defineEntity({
  name: 'Account',
  tableName: 'accounts',
  properties: { id, revision: p.type(new VersionField({ start: 'random' })) },
});
const Tag = defineEntity({ name: 'Tag', properties: { id, articles: () => p.manyToMany(Article) } });
const Dated = defineEntity({ name: 'Dated', properties: { id, changed: p.datetime().version() } });
const Compared = defineEntity({
  name: 'Compared',
  properties: { id, owner: p.string().concurrencyCheck(), version },
});
const Word = defineEntity({ name: 'Word', properties: { id: p.type(Shout).primary(), owner: p.string(), version } });
const Base = defineEntity({ name: 'Base', abstract: true, properties: { id, version } });
const Note = defineEntity({ name: 'Note', extends: Base, properties: {} });

export function descriptions(driver: TestDriver): void {
  const writes = driver.batches
    ? { writes: 'one statement' }
    : { writes: 'row by row', because: 'there is no batch statement for this database' };

  describe('describeLocks()', () => {
    test('which entities are locked, from which version on, and how their rows are written', async () => {
      const { orm } = await open(driver, [Article, Account, Tag, Base, Note]);
      const { entities, problems, notes, mikroOrm } = await describeLocks(orm);
      expect(entities).toEqual([
        { entity: 'Account', table: 'accounts', lock: 'mikro-ool', version: 'revision', startsAt: 'random', ...writes },
        { entity: 'Article', table: 'article', lock: 'mikro-ool', version: 'version', startsAt: 1, ...writes },
        { entity: 'Note', table: 'note', lock: 'mikro-ool', version: 'version', startsAt: 1, ...writes },
        { entity: 'Tag', table: 'tag', lock: 'none' },
      ]);
      expect(problems).toEqual([]);
      expect(notes).toContain('Without a version, so that the last one to write wins: Tag.');
      expect(mikroOrm).toMatch(/^7\./);
    });

    test('why rows are written one by one, and that they are', async () => {
      const because = async (entity: EntitySchema, keys: readonly unknown[], more: Partial<Options> = {}) => {
        const { orm, fork, sent } = await open(driver, [entity], more);
        await fork().insertMany(entity, keys.map((id) => ({ id, owner: 'ann' })) as never);
        const em = fork();
        (await em.find(entity, {})).forEach((row) => Object.assign(row, { owner: 'bob' }));
        const updates = (await sent(() => em.flush())).filter((sql) => sql.includes('update'));
        return [(await describeLocks(orm)).entities[0]!.because, updates.length];
      };
      const why = (reason: string) => [driver.batches ? reason : writes.because, 2];
      expect(await because(Article, [1, 2])).toEqual(driver.batches ? [undefined, 1] : [writes.because, 2]);
      expect(await because(Article, [1, 2], { batchSize: 1 })).toEqual(why('batchSize is 1'));
      expect(await because(Article, [1, 2], { useBatchUpdates: false })).toEqual(why('useBatchUpdates is off'));
      const compared = why('it has concurrencyCheck columns, which MikroORM compares');
      expect(await because(Compared, [1, 2])).toEqual(compared);
      expect(await because(Word, ['a', 'b'])).toEqual(why('its key is converted by SQL, or a native enum'));
    });

    test('a version that is no integer, and a driver that is not wrapped', async () => {
      const dated = await describeLocks((await open(driver, [Dated])).orm);
      expect(dated.entities).toEqual([{ entity: 'Dated', table: 'dated', lock: 'mikro-orm', version: 'changed' }]);
      expect(dated.problems).toEqual([expect.stringMatching(/^Dated\.changed is no integer, so MikroORM's own lock/)]);
      const { orm } = await open(driver, [Dated], { driver: driver.plain });
      expect((await describeLocks(orm)).problems).toEqual([
        expect.stringMatching(/^The driver is not wrapped, .* versioned\(\w+Driver\)\.$/),
      ]);
    });

    test('rows without a version, a column that the table lacks, and no table', async () => {
      const { orm, fork } = await open(driver, [Article, Account, Note, Base]);
      const run = async (sql: string) => fork().getConnection().execute(sql);
      for (const table of ['article', 'accounts', 'note']) {
        await run(`drop table ${table}`);
      }
      await run('create table article (id int primary key, version int null)');
      await run('create table accounts (id int primary key)');
      for (const values of ['1, null', '2, null', '3, 1']) {
        await run(`insert into article (id, version) values (${values})`);
      }
      expect((await describeLocks(orm)).problems).toEqual([
        'Account.revision has no column revision in the database. Migrate.',
        'Article.version is NULL in 2 rows, which cannot be written. Set it to 1 there.',
        'Note has no table note in the database. Migrate.',
      ]);
    });
  });
}
