import { libSql } from './drivers/libsql.ts';
import { suite } from './suite/index.ts';

suite(libSql);
