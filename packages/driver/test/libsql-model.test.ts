import { libSql } from './drivers/libsql.ts';
import { model } from './model/model.ts';

model(libSql, 200);
