/** `npx mikro-ool doctor` as it is started, on a real database, with planted faults. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { MikroORM, Utils, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { TestDriver } from '../harness.ts';

/** Where the database is, and what is wrong with the config. */
interface Doctored {
  readonly clientUrl?: string;
  readonly dbName: string;
  readonly fault?: 'a date' | 'not wrapped';
}

/** @param args of the command, on the config of this directory */
export function doctor(told: Doctored, ...args: string[]) {
  const command = join(import.meta.dirname, '../../src/cli.ts');
  const { status, stdout, stderr } = spawnSync(process.execPath, [command, ...args], {
    cwd: import.meta.dirname,
    encoding: 'utf8',
    env: { ...process.env, DOCTOR: JSON.stringify(told), NO_COLOR: '1', MIKRO_ORM_CLI_PREFER_TS: '0' },
  });
  return { status, stdout, stderr };
}

const id = p.integer().primary();
const version = p.type(VersionField);
const owner = p.string().concurrencyCheck();
/** The tables of the config. */
const TABLES = [
  defineEntity({ name: 'Article', properties: { id, version } }),
  defineEntity({ name: 'Keyed', properties: { id, owner, version } }),
  defineEntity({ name: 'Tag', properties: { id } }),
];

export function doctors(driver: TestDriver): void {
  const setUp = async () => {
    const options = await driver.create();
    const orm = await MikroORM.init({ ...options, entities: TABLES } as never);
    onTestFinished(() => orm.close(true));
    await orm.schema.create();
    const told = { clientUrl: options.clientUrl, dbName: options.dbName! } as Doctored;
    const run = async (sql: string) => orm.em.getConnection().execute(sql);
    return { told, run, name: orm.driver.constructor.name };
  };

  describe(`npx mikro-ool doctor: ${driver.name}`, () => {
    test('nothing is wrong: the table, and 0', async () => {
      const { told, name } = await setUp();
      expect(doctor(told, 'doctor')).toEqual({
        status: 0,
        stderr: '',
        stdout: `MikroORM ${Utils.getORMVersion()}, ${name}

entity   table    version  new rows  rows of a flush
Article  article  version  1         one statement
Keyed    keyed    version  1         row by row: it has concurrencyCheck columns, which MikroORM compares
Tag      tag      -        -         not locked

Nothing is wrong.
Without a version, so that the last one to write wins: Tag.
`,
      });
    });

    for (const [fault, plant, sentence] of [
      ['a date', [], "Dated.changed is no integer, so MikroORM's own lock is in charge"],
      [
        'NULLs',
        ['create table article (id int primary key, version int null)', 'insert into article (id) values (1)'],
        'Article.version is NULL in 1 rows',
      ],
      [
        'no column',
        ['create table article (id int primary key)'],
        'Article.version has no column version in the database. Migrate.',
      ],
      ['no table', ['drop table keyed'], 'Keyed has no table keyed in the database. Migrate.'],
    ] as const) {
      test(`${fault}: said, and 1`, async () => {
        const { told, run } = await setUp();
        for (const sql of plant[0]?.startsWith('create') ? ['drop table article', ...plant] : plant) {
          await run(sql);
        }
        const { status, stdout } = doctor({ ...told, ...(fault === 'a date' && { fault }) }, 'doctor');
        expect([status, stdout.match(/^wrong: .*$/gm)]).toEqual([1, [expect.stringContaining(sentence)]]);
      });
    }
  });
}
