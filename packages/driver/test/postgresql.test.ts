import { postgresql } from './drivers/postgresql.ts';
import { suite } from './suite/index.ts';

suite(postgresql);
