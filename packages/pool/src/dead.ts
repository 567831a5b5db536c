/** Which errors say that a connection is dead, in the words of node-postgres, mysql2 and the network. */

/** Connection exceptions and shutdowns of PostgreSQL; what mysql2 and MariaDB say; the socket. */
const CODES = new RegExp(
  '^(?:08\\w{3}|57P0[12]|ECONNRESET|EPIPE|ETIMEDOUT|PROTOCOL_CONNECTION_LOST|PROTOCOL_SEQUENCE_TIMEOUT|' +
    'ER_SERVER_SHUTDOWN|ER_CONNECTION_KILLED)$',
);

/** A dead client refuses statements without sending them, and says nothing but this. */
const MESSAGES = /^Connection terminated(?: unexpectedly)?$|is not queryable$|^Can't add new command/;

/** After this error of a statement, a pool drops the connection when it comes back. */
export function isDead(error: unknown): boolean {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown };
  return CODES.test(String(code)) || MESSAGES.test(String(message));
}
