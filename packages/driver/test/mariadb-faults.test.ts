import { describe, inject } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import type { Fault } from './faults/connection.ts';
import { faults } from './faults/suite.ts';

/** A lost race that has ended the whole transaction: inside it, or at the COMMIT in a cluster. */
const ended = (code: string): Fault => ({
  name: `${code}, which ends the transaction`,
  async strike(send) {
    await send('rollback');
    throw Object.assign(new Error('simulated'), { code });
  },
  isLostRace: true,
});

const kinds: Fault[] = [
  ended('ER_LOCK_DEADLOCK'),
  ended('ER_CHECKREAD'),
  ended('ER_TRANSACTION_ROLLBACK_DURING_COMMIT'),
  ...['ER_ERROR_DURING_COMMIT', 'ER_QUERY_INTERRUPTED'].map((code): Fault => ({
    name: `${code}, by which a cluster gives up in the middle of a COMMIT`,
    async strike(_send, sql) {
      if (sql === 'commit' || sql.includes('@@autocommit')) {
        throw Object.assign(new Error('simulated'), { code });
      }
      throw Object.assign(new Error('simulated'), { code: 'ER_PARSE_ERROR' });
    },
    losesAnswer: 'unknown',
  })),
  {
    name: 'waiting too long for a lock',
    async strike() {
      throw Object.assign(new Error('simulated'), { code: 'ER_LOCK_WAIT_TIMEOUT', errno: 1205 });
    },
  },
  {
    name: 'a connection that is lost',
    async strike(send) {
      await send('kill connection_id()').catch(() => {});
      await send('select 1').catch(() => {});
      throw Object.assign(new Error('simulated'), { code: 'PROTOCOL_CONNECTION_LOST' });
    },
    losesAnswer: 'unknown',
  },
];

describe.skipIf(!inject('mariaDbUrl'))('MariaDB', () => faults(mariaDb, kinds));
