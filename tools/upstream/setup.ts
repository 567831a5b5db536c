/** Runs before each of MikroORM's test files, after its own set-up. */
import { appendFileSync } from 'node:fs';
import { Connection, DatabaseDriver } from '@mikro-orm/core';
import { databaseServers } from './databases.ts';
import { passSqlAssertions } from './sql-assertions.ts';

const servers = databaseServers();

// The tests name hosts, ports and users themselves: those of MikroORM's docker-compose.yml.
const { getConnectionOptions, ensureConnection } = Connection.prototype;
Connection.prototype.getConnectionOptions = function (this: Connection) {
  const options = getConnectionOptions.call(this);
  const isLocal = options.host === '127.0.0.1' || options.host === 'localhost';
  const server = isLocal && servers.find(({ theirPorts }) => theirPorts.includes(Number(options.port)));
  if (!server) {
    return options;
  }
  appendFileSync(process.env.UPSTREAM_DATABASES!, `${server.kind} ${options.database}\n`);
  const { hostname, port, username, password } = server.url;
  return { ...options, host: hostname, port: Number(port), user: username, password };
};

// What has no server here fails at once: else after a timeout, or on a server that happens to be there.
const { connect } = DatabaseDriver.prototype;
DatabaseDriver.prototype.connect = async function (this: DatabaseDriver<Connection>, options) {
  refuseUnknown(this.constructor.name);
  return connect.call(this, options);
};
Connection.prototype.ensureConnection = async function (this: Connection) {
  refuseUnknown(this.constructor.name);
  return ensureConnection.call(this);
};

function refuseUnknown(className: string): void {
  const needs = /^(PostgreSql|MySql|MariaDb|MsSql|Oracle|Mongo)/.exec(className)?.[1];
  if (needs && !servers.some(({ classes }) => classes.includes(needs))) {
    throw new Error(`${className} has no server here`);
  }
}

if (process.env.UPSTREAM_RUN === 'versions') {
  passSqlAssertions();
}
