import { postgresql } from '../../driver/test/drivers/postgresql.ts';
import { pools } from './suite.ts';

pools(postgresql, {
  ownSession: 'select pg_backend_pid() as id',
  endSession: 'select pg_terminate_backend(pg_backend_pid())',
  ended: /terminating connection/,
  options: { isolation: 'show transaction_isolation', access: 'show transaction_read_only' },
});
