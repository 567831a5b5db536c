import { describe, inject } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import { model } from './model/model.ts';

describe.skipIf(!inject('mariaDbUrl'))('', () => model(mariaDb, 200));
