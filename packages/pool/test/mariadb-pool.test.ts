import { describe, inject } from 'vitest';
import { mariaDb, mySqlDriver } from '../../driver/test/drivers/mysql.ts';
import { type Server, pools } from './suite.ts';

const server: Server = {
  ownSession: 'select connection_id() as id',
  endSession: 'kill connection_id()',
  ended: /Connection was killed|interrupted/i,
};

describe.skipIf(!inject('mariaDbUrl'))('MariaDB', () => {
  pools(mariaDb, server);
  describe('through MySqlDriver', () => pools(mySqlDriver, server));
});
