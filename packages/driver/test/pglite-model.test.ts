import { pglite } from './drivers/pglite.ts';
import { model } from './model/model.ts';

model(pglite, 100);
