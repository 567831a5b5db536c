import { postgresql } from './drivers/postgresql.ts';
import { model } from './model/model.ts';

// a program that waits for itself fails instead of hanging
model(postgresql, 300, { driverOptions: { options: '-c lock_timeout=3000 -c statement_timeout=10000' } });
