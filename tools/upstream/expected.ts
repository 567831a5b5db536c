/**
 * What fails wrapped and passes plain, and is meant to: with the reason. Everything else that does is a bug of ours, or
 * belongs in here after somebody has looked at it.
 */
import type { Run } from './runs.ts';

/** Found by a run, not listed. */
export const SAME_WITH_ITS_OWN_LOCK = "fails too when the hidden version is under MikroORM's own lock";

interface Expectation {
  reason: string;
  /** Of which run; of both unless told. */
  run?: Exclude<Run, 'plain'>;
  /** Matched with "file > name of the test". */
  tests: RegExp;
  /** Matched with what the test says when it fails. */
  error?: RegExp;
}

const BLIND_WRITE = 'a write to a reference that was not loaded, and whose version nobody has named, is refused';

const EXPECTED: Expectation[] = [
  {
    // on MySQL its version is sent with the INSERT, and not read again
    reason: 'the SQL of a class with a version is ours',
    run: 'wrapped',
    tests:
      /GH3209.test.ts > custom date like mapped type in composite PK|GH5224.test.ts > optimistic locks and STI|GH3440.test.ts > GH issue 3440|default-values.mysql.test.ts > .* > database defaults will be available after flush/,
  },
  {
    reason: 'no BEGIN and COMMIT around a flush of one statement',
    run: 'wrapped',
    tests: /GH4122.test.ts > extra updates|GH5527.test.ts > should always use optimistic locking query/,
  },
  {
    // of a class with a version
    reason: 'no BEGIN and COMMIT around a flush of one statement',
    run: 'wrapped',
    tests: /default-values.(sqlite|postgre).test.ts > .* > database defaults will be available after flush/,
    error: /to be called 3 times, but got 1 times/,
  },
  {
    reason: 'our error says more, or another thing, than that of the lock of MikroORM',
    tests:
      /EntityManager.(postgre|pglite|mysql|mariadb).test.ts > .* > (findOne|lock) supports optimistic locking|concurrency-checks.\w+.test.ts > .* > throws when someone changed the state/,
    error: /could not be updated|is not what was claimed/,
  },
  {
    reason: 'the ORM class of a driver is compared with the one that this script puts in its place',
    tests: /EntityManager.\w+.test.ts > .* > isConnected/,
    error: /to be \[Function/,
  },
  {
    reason: BLIND_WRITE,
    tests: /GH4122.test.ts > updating versioned reference/,
    error: /is not known, so this update/,
  },
  {
    reason: BLIND_WRITE,
    run: 'versions',
    tests:
      /assign-unpersisted-reference|GH4879.test.ts > .*using id|GH4895|GH6855|GH467.test.ts > .*loaded collection from inverse|GHx10.test.ts > .*\(with reference\)|GH6655.test.ts > can re-assign to non-owning side|GHx8.test.ts > bulk update props|EntityManager.\w+.test.ts > .* > (should load entities|update reference with null|update with raw sql fragment|remove by unfetched entity)|GHx33.test.ts > findOne in beforeUpdate/,
    error: /is not known, so this (update|delete)/,
  },
  {
    // the statement that a test looks at by its number is another one, or there is none
    reason: 'no BEGIN and COMMIT around a flush of one statement',
    run: 'versions',
    tests: /./,
    error:
      /^Cannot read properties of undefined \(reading '0'\)\s+at tests|to be called \d+ times, but got \d+ times\s+at Proxy.lenient/,
  },
  {
    reason: 'no BEGIN and COMMIT around a flush of one statement',
    run: 'versions',
    tests: /map-to-pk.test.ts > mapToPk > mapToPk works with flushing and cascades/,
    error: /to have a length of 10 but got 5/,
  },
  {
    reason: 'the first flush asks which relations are no plain tables',
    run: 'versions',
    tests: /GHx10.test.ts > orphan removal with complex FKs sharing a column \(with loaded entity\)/,
    error: /to have a length of 8 but got 9/,
  },
  {
    reason:
      'the hidden version shows in metadata, compiled functions and rows that are inserted, which the test compares as text',
    run: 'versions',
    tests: /GH6112|GH7463|GH7475|embeddable-custom-types|nested-embeddables|query-builder.*onConflict with merge/,
    error: /hidden_?version/i,
  },
  {
    reason: 'the table was dropped while a change was pending: the row is gone',
    run: 'versions',
    tests: /GH2815.test.ts > .* > test 1-1 propagation for orphanremoval true/,
    error: /the row is gone/,
  },
  {
    reason: 'the hidden version is not enumerable, and em.refresh() copies what is',
    run: 'versions',
    tests: /GH6705.test.ts > em.refresh\(\)/,
    error: /to have a length of \+0 but got 1/,
  },
];

export function reasonOf(run: Run, test: string, error: string): string | undefined {
  const one = EXPECTED.find(
    (expected) =>
      (!expected.run || expected.run === run) && expected.tests.test(test) && (expected.error?.test(error) ?? true),
  );
  return one?.reason;
}
