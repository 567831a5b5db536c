import { doctors } from './doctor/suite.ts';
import { postgresql } from './drivers/postgresql.ts';

doctors(postgresql);
