/** A PostgreSQL with a hot standby: reads that lag, and what is left when the standby takes over. */
import { setTimeout as wait } from 'node:timers/promises';
import { PostgreSqlDriver } from '@mikro-orm/postgresql';
import { CommitOutcomeUnknown, ConcurrentUpdate, verify } from '@mikro-ool/core';
import { etag, ifMatch } from '@mikro-ool/http';
import { retryOnConflict } from '@mikro-ool/resolve';
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { type Replicated, query, startReplicated } from './standby.ts';
import { Counter, type Lock, type Orm, connect, report, seed, storm, tellsOf } from './storm.ts';

const LAG = 300;
const STORM = { workers: 8, rows: 5, flushes: Number.POSITIVE_INFINITY };
/** How long a storm lasts. */
const WHILE = 5000;

let pair: Replicated;

/** Writes go to one of the two, reads outside of transactions to the other one, if there is one. */
async function open(url: string, replica?: string, lock: Lock = 'mikro-ool'): Promise<Orm> {
  const orm = await connect(PostgreSqlDriver, lock, {
    clientUrl: url,
    dbName: 'postgres',
    entities: [Counter],
    pool: { min: 0, max: 8 },
    ...(replica && { replicas: [{ clientUrl: replica }] }),
    driverOptions: { connectionTimeoutMillis: 2000 },
  });
  onTestFinished(() => orm.close(true));
  return orm;
}

beforeEach(async () => {
  pair = await startReplicated();
  onTestFinished(() => pair.dispose());
  const orm = await open(pair.primary.url);
  await orm.schema.create();
  await seed(orm, STORM.rows);
  await pair.caughtUp();
});

describe(`a standby as replica, ${LAG} ms behind`, () => {
  const behind = async (lock?: Lock) => {
    await pair.lag(LAG);
    return open(pair.primary.url, pair.standby.url, lock);
  };

  test('a storm: nothing is lost', async () => {
    const orm = await behind();
    const outcome = await storm([orm], { ...STORM, until: AbortSignal.timeout(WHILE) });
    await pair.caughtUp();
    const [told] = await tellsOf(orm.em);
    report(`mikro-ool, reads ${LAG} ms old`, outcome, outcome.saved - told!.n);
    expect(outcome.errors).toEqual({});
    expect(outcome.conflicts).toBeGreaterThan(0);
    expect(told).toEqual({ n: outcome.saved, writes: outcome.saved });
    expect(await tellsOf((await open(pair.standby.url)).em)).toEqual([told]);
  });

  test('the same with `version: true`: updates are lost', async () => {
    const orm = await behind('version: true');
    const outcome = await storm([orm], { ...STORM, until: AbortSignal.timeout(WHILE) });
    await pair.caughtUp();
    const [told] = await tellsOf(orm.em);
    const lost = outcome.saved - told!.n;
    report(`version: true, reads ${LAG} ms old`, outcome, lost);
    expect(lost).toBeGreaterThan(0);
  });

  test('what a conflict says is true, and whoever tries again gets out', async () => {
    const orm = await behind();
    const rival = orm.em.fork();
    const stale = orm.em.fork();
    (await rival.findOneOrFail(Counter, 1)).n++;
    await rival.flush();
    const counter = await stale.findOneOrFail(Counter, 1);
    expect(counter.version).toBe(1);
    counter.n += 10;
    const error = await stale.flush().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(ConcurrentUpdate);
    expect((error as ConcurrentUpdate).conflicts).toMatchObject([{ primaryKey: 1, expected: 1, actual: 2 }]);
    // read from where it is written
    await stale.refresh(counter);
    counter.n += 10;
    await stale.flush();
    await retryOnConflict(orm.em, async (em) => void ((await em.findOneOrFail(Counter, 1)).n += 100));
    expect(await orm.em.fork().findOneOrFail(Counter, 1, { connectionType: 'write' })).toMatchObject({
      n: 111,
      version: 4,
    });
  });

  test('never both: each verifies what the other one writes', async () => {
    const orm = await behind();
    const relying = async (read: number, written: number) => {
      const em = orm.em.fork();
      verify(await em.findOneOrFail(Counter, read));
      (await em.findOneOrFail(Counter, written)).n++;
      await em.flush();
    };
    const saved: number[] = [];
    for (let round = 0; round < 10; round++) {
      const results = await Promise.allSettled([relying(1, 2), relying(2, 1)]);
      saved.push(results.filter(({ status }) => status === 'fulfilled').length);
      await pair.caughtUp();
    }
    expect(saved).not.toContain(2);
    expect(saved).toContain(1);
  });

  test('a fresh ETag does not match a row that the standby has not got, and does where the primary is read', async () => {
    const orm = await behind();
    const em = orm.em.fork();
    const saved = await em.findOneOrFail(Counter, 1);
    saved.n++;
    await em.flush();
    const tag = etag(saved);
    const lagging = await orm.em.fork().findOneOrFail(Counter, 1);
    expect(() => ifMatch(tag, lagging)).toThrow(expect.objectContaining({ status: 412 }));
    const current = await orm.em.fork().findOneOrFail(Counter, 1, { connectionType: 'write' });
    expect(ifMatch(tag, current)).toBe(2);
  });
});

/** Somebody else is faster the first time. */
async function expectRetried({ em }: Orm): Promise<void> {
  let attempts = 0;
  await retryOnConflict(em, async (tx) => {
    const counter = await tx.findOneOrFail(Counter, 1);
    if (attempts++ === 0) {
      const rival = em.fork();
      (await rival.findOneOrFail(Counter, 1)).n++;
      await rival.flush();
    }
    counter.n++;
  });
  expect(attempts).toBe(2);
}

describe('the primary dies, and the standby takes over', () => {
  /** The standby is away when the primary dies, so what was committed in between is on the primary alone. */
  const failOver = async (meanwhile: () => Promise<unknown>) => {
    await pair.standby.stop();
    const working = meanwhile();
    await wait(1000);
    await pair.primary.kill();
    await working;
    await pair.standby.start();
    await pair.promote();
    // where commits wait for a standby, the new primary needs one, too
    await pair.replaceOld();
    return open(pair.primary.url);
  };

  for (const synchronous of [false, true]) {
    test(`in a storm, with ${synchronous ? 'synchronous' : 'asynchronous'} replication`, async () => {
      await pair.synchronous(synchronous);
      const orm = await open(pair.primary.url);
      const over = new AbortController();
      let before = 0;
      const storming = storm([orm], { ...STORM, until: over.signal });
      await wait(500);
      const after = await failOver(async () => {
        before = (await query<{ n: number }>(pair.primary, 'select n from counter where id = 1'))[0]!.n;
        setTimeout(() => over.abort(), 1500);
      });
      const outcome = await storming;
      const told = await tellsOf(after.em);
      const lost = outcome.saved - told[0]!.n;
      report(`${synchronous ? 'synchronous' : 'asynchronous'}, ${before} when the standby went away`, outcome, lost);
      // all of a flush or nothing of it, with one version for each
      expect(told).toEqual([{ n: told[0]!.writes, writes: told[0]!.writes }]);
      if (synchronous) {
        expect(lost).toBeLessThanOrEqual(0);
        expect(-lost).toBeLessThanOrEqual(outcome.unknown);
        expect(outcome.unknown).toBeGreaterThan(0);
      } else {
        expect(lost).toBeGreaterThan(0);
      }
      // the new primary is written like the old one
      const more = await storm([after], { ...STORM, flushes: 100 });
      const n = told[0]!.n + more.saved;
      expect(await tellsOf(after.em)).toEqual([{ n, writes: n }]);
      await expectRetried(after);
    });
  }

  test('the new primary gets a standby of its own, which takes over in turn, and what was acknowledged is there', async () => {
    await pair.synchronous(true);
    for (let turn = 1; turn <= 2; turn++) {
      const orm = await open(pair.primary.url);
      const { saved } = await storm([orm], { ...STORM, flushes: 20 });
      expect(saved).toBeGreaterThan(0);
      const told = await tellsOf(orm.em);
      await pair.primary.kill();
      await pair.promote();
      await pair.replaceOld();
      await pair.caughtUp();
      expect(await query(pair.primary, 'show synchronous_standby_names')).toEqual([
        { synchronous_standby_names: 'standby' },
      ]);
      for (const { url } of [pair.primary, pair.standby]) {
        expect(await tellsOf((await open(url)).em)).toEqual(told);
      }
    }
  });

  test('what a lossy fail-over cannot promise: a version is given out twice, and a form with the lost one is saved', async () => {
    const orm = await open(pair.primary.url);
    const editor = orm.em.fork();
    let form = 0;
    const after = await failOver(async () => {
      const counter = await editor.findOneOrFail(Counter, 1);
      counter.n = 10;
      await editor.flush();
      form = counter.version;
    });
    const somebody = after.em.fork();
    (await somebody.findOneOrFail(Counter, 1)).n = 20;
    await somebody.flush();
    const again = after.em.fork();
    again.assign(again.getReference(Counter, 1), { n: 30, version: form });
    await again.flush();
    expect(await after.em.fork().findOneOrFail(Counter, 1)).toMatchObject({ n: 30, version: 3 });
  });

  test('a COMMIT that waits for the standby when the primary dies has an unknown outcome', async () => {
    await pair.synchronous(true);
    const orm = await open(pair.primary.url);
    let error: unknown;
    await failOver(async () => {
      const em = orm.em.fork();
      (await em.findOneOrFail(Counter, 1)).n = 10;
      error = await em.flush().catch((reason: unknown) => reason);
    });
    expect(error).toBeInstanceOf(CommitOutcomeUnknown);
  });
});
