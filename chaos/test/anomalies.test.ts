/** Histories with one anomaly each, and the name that is given to it. */
import { expect, test } from 'vitest';
import { type Anomaly, findAnomalies } from '../anomalies.ts';
import type { HistoryRecord, Seen, Write } from '../history.ts';

interface Transaction {
  /** Account and version. */
  readonly reads?: readonly (readonly [number, number])[];
  /** Account and the version that it leaves behind. */
  /** Of those that it does not write, what must stay. */
  readonly rests?: readonly (readonly [number, number])[];
  readonly writes?: readonly (readonly [number, number])[];
  readonly isAborted?: true;
}

const balanceOf = (account: number, version: number) => 100 * account + version;

/** Accounts 1 to 3 at version 1, and these transactions. */
function history(transactions: Readonly<Record<string, Transaction>>): HistoryRecord[] {
  const write = (account: number, written: number): Write => {
    const balance = balanceOf(account, written);
    const [kind, read] = written === 1 ? (['create', null] as const) : (['update', written - 1] as const);
    return { account, incarnation: 1, kind, read, written, balance };
  };
  const setup: Transaction = { writes: [1, 2, 3].map((account) => [account, 1]) };
  const all = Object.entries({ setup, ...transactions });
  const writesOf = ({ writes = [] }: Transaction) => writes.map(([account, written]) => write(account, written));
  return [
    ...all.flatMap(([attempt, transaction]) =>
      transaction.isAborted ? [] : writesOf(transaction).map((one) => ({ type: 'journal' as const, attempt, ...one })),
    ),
    ...all.flatMap(([attempt, transaction]): HistoryRecord[] => {
      const { reads = [], rests = [] } = transaction;
      const rowsOf = (rows: typeof reads) =>
        rows.map(([account, version]): Seen => [account, 1, version, balanceOf(account, version)]);
      return [
        { type: 'read', attempt, rows: rowsOf(reads) },
        { type: 'rests', attempt, rows: rowsOf(rests) },
        { type: 'intent', attempt, writes: writesOf(transaction) },
        { type: 'end', attempt, outcome: transaction.isAborted ? 'failure' : 'success' },
      ];
    }),
  ];
}

const sound: Record<string, Record<string, Transaction>> = {
  'one after the other': {
    a: {
      reads: [
        [1, 1],
        [2, 1],
      ],
      writes: [
        [1, 2],
        [2, 2],
      ],
    },
    b: {
      reads: [
        [1, 2],
        [2, 2],
      ],
      writes: [
        [1, 3],
        [2, 3],
      ],
    },
  },
  'a loser that was told': {
    a: { reads: [[1, 1]], writes: [[1, 2]] },
    b: { reads: [[1, 1]], writes: [[1, 2]], isAborted: true },
  },
  'the same row twice in one transaction': {
    a: {
      reads: [[1, 1]],
      writes: [
        [1, 2],
        [1, 3],
      ],
    },
    b: { reads: [[1, 3]], writes: [[2, 2]] },
  },
  'what a write rests on is written by the next one': {
    a: { rests: [[2, 1]], writes: [[1, 2]] },
    b: { rests: [[1, 2]], writes: [[2, 2]] },
  },
  'two that rest on each other, of which one was told': {
    a: { rests: [[2, 1]], writes: [[1, 2]] },
    b: { rests: [[1, 1]], writes: [[2, 2]], isAborted: true },
  },
  'a reader of old rows, none of which it mixes with newer ones': {
    a: { reads: [[1, 1]], writes: [[1, 2]] },
    b: { reads: [[1, 1]], writes: [[2, 2]] },
  },
};

test.each(Object.entries(sound))('has no name for %s', (_, transactions) => {
  expect(findAnomalies(history(transactions))).toEqual([]);
});

/** `far` is made on another node than all others. */
const nodeOf = (attempt: string) => (attempt === 'far' ? 1 : 0);

const planted: Record<Anomaly, [Record<string, Transaction>, string]> = {
  P4: [
    { a: { reads: [[1, 1]], writes: [[1, 2]] }, b: { reads: [[1, 1]], writes: [[1, 2]] } },
    'a and b have both written over version 1 of account 1.',
  ],
  G0: [
    {
      a: {
        writes: [
          [1, 2],
          [2, 3],
        ],
      },
      b: {
        writes: [
          [1, 3],
          [2, 2],
        ],
      },
    },
    'a -ww(1)-> b -ww(2)-> a',
  ],
  G1a: [
    { a: { writes: [[1, 2]], isAborted: true }, b: { reads: [[1, 2]], writes: [[2, 2]] } },
    'b has read version 2 of account 1, which a has not committed.',
  ],
  G1b: [
    {
      a: {
        writes: [
          [1, 2],
          [1, 3],
        ],
      },
      b: { reads: [[1, 2]] },
    },
    'b has read version 2 of account 1, which a itself has written over.',
  ],
  G1c: [
    { a: { reads: [[2, 2]], writes: [[1, 2]] }, b: { reads: [[1, 2]], writes: [[2, 2]] } },
    'a -wr(1)-> b -wr(2)-> a',
  ],
  'G2-verified': [
    { a: { rests: [[2, 1]], writes: [[1, 2]] }, b: { rests: [[1, 1]], writes: [[2, 2]] } },
    'a -rw(2)-> b -rw(1)-> a',
  ],
  'G2-verified between nodes': [
    { a: { rests: [[2, 1]], writes: [[1, 2]] }, far: { rests: [[1, 1]], writes: [[2, 2]] } },
    'a -rw(2)-> far -rw(1)-> a',
  ],
  'G-single': [
    // a has read what b wrote, and beside it what b has written over
    {
      a: {
        reads: [
          [1, 1],
          [2, 2],
        ],
        writes: [[3, 2]],
      },
      b: {
        writes: [
          [1, 2],
          [2, 2],
        ],
      },
    },
    'a -rw(1)-> b -wr(2)-> a',
  ],
  'G2-item': [
    // write skew
    {
      a: {
        reads: [
          [1, 1],
          [2, 1],
        ],
        writes: [[1, 2]],
      },
      b: {
        reads: [
          [1, 1],
          [2, 1],
        ],
        writes: [[2, 2]],
      },
    },
    'a -rw(2)-> b -rw(1)-> a',
  ],
};

test.each(Object.entries(planted))('%s', (kind, [transactions, text]) => {
  expect(findAnomalies(history(transactions), nodeOf)).toEqual([{ kind, text }]);
});

test('what is excused between nodes hides nothing of one node', () => {
  const findings = findAnomalies(
    history({
      a: { rests: [[2, 1]], writes: [[1, 2]] },
      b: { rests: [[1, 1]], writes: [[2, 2]] },
      c: { rests: [[3, 1]], writes: [[1, 3]] },
      far: { rests: [[1, 2]], writes: [[3, 2]] },
    }),
    nodeOf,
  );
  expect(findings.map(({ kind, text }) => `${kind}: ${text}`)).toEqual([
    'G2-verified: a -rw(2)-> b -rw(1)-> a',
    'G2-verified between nodes: far -rw(1)-> c -rw(3)-> far',
  ]);
});

test('a long cycle has its name too, and so has each of several', () => {
  const findings = findAnomalies(
    history({
      a: { reads: [[1, 1]], writes: [[2, 2]] },
      b: { reads: [[2, 1]], writes: [[3, 2]] },
      c: { reads: [[3, 1]], writes: [[1, 2]] },
      d: { reads: [[1, 2]], writes: [[1, 3]] },
      e: { reads: [[1, 2]], writes: [[1, 3]] },
    }),
  );
  expect(findings.map(({ kind }) => kind)).toEqual(['P4', 'G2-item']);
});
