import { sqliteFile } from './drivers/sqlite.ts';
import { suite } from './suite/index.ts';

suite(sqliteFile);
