/** TypeORM: `save()` and `remove()`. It counts its version column, and compares it with nothing. */
import 'reflect-metadata';
import { DataSource, type DataSourceOptions, EntitySchema, In } from 'typeorm';
import { type Contender, type Row, type Server, type Table, TABLES, columnNames, typeOf } from '../contender.ts';

const TYPES = { text: 'text', integer: 'int', double: 'double precision' } as const;

function schemaOf(table: Table): EntitySchema<Row> {
  const columns = Object.fromEntries(columnNames(table).map((name, i) => [name, { type: TYPES[typeOf(i)] }]));
  return new EntitySchema<Row>({
    name: table.name,
    columns: { id: { type: 'int', primary: true }, version: { type: 'int', version: true }, ...columns } as never,
  });
}

export const typeorm: Contender = {
  name: 'TypeORM save()',
  open,
};

async function open(server: Server) {
  const schemas = new Map(TABLES.map((table) => [table, schemaOf(table)]));
  const where: DataSourceOptions =
    server.kind === 'sqlite' ? { type: 'better-sqlite3', database: ':memory:' } : { type: 'postgres', url: server.url };
  const source = await new DataSource({ ...where, entities: [...schemas.values()] } as DataSourceOptions).initialize();
  return {
    async load(table: Table, ids: readonly number[]) {
      const repository = source.getRepository(schemas.get(table)!);
      const rows = await repository.find({ where: { id: In([...ids]) } as never });
      return {
        rows,
        update: async () => void (await repository.save(rows)),
        remove: async () => void (await repository.remove(rows)),
      };
    },
    execute: async (sql: string) => void (await source.query(sql)),
    close: () => source.destroy(),
  };
}
