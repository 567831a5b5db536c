/** PostgreSQL behind PgBouncer: the shared suite in transaction mode, a storm, and what statement mode lets through. */
import { randomUUID } from 'node:crypto';
import { defineEntity, p } from '@mikro-orm/core';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { ConcurrentUpdate, VersionField } from '@mikro-ool/core';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest';
import { postgresql } from '../packages/driver/test/drivers/postgresql.ts';
import type { TestDriver } from '../packages/driver/test/harness.ts';
import { suite } from '../packages/driver/test/suite/index.ts';
import { missingPackages } from './packages.ts';
import { type Mode, type PgBouncer, startPgBouncer } from './pgbouncer.ts';
import { query } from './standby.ts';
import { Counter, connect, report, seed, storm, tellsOf } from './storm.ts';

const server = { url: inject('postgresUrl') };

describe.skipIf(missingPackages('pgbouncer').length > 0)('PgBouncer', () => {
  describe('transaction mode', () => {
    let pooler: PgBouncer;
    let admin: Client;

    beforeAll(async () => {
      pooler = await startPgBouncer(server.url, 'transaction');
      admin = new Client({ connectionString: `${pooler.url}/pgbouncer` });
      await admin.connect();
    });

    afterAll(async () => {
      await admin.end();
      await pooler.dispose();
    });

    const pooled: TestDriver = {
      ...postgresql,
      name: `${postgresql.name} behind PgBouncer`,
      async create(atEnd = onTestFinished) {
        const options = await postgresql.create(atEnd);
        // the pooler keeps its sessions, which must end before a database is emptied, and it is slow to end idle ones
        atEnd(async () => {
          await admin.query(`kill "${options.dbName}"`);
          await admin.query(`resume "${options.dbName}"`);
        });
        return { ...options, clientUrl: pooler.url };
      },
    };
    suite(pooled);

    test('8 workers add 1 to the same 50 rows through 3 connections: nothing is lost', async () => {
      const { clientUrl, dbName } = await pooled.create();
      const options = { clientUrl, dbName: dbName!, entities: [Counter], pool: { min: 0, max: 8 } };
      // as many sessions of the server for all workers together
      await admin.query('set default_pool_size = 3');
      const orm = await connect(PostgreSqlDriver, 'mikro-ool', options);
      onTestFinished(async () => {
        await orm.close(true);
        await admin.query('set default_pool_size = 20');
      });
      await orm.schema.create();
      await seed(orm, 50);
      const outcome = await storm([orm], { workers: 8, rows: 50, flushes: 400 });
      const told = await tellsOf(orm.em);
      report('mikro-ool behind PgBouncer, 50 rows', outcome, outcome.saved - told[0]!.n);
      expect(outcome.errors).toEqual({});
      expect(outcome.conflicts).toBeGreaterThan(0);
      expect(told).toEqual([{ n: outcome.saved, writes: outcome.saved }]);
    });
  });

  describe('statement mode', () => {
    const Note = defineEntity({
      name: 'Note',
      properties: { id: p.integer().primary(), text: p.string(), version: p.type(VersionField) },
    });
    const entities = [Counter, Note];

    /** A database with counters 1 to 3 and a note, and MikroORM that reaches it in one of the modes. */
    const open = async (mode: Mode) => {
      const pooler = await startPgBouncer(server.url, mode);
      onTestFinished(() => pooler.dispose());
      const dbName = `mikro_ool_${randomUUID().replaceAll('-', '')}`;
      const direct = await connect(PostgreSqlDriver, 'mikro-ool', { clientUrl: server.url, dbName, entities });
      await direct.schema.ensureDatabase();
      await direct.schema.create();
      await seed(direct, 3);
      await direct.em.fork().insert(Note, { id: 1, text: 'saved' });
      const orm = await connect(PostgreSqlDriver, 'mikro-ool', { clientUrl: pooler.url, dbName, entities });
      onTestFinished(async () => {
        await orm.close(true);
        await direct.close(true);
        await query(server, `drop database "${dbName}" with (force)`);
      });
      const stored = async () => ({
        counters: (await direct.em.fork().find(Counter, {}, { orderBy: { id: 1 } })).map(({ n }) => n),
        notes: (await direct.em.fork().find(Note, {}, { orderBy: { id: 1 } })).map(({ text }) => text),
      });
      return { fork: () => orm.em.fork(), stored };
    };

    test('a flush of one statement is saved and checked: rows of one table that are changed, removed, or new', async () => {
      const { fork, stored } = await open('statement');
      const stale = fork();
      const old = await stale.find(Counter, {});
      const em = fork();
      const counters = await em.find(Counter, {});
      counters.forEach((counter) => (counter.n = 10));
      await em.flush();
      old.forEach((counter) => (counter.n = 20));
      expect(await stale.flush().catch((error: unknown) => error)).toBeInstanceOf(ConcurrentUpdate);
      em.remove(counters[0]!);
      await em.flush();
      em.create(Note, { id: 2, text: 'new' });
      await em.flush();
      expect(await stored()).toEqual({ counters: [10, 10], notes: ['saved', 'new'] });
    });

    test('a flush of more than one statement is refused by the pooler, and nothing is written', async () => {
      const { fork, stored } = await open('statement');
      const em = fork();
      (await em.findOneOrFail(Counter, 1)).n = 10;
      (await em.findOneOrFail(Note, 1)).text = 'changed';
      expect(await em.flush().catch((error: unknown) => error)).toMatchObject({
        code: '08P01',
        message: expect.stringMatching(
          /^This flush \(.*\) takes a transaction, and there are none here.*transaction blocks not allowed in statement pooling mode\)$/,
        ),
      });
      expect(await stored()).toEqual({ counters: [0, 0, 0], notes: ['saved'] });
    });
  });
});
