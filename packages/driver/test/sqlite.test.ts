import { sqliteMemory } from './drivers/sqlite.ts';
import { suite } from './suite/index.ts';

suite(sqliteMemory);
