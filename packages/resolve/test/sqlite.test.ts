import { sqliteFile, sqliteMemory } from '../../driver/test/drivers/sqlite.ts';
import { suite } from './suite/index.ts';

suite(sqliteMemory);
suite(sqliteFile);
