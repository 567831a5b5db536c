import { postgresql } from './drivers/postgresql.ts';
import { countDeadlocks } from './postgresql-deadlocks.ts';
import { storm } from './storm.ts';

storm(postgresql, countDeadlocks);
