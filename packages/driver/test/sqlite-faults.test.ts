import { sqliteMemory } from './drivers/sqlite.ts';
import type { Fault } from './faults/connection.ts';
import { faults } from './faults/suite.ts';

const fail = (code: string): never => {
  throw Object.assign(new Error(`simulated ${code}`), { code });
};

const kinds: Fault[] = [
  { name: 'SQLITE_BUSY_SNAPSHOT', strike: async () => fail('SQLITE_BUSY_SNAPSHOT'), isLostRace: true },
  { name: 'SQLITE_IOERR', strike: async () => fail('SQLITE_IOERR') },
  {
    name: 'SQLITE_FULL, which ends the transaction',
    async strike(send) {
      await send('rollback').catch(() => {});
      fail('SQLITE_FULL');
    },
  },
  {
    // a file on a remote disk; SQLite does not say more
    name: 'a connection that is lost',
    async strike(send, _, cut) {
      await send('rollback').catch(() => {});
      cut();
      fail('SQLITE_IOERR');
    },
    losesAnswer: 'unnoticed',
  },
];

faults(sqliteMemory, kinds);
