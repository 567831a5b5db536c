import { describe, inject } from 'vitest';
import { mariaDb } from './drivers/mysql.ts';
import { relations } from './model/relations.ts';

describe.skipIf(!inject('mariaDbUrl'))('', () => relations(mariaDb, 20));
