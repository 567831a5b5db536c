import { sqliteFile, sqliteMemory } from './drivers/sqlite.ts';
import { suite } from './suite/index.ts';

suite(sqliteMemory);
suite(sqliteFile);
