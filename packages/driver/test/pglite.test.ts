import { pglite } from './drivers/pglite.ts';
import { suite } from './suite/index.ts';

suite(pglite);
