import { libSql } from './drivers/libsql.ts';
import { relations } from './model/relations.ts';

relations(libSql, 30);
