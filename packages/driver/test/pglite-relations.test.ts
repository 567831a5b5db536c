import { pglite } from './drivers/pglite.ts';
import { relations } from './model/relations.ts';

relations(pglite, 15);
