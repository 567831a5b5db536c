/** A real connection that fails on command: at the n-th statement, before it is carried out or after. */
import type { Options } from '@mikro-orm/core';

interface Query {
  readonly sql: string;
}
interface Connection {
  executeQuery(query: Query, ...rest: unknown[]): Promise<{ rows: unknown[] }>;
}
/** Sends a statement to the database itself. */
export type Send = (sql: string) => Promise<{ rows: unknown[] }>;

export interface Fault {
  readonly name: string;
  /** What the database does, and the error that the driver throws then; without one, the statement is sent after all. */
  strike(send: Send, sql: string, cut: () => void): Promise<void>;
  /** The database decides a race by it. */
  readonly isLostRace?: boolean;
  /** It leaves open whether the statement was carried out; `unnoticed`: the dialect does not take it for such an error. */
  readonly losesAnswer?: 'unknown' | 'unnoticed';
}

export class FaultyConnection {
  /** Statements since the connection was armed. */
  sent: string[] = [];
  #armed = false;
  #planned?: { at: number; when: 'before' | 'after'; fault: Fault };
  #rollbackFault: Fault | undefined;
  #cut = false;

  readonly options: Partial<Options> = {
    // two connections: one that is never given back is missed soon
    pool: { min: 0, max: 2 },
    onCreateConnection: async (created) => {
      const connection = created as Connection;
      const execute = connection.executeQuery.bind(connection);
      const send: Send = (sql) => execute({ sql, parameters: [], query: { kind: 'RawNode' } } as Query);
      connection.executeQuery = async (query, ...rest) => {
        // the question that only the first flush of an ORM asks is not of the flush
        if (!this.#armed || query.sql.includes('writes_instead')) {
          return execute(query, ...rest);
        }
        const strike = (fault: Fault) => fault.strike(send, query.sql, () => (this.#cut = true));
        const { at, when, fault } = this.#planned ?? {};
        const isHere = this.sent.push(query.sql) - 1 === at;
        if (this.#cut) {
          throw new Error('The connection was lost before');
        }
        if (isHere && when === 'before') {
          await strike(fault!);
        }
        const atRollback = this.sent.length - 1 > at! && query.sql.startsWith('rollback') && this.#rollbackFault;
        if (atRollback) {
          this.#rollbackFault = undefined;
          await strike(atRollback);
        }
        const result = await execute(query, ...rest);
        if (isHere && when === 'after') {
          await strike(fault!);
        }
        return result;
      };
    },
  };

  /** Fails at a statement from now on, and perhaps at the first ROLLBACK after it. */
  arm(planned?: { at: number; when: 'before' | 'after'; fault: Fault }, rollbackFault?: Fault): void {
    this.disarm();
    this.#armed = true;
    this.#planned = planned;
    this.#rollbackFault = rollbackFault;
    this.sent = [];
  }

  /** Nothing fails any more; what was cut is connected again. */
  disarm(): void {
    this.#armed = false;
    this.#cut = false;
  }
}
