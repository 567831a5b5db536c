/** Does one race after the other, as sqlite-storm-of-forms.test.ts says. */
import { setTimeout } from 'node:timers/promises';
import { MikroORM, type Options, defineEntity, p } from '@mikro-orm/core';
import { type SqlEntityManager, SqliteDriver } from '@mikro-orm/sqlite';
import { VersionField } from '@mikro-ool/core';
import { versioned } from '@mikro-ool/driver';
import type { BatchRows, Statement } from '../src/write/dialects/dialect.ts';
import { sqlite } from '../src/write/dialects/sqlite.ts';
import { Tally, type Values, takeTurn } from './turn.ts';

export const Counter = defineEntity({
  name: 'Counter',
  properties: {
    id: p.integer().primary(),
    n: p.integer().default(0),
    bytes: p.blob().nullable(),
    version: p.type(VersionField),
  },
});

export interface Race {
  readonly sending: keyof typeof SENDINGS;
  readonly form: keyof typeof FORMS;
  readonly rows: number;
  readonly flushes: number;
  readonly deletes: boolean;
  /** A statement that does not compare versions. */
  readonly broken?: 'update' | 'delete';
}

export interface Result {
  readonly tally: Tally;
  /** The kinds of statements that were sent. */
  readonly kinds: Set<string>;
}

/** Somebody who listens to transactions makes one around the one statement of a flush. */
const SENDINGS = {
  'without a transaction': { batchSize: 600 },
  'in a transaction': { batchSize: 600, subscribers: [{ beforeTransactionStart() {} } as never] },
  'row by row': { batchSize: 1 },
} satisfies Record<string, Partial<Options>>;

const FORMS = {
  'as JSON': undefined,
  // bytes are none
  'as VALUES': (counter: Values & { bytes?: unknown }) => {
    counter.n++;
    counter.bytes = Buffer.from([counter.n % 256]);
  },
};

const KINDS = {
  begin: /^begin/,
  // without a transaction there is a second list behind the first
  'update as JSON': /^update (?:(?! from ).)* from json_each/,
  'update as VALUES': /^update (?:(?! from ).)* from \(values/,
};

if (process.argv[1] === import.meta.filename) {
  const [dbName, name] = [process.argv[2]!, process.argv[3]];
  let kinds = new Set<string>();
  const logger = (line: string) => {
    const sql = line.replace(/^\[query\] /, '');
    Object.entries(KINDS).forEach(([kind, looks]) => looks.test(sql) && kinds.add(kind));
  };
  const open = (options: Partial<Options>) =>
    MikroORM.init({
      ...options,
      driver: versioned(SqliteDriver),
      dbName,
      entities: [Counter],
      debug: ['query'],
      colors: false,
      logger,
    } as Options);
  const orms = new Map<string, MikroORM>();
  const work = async ({ sending, form, rows, flushes, deletes }: Race): Promise<Result> => {
    const orm = orms.get(sending) ?? (await open(SENDINGS[sending]));
    orms.set(sending, orm);
    kinds = new Set();
    const tally = new Tally();
    for (let turn = 0; tally.saved + tally.deleted + tally.conflicts < flushes; turn++) {
      const em = orm.em.fork() as SqlEntityManager;
      const isDelete = deletes && turn % 3 === 0;
      const pause = () => setTimeout(1);
      const isReversed = name === '2';
      const deleted = await takeTurn(em, Counter, { rows, isDelete, isReversed, change: FORMS[form], pause }, tally);
      await (deleted.length > 0 && orm.em.fork().insertMany(Counter, deleted));
    }
    return { tally, kinds };
  };
  process.on('message', async (race: Race) => {
    const { update, delete: remove } = sqlite;
    const blindly =
      <T extends BatchRows>(write: (rows: T, alone?: boolean) => Statement) =>
      (rows: T, alone?: boolean) =>
        write.call(sqlite, { ...rows, uncovered: true }, alone);
    Object.assign(
      sqlite,
      race.broken === 'update' && { update: blindly(update) },
      race.broken === 'delete' && { delete: blindly(remove) },
    );
    process.send!(await work(race));
    Object.assign(sqlite, { update, delete: remove });
  });
  process.send!('ready');
}
