import { postgresql } from './drivers/postgresql.ts';
import { relations } from './model/relations.ts';

relations(postgresql, 20, { driverOptions: { options: '-c lock_timeout=3000 -c statement_timeout=10000' } });
