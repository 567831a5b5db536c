import { describe, inject } from 'vitest';
import { mariaDb } from '../../driver/test/drivers/mysql.ts';
import { suite } from './suite/index.ts';

describe.skipIf(!inject('mariaDbUrl'))('', () => suite(mariaDb));
