/** What is no plain table: views, rules, triggers. A row is saved, or refused with nothing written. */
import { type EntityManager, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { expect } from 'vitest';
import { type TestDriver, describeWhere, open, testWhere, thrown } from '../harness.ts';

const Doc = defineEntity({
  name: 'Doc',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    deleted: p.integer().default(0),
    version: p.type(VersionField),
  },
});

interface Case {
  readonly name: string;
  readonly only: RegExp;
  readonly ddl: string[];
  /** What of 'update' and 'delete' is refused. */
  readonly refused: readonly string[];
}
const POSTGRESQL = /PostgreSQL|PGlite/;
const SQLITE = /SQLite|libSQL/;
const view = 'alter table doc rename to stored';
/** What writes the table that a view is on does not compare the version. */
const insteadOf = (on: string): string[] => [
  `create function instead() returns trigger language plpgsql as $$ begin
     if tg_op = 'DELETE' then delete from stored where id = old.id; return old; end if;
     update stored set title = new.title, version = new.version where id = old.id; return new; end $$`,
  `create trigger instead instead of update or delete on ${on} for each row execute function instead()`,
];
const rules = (on: string): string[] => [
  `create rule gone as on delete to ${on} do instead delete from stored where id = old.id`,
  `create rule changed as on update to ${on}
     do instead update stored set title = new.title, version = new.version where id = old.id`,
];
/** A row is marked, in place of being deleted. */
const marking = (on: string): string[] => [
  `create function soft() returns trigger language plpgsql as $$ begin
     update doc set deleted = 1 where id = old.id; return null; end $$`,
  `create trigger soft before delete on ${on} for each row execute function soft()`,
];
const cases: Case[] = [
  {
    name: 'a rule DO INSTEAD',
    only: POSTGRESQL,
    ddl: [
      'create rule soft as on delete to doc do instead update doc set deleted = 1, version = old.version + 1 where id = old.id',
      `create table audit (id int)`,
      'create rule other as on update to doc where new.deleted = 0 do instead insert into audit values (old.id)',
    ],
    refused: ['update', 'delete'],
  },
  {
    name: 'rules DO ALSO',
    only: POSTGRESQL,
    ddl: [
      'create table audit (id int)',
      'create rule gone as on delete to doc do also insert into audit values (old.id)',
      'create rule changed as on update to doc do also insert into audit values (old.id)',
    ],
    refused: [],
  },
  {
    name: 'a trigger BEFORE DELETE that marks the row instead',
    only: POSTGRESQL,
    ddl: marking('doc'),
    refused: ['delete'],
  },
  {
    name: 'a trigger BEFORE DELETE that marks the row instead',
    only: SQLITE,
    ddl: [
      'create trigger soft before delete on doc begin update doc set deleted = 1 where id = old.id; select raise(ignore); end',
    ],
    refused: ['delete'],
  },
  {
    name: 'a view with INSTEAD OF triggers',
    only: POSTGRESQL,
    ddl: [view, 'create view doc as select id, title, deleted, version from stored', ...insteadOf('doc')],
    refused: [],
  },
  {
    name: 'a view on a view with INSTEAD OF triggers',
    only: POSTGRESQL,
    ddl: [
      view,
      'create view seen as select id, title, deleted, version from stored',
      ...insteadOf('seen'),
      'create view doc as select * from seen',
    ],
    refused: [],
  },
  {
    name: 'a view on a table with a trigger BEFORE DELETE that marks the row instead',
    only: POSTGRESQL,
    ddl: [view, 'create view doc as select id, title, deleted, version from stored', ...marking('stored')],
    refused: ['delete'],
  },
  {
    name: 'a trigger BEFORE DELETE that marks the row instead, on a partition of a partition',
    only: POSTGRESQL,
    ddl: [
      view,
      'create table doc (like stored including defaults, primary key (id)) partition by range (id)',
      'create table half partition of doc for values from (0) to (100) partition by range (id)',
      'create table leaf partition of half for values from (0) to (100)',
      'insert into doc select * from stored',
      ...marking('leaf'),
    ],
    refused: ['delete'],
  },
  {
    name: 'a view with rules',
    only: POSTGRESQL,
    ddl: [view, 'create view doc as select id, title, deleted, version from stored', ...rules('doc')],
    refused: [],
  },
  {
    name: 'a rule DO INSTEAD that writes another table',
    only: POSTGRESQL,
    ddl: ['create table stored (like doc including all)', 'insert into stored select * from doc', ...rules('doc')],
    refused: ['update', 'delete'],
  },
  {
    name: 'a view with a trigger that leaves the version as it was',
    only: POSTGRESQL,
    ddl: [
      view,
      'create view doc as select id, title, deleted, version from stored',
      `create function instead() returns trigger language plpgsql as $$ begin
         update stored set title = new.title where id = old.id; return new; end $$`,
      'create trigger instead instead of update on doc for each row execute function instead()',
    ],
    refused: ['update'],
  },
  {
    name: 'a view on a view with rules',
    only: POSTGRESQL,
    ddl: [
      view,
      'create view seen as select id, title, deleted, version from stored',
      ...rules('seen'),
      'create view doc as select * from seen',
    ],
    refused: [],
  },
  {
    name: 'a view without what is marked, with rules',
    only: POSTGRESQL,
    ddl: [
      view,
      'create view doc as select id, title, deleted, version from stored where deleted = 0',
      'create rule soft as on delete to doc do instead update stored set deleted = 1 where id = old.id',
      `create rule changed as on update to doc
         do instead update stored set title = new.title, version = new.version where id = old.id`,
    ],
    refused: ['delete'],
  },
  {
    name: 'a view with INSTEAD OF triggers',
    only: SQLITE,
    ddl: [
      view,
      'create view doc as select id, title, deleted, version from stored',
      'create trigger u instead of update on doc begin update stored set title = new.title, version = new.version where id = old.id; end',
      'create trigger d instead of delete on doc begin delete from stored where id = old.id; end',
    ],
    // it does not count what such a trigger writes
    refused: ['update', 'delete'],
  },
  {
    name: 'a view that is updatable by itself',
    only: /PostgreSQL|PGlite|MariaDB/,
    ddl: [view, 'create view doc as select id, title, deleted, version from stored'],
    refused: [],
  },
];

export function specialRelations(driver: TestDriver): void {
  describeWhere(driver.batches)('no plain table', () => {
    for (const { name, only, ddl, refused } of cases) {
      for (const operation of ['update', 'delete'] as const) {
        for (const ids of [[1], [1, 2, 3]]) {
          for (const around of [false, true]) {
            const isRefused = refused.includes(operation);
            const title = `${name}: ${operation} of ${ids.length}${around ? ', in a transaction,' : ''} is ${isRefused ? 'refused, with nothing written' : 'saved, and checked'}`;
            testWhere(only.test(driver.name))(title, async () => {
              const { fork } = await open(driver, [Doc]);
              await fork().insertMany(
                Doc,
                [1, 2, 3, 4].map((id) => ({ id, title: 'saved' })),
              );
              for (const sql of ddl) {
                await fork().getConnection().execute(sql);
              }
              const rows = () => fork().getConnection().execute<object[]>('select * from doc order by id');
              const before = await rows();
              const write = (version?: number, flush = (em: EntityManager) => em.flush()) => {
                const work = async (em: EntityManager) => {
                  for (const doc of await em.find(Doc, ids)) {
                    doc.title = 'changed';
                    doc.version = doc.id === 1 ? (version ?? doc.version) : doc.version;
                    if (operation === 'delete') {
                      em.remove(doc);
                    }
                  }
                  await flush(em);
                };
                return around ? fork().transactional(work) : work(fork());
              };
              const stale = await thrown(() => write(7));
              expect(stale).toBeInstanceOf(ConcurrentUpdate);
              expect(await rows()).toEqual(before);
              if (isRefused) {
                // what the rule or trigger has made of the row is rolled back, so it is not what is there
                const refusal = (await thrown(() => write())) as unknown as ConcurrentUpdate;
                expect(new Set(refusal.conflicts.map(({ actual }) => actual))).toEqual(new Set([1]));
                expect(await rows()).toEqual(before);
                if (around) {
                  const caught = async (em: EntityManager) => {
                    await thrown(() => em.flush());
                    em.clear();
                  };
                  await write(undefined, caught);
                  expect(await rows()).toEqual(before);
                }
              } else {
                await write();
                const after = (await rows()) as { id: number; title: string; version: number }[];
                const changed = after.filter((row) => ids.includes(row.id));
                expect(changed.map(({ title: now, version }) => [now, version])).toEqual(
                  operation === 'delete' ? [] : ids.map(() => ['changed', 2]),
                );
              }
            });
          }
        }
      }
    }

    const racing = [
      'a view with INSTEAD OF triggers',
      'a view on a view with INSTEAD OF triggers',
      'a view with rules',
      'a view on a view with rules',
    ];
    for (const name of racing) {
      for (const second of ['updates', 'deletes']) {
        testWhere(/PostgreSQL/.test(driver.name))(
          `${name}, where nothing compares: of two writers, the second of which ${second}, one is saved`,
          async () => {
            const { fork } = await open(driver, [Doc]);
            const seed = fork();
            for (let id = 1; id <= 10; id++) {
              seed.create(Doc, { id, title: 'saved' });
            }
            await seed.flush();
            for (const sql of cases.find((one) => one.name === name)!.ddl) {
              await fork().getConnection().execute(sql);
            }
            let both = 0;
            for (let id = 1; id <= 10; id++) {
              const ems = [fork(), fork()];
              for (const [i, em] of ems.entries()) {
                const doc = await em.findOneOrFail(Doc, id);
                doc.title = 'changed';
                if (i === 1 && second === 'deletes') {
                  em.remove(doc);
                }
              }
              const results = await Promise.allSettled(ems.map((em) => em.flush()));
              expect(results.some(({ status }) => status === 'fulfilled')).toBe(true);
              both += Number(results.every(({ status }) => status === 'fulfilled'));
            }
            expect(both).toBe(0);
          },
        );
      }
    }
  });
}
