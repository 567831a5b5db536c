import { sqliteMemory } from './drivers/sqlite.ts';
import { model } from './model/model.ts';

model(sqliteMemory, 1500);
