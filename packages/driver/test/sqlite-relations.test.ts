import { sqliteMemory } from './drivers/sqlite.ts';
import { relations } from './model/relations.ts';

relations(sqliteMemory, 60);
