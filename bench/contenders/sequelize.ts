/** Sequelize with its `version: true`, on PostgreSQL; its SQLite driver is a native module that few machines can build. */
import { DataTypes, type Model, type ModelStatic, Sequelize } from 'sequelize';
import { type Contender, type Row, type Table, TABLES, columnNames, typeOf } from '../contender.ts';

const TYPES = { text: DataTypes.TEXT, integer: DataTypes.INTEGER, double: DataTypes.DOUBLE };

function define(sequelize: Sequelize, table: Table): ModelStatic<Model> {
  const columns = Object.fromEntries(columnNames(table).map((name, i) => [name, { type: TYPES[typeOf(i)] }]));
  const id = { type: DataTypes.INTEGER, primaryKey: true };
  const options = { tableName: table.name, timestamps: false, version: 'version' };
  return sequelize.define(table.name, { id, ...columns }, options);
}

export const sequelize: Contender = {
  name: 'Sequelize, version: true',
  open(server) {
    return server.kind === 'sqlite' ? undefined : open(server.url);
  },
};

async function open(url: string) {
  const sequelize = new Sequelize(url, { dialect: 'postgres', logging: false });
  const models = new Map(TABLES.map((table) => [table, define(sequelize, table)]));
  return {
    async load(table: Table, ids: readonly number[]) {
      const rows = await models.get(table)!.findAll({ where: { id: [...ids] } });
      return {
        rows: rows as unknown as Row[],
        update: () =>
          sequelize.transaction(async (transaction) => {
            for (const row of rows) {
              await row.save({ transaction });
            }
          }),
        remove: () =>
          sequelize.transaction(async (transaction) => {
            for (const row of rows) {
              await row.destroy({ transaction });
            }
          }),
      };
    },
    execute: async (sql: string) => void (await sequelize.query(sql)),
    close: () => sequelize.close(),
  };
}
