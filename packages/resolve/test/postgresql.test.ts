import { postgresql } from '../../driver/test/drivers/postgresql.ts';
import { suite } from './suite/index.ts';

suite(postgresql);
