import { defineEntity, p } from '@mikro-orm/core';
import { CommitOutcomeUnknown, VersionField } from '@mikro-ool/core';
import { expect, test } from 'vitest';
import { postgresql } from './drivers/postgresql.ts';
import { type Fault, FaultyConnection, type Send } from './faults/connection.ts';
import { faults } from './faults/suite.ts';
import { open, thrown as failure } from './harness.ts';

/** The server itself raises the error, with all that follows for the transaction. */
const raised = (code: string, more: Partial<Fault> = {}): Fault => ({
  name: `${code} from the server`,
  async strike(send, sql) {
    try {
      await send(`do $$ begin raise exception 'simulated' using errcode = '${code}'; end $$`);
    } finally {
      // a COMMIT that fails has ended the transaction
      await (sql === 'commit' ? send('rollback') : undefined);
    }
  },
  ...more,
});

/** An error after which the transaction goes on, as some clusters and proxies have them. */
const thrown = (code: string, more: Partial<Fault> = {}): Fault => ({
  name: `${code} from a proxy`,
  async strike() {
    throw Object.assign(new Error('simulated'), { code });
  },
  ...more,
});

/** The server ends the connection, and the client has noticed. */
const end = async (send: Send) => {
  await send('select pg_terminate_backend(pg_backend_pid())').catch(() => {});
  await send('select 1').catch(() => {});
};

const cutOff = (error: object): Fault => ({
  name: `a connection that is lost (${JSON.stringify(error)})`,
  async strike(send) {
    await end(send);
    throw Object.assign(new Error(), error);
  },
  losesAnswer: 'unknown',
});

const kinds: Fault[] = [
  raised('40001', { isLostRace: true }),
  thrown('40001', { isLostRace: true }),
  raised('40003', { losesAnswer: 'unknown' }),
  thrown('40003', { losesAnswer: 'unknown' }),
  thrown('0A000'),
  raised('23505'),
  cutOff({ message: 'Connection terminated unexpectedly' }),
  {
    name: 'a server that shuts down',
    strike: async (send) => void (await send('select pg_terminate_backend(pg_backend_pid())')),
    losesAnswer: 'unknown',
  },
  // pg does not even send the statement
  { name: 'a connection that was lost before', strike: end },
];

faults(postgresql, kinds);

test('a connection that is lost while a conflict is described: nothing was written, and that is known', async () => {
  const Item = defineEntity({
    name: 'Item',
    properties: { id: p.integer().primary(), n: p.integer(), version: p.type(VersionField) },
  });
  const connection = new FaultyConnection();
  const { fork } = await open(postgresql, [Item], connection.options);
  const em = fork();
  const item = em.create(Item, { id: 1, n: 0 });
  await em.flush();
  await fork().nativeUpdate(Item, 1, { n: 100 });
  item.n++;
  const fault = cutOff({ message: 'Connection terminated unexpectedly' });
  connection.arm({ at: 1, when: 'before', fault });
  const error = await failure(() => em.flush());
  connection.disarm();
  expect(connection.sent.map((sql) => sql.slice(0, 6))).toEqual(['update', 'select']);
  expect(error).not.toBeInstanceOf(CommitOutcomeUnknown);
  expect(await failure(() => em.flush())).toMatchObject({ conflicts: [{ expected: 1, actual: 2 }] });
});
