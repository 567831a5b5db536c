import { sqliteMemory } from '../../driver/test/drivers/sqlite.ts';
import { suite } from './suite.ts';

suite(sqliteMemory);
