/** The checker on histories into which one thing was planted that must not happen. */
import { expect, test } from 'vitest';
import { type Violation, check } from '../checker.ts';
import type { HistoryRecord, Outcome, Seen, Write } from '../history.ts';

const create = (account: number, balance: number, incarnation = 1, written = 1): Write => {
  return { account, incarnation, kind: 'create', read: null, written, balance };
};
const update = (account: number, read: number, balance: number, incarnation = 1): Write => {
  return { account, incarnation, kind: 'update', read, written: read + 1, balance };
};
const remove = (account: number, read: number, incarnation = 1): Write => {
  return { account, incarnation, kind: 'delete', read, written: null, balance: 0 };
};
const row = (account: number, version: number, balance: number, incarnation = 1): HistoryRecord => {
  return { type: 'row', account, incarnation, version, balance };
};

interface Planted {
  /** What was intended, what the worker was told, and what is in the journal when that is another thing. */
  readonly attempts: Readonly<Record<string, readonly [readonly Write[], Outcome | 'killed', (readonly Write[])?]>>;
  readonly rows: readonly HistoryRecord[];
  readonly total?: number;
  readonly stock?: number;
  readonly reads?: readonly (readonly [number, number, number, number])[];
  /** What a second node has. */
  readonly elsewhere?: HistoryRecord;
}

function history({ attempts, rows, total = 200, stock = 0, reads = [], elsewhere }: Planted): HistoryRecord[] {
  const entries = Object.entries(attempts);
  return [
    { type: 'total', of: 'account', total },
    { type: 'total', of: 'stock', total: stock },
    ...rows,
    ...entries.flatMap(([attempt, [writes, outcome, journal]]) => {
      const found = journal ?? (outcome === 'success' ? writes : []);
      return found.map((write) => ({ type: 'journal' as const, attempt, ...write }));
    }),
    ...(elsewhere ? [elsewhere] : []),
    ...(reads.length > 0 ? [{ type: 'read' as const, attempt: 'reader', rows: reads }] : []),
    ...entries.flatMap(([attempt, [writes, outcome]]): HistoryRecord[] => [
      ...(writes.length > 0 ? [{ type: 'intent' as const, attempt, writes }] : []),
      ...(outcome === 'killed' ? [] : [{ type: 'end' as const, attempt, outcome }]),
    ]),
  ];
}

/** What the second node has. */
const node = (lines: number, ...rows: Seen[]): HistoryRecord => ({ type: 'elsewhere', node: 2, rows, lines });

const setup = [[create(1, 100), create(2, 100)], 'success'] as const;
const move = [update(1, 1, 90), update(2, 1, 110)] as const;
const moved = [row(1, 2, 90), row(2, 2, 110)] as const;
const unmoved = [row(1, 1, 100), row(2, 1, 100)] as const;

const raw = (account: number, read: number, balance: number, written = read + 1): Write => {
  return { ...update(account, read, balance), kind: 'raw', written };
};

/** Two accounts, an order with 4 lines, a pair of doctors, and some stock. */
const opened = [
  [...setup[0], create(101, 4), create(201, 1), create(202, 1), create(301, 50), create(302, 50)],
  'success',
] as const;
const closed = (...last: HistoryRecord[]): HistoryRecord[] => {
  const rows = [row(101, 1, 4), row(201, 1, 1), row(202, 1, 1), row(301, 1, 50), row(302, 1, 50)];
  const idOf = (record: HistoryRecord) => (record as Extract<HistoryRecord, { type: 'row' }>).account;
  return [...unmoved, ...rows.filter((one) => !last.some((other) => idOf(other) === idOf(one))), ...last];
};

const sound: Record<string, Planted> = {
  'nothing but a transfer': { attempts: { setup, a: [move, 'success'] }, rows: moved },
  'two nodes that have the same': {
    attempts: { setup, a: [move, 'success'] },
    rows: moved,
    elsewhere: node(4, [2, 1, 2, 110], [1, 1, 2, 90]),
  },
  'a failure that left nothing': { attempts: { setup, a: [move, 'failure'] }, rows: unmoved },
  'an unknown outcome that is in the database': { attempts: { setup, a: [move, 'unknown', move] }, rows: moved },
  'an unknown outcome that is not': { attempts: { setup, a: [move, 'unknown'] }, rows: unmoved },
  'a killed worker that has committed': { attempts: { setup, a: [move, 'killed', move] }, rows: moved },
  'a killed worker that has not': { attempts: { setup, a: [move, 'killed'] }, rows: unmoved },
  'the same row twice in one transaction': {
    attempts: { setup, a: [[...move, update(1, 2, 80), update(2, 2, 120)], 'success'] },
    rows: [row(1, 3, 80), row(2, 3, 120)],
  },
  'a row that was deleted': {
    attempts: { setup, a: [[remove(1, 1), update(2, 1, 200)], 'success'] },
    rows: [row(2, 2, 200)],
  },
  'an order that is full, a doctor off call, and stock that was moved past the ORM': {
    attempts: {
      setup: opened,
      a: [[update(101, 1, 5), update(201, 1, 0)], 'success'],
      b: [[raw(301, 1, 40), raw(302, 1, 60)], 'success'],
      c: [[update(301, 2, 30), update(302, 2, 70)], 'success'],
    },
    rows: closed(row(101, 2, 5), row(201, 2, 0), row(301, 3, 30), row(302, 3, 70)),
    stock: 100,
    reads: [
      [101, 1, 2, 5],
      [201, 1, 2, 0],
      [202, 1, 1, 1],
      [301, 1, 2, 40],
    ],
  },
  'a row that was deleted and created again': {
    attempts: {
      setup,
      a: [[remove(1, 1), update(2, 1, 200)], 'success'],
      b: [[create(1, 30, 2, 2), update(2, 2, 170)], 'success'],
      c: [[update(1, 2, 40, 2), update(2, 3, 160)], 'success'],
    },
    rows: [row(1, 3, 40, 2), row(2, 4, 160)],
    reads: [
      [1, 1, 1, 100],
      [1, 2, 2, 30],
    ],
  },
};

test.each(Object.entries(sound))('is content with %s', (_, planted) => {
  expect(check(history(planted)).violations).toEqual([]);
});

const rival = [update(1, 1, 80), update(2, 1, 120)] as const;

const planted: Record<string, [Planted, Violation, RegExp]> = {
  'two writers of one version': [
    { attempts: { setup, a: [move, 'success'], b: [rival, 'success'] }, rows: [row(1, 2, 80), row(2, 2, 120)] },
    'lostUpdate',
    /Account 1 \(incarnation 1\): version 1 has 2 writers: a \(update\), b \(update\)/,
  ],
  'an update of a version that was deleted': [
    {
      attempts: { setup, a: [[remove(1, 1), update(2, 1, 200)], 'success'], b: [[update(1, 1, 90)], 'success'] },
      rows: [row(2, 2, 200)],
    },
    'lostUpdate',
    /version 1 has 2 writers: a \(delete\), b \(update\)/,
  ],
  'a row that was created twice': [
    { attempts: { setup, a: [[create(1, 100)], 'success'] }, rows: unmoved },
    'lostUpdate',
    /it has 2 writers: setup \(create\), a \(create\)/,
  ],
  'a gap in a chain': [
    { attempts: { setup, a: [[update(1, 2, 100)], 'success'] }, rows: [row(1, 3, 100), row(2, 1, 100)] },
    'chain',
    /its chain ends at version 1, and 1 writes are not in it/,
  ],
  'a version that was skipped': [
    {
      attempts: { setup, a: [[{ ...update(1, 1, 100), written: 3 }], 'success'] },
      rows: [row(1, 3, 100), row(2, 1, 100)],
    },
    'chain',
    /a writer that had read version 1 wrote 3/,
  ],
  'a version that was not moved': [
    { attempts: { setup, a: [[{ ...update(1, 1, 100), written: 1 }], 'success'] }, rows: unmoved },
    'chain',
    /a writer that had read version 1 wrote 1/,
  ],
  'a version that nobody has written': [
    { attempts: { setup }, rows: [row(1, 2, 100), row(2, 1, 100)] },
    'count',
    /Account 1 \(incarnation 1\) has version 2, but 1 writes were committed/,
  ],
  'a row that is gone without a delete': [
    { attempts: { setup, a: [[update(2, 1, 200)], 'success'] }, rows: [row(2, 2, 200)] },
    'chain',
    /Account 1 \(incarnation 1\) ends at version 1 without a delete, but is gone/,
  ],
  'a row that is there after its delete': [
    {
      attempts: { setup, a: [[remove(1, 1), update(2, 1, 200)], 'success'] },
      rows: [row(1, 1, 0), row(2, 2, 200)],
    },
    'chain',
    /was deleted at version 1, but is there with version 1/,
  ],
  'a row that was never created': [
    { attempts: { setup, a: [[update(3, 1, 0)], 'success'] }, rows: [...unmoved, row(3, 2, 0)] },
    'chain',
    /Account 3 \(incarnation 1\) was written, but never created/,
  ],
  'a row that the journal does not know': [
    { attempts: { setup }, rows: [...unmoved, row(3, 1, 0)] },
    'chain',
    /Account 3 exists, but the journal does not know it/,
  ],
  'an older incarnation than the last one': [
    {
      attempts: { setup, a: [[remove(1, 1), create(1, 100, 2, 2)], 'success'] },
      rows: [row(1, 1, 100, 1), row(2, 1, 100)],
    },
    'chain',
    /Account 1 is in incarnation 1, the journal in 2/,
  ],
  'a wrong sum': [{ attempts: { setup }, rows: unmoved, total: 199 }, 'sum', /are 200, and should be 199/],
  'a row that its last writer left otherwise': [
    { attempts: { setup, a: [move, 'success'] }, rows: [row(1, 2, 80), row(2, 2, 120)] },
    'balance',
    /holds 80, but its last writer left 90/,
  ],
  'a node that has an older row': [
    {
      attempts: { setup, a: [move, 'success'] },
      rows: moved,
      elsewhere: node(4, [1, 1, 1, 100], [2, 1, 2, 110]),
    },
    'diverged',
    /Only the first node has account 1 \(incarnation 1\) at version 2 with 90; only node 2 has account 1 .* version 1/,
  ],
  'a node that has less of the journal': [
    {
      attempts: { setup },
      rows: unmoved,
      elsewhere: node(1, [1, 1, 1, 100], [2, 1, 1, 100]),
    },
    'diverged',
    /Node 2 has 1 lines in its journal, and the first one 2/,
  ],
  'a read of what nobody has committed': [
    { attempts: { setup, a: [move, 'failure'] }, rows: unmoved, reads: [[1, 1, 2, 90]] },
    'read',
    /was read at version 2 with a balance of 90, but nobody has committed that version/,
  ],
  'a read of one version with two contents': [
    { attempts: { setup }, rows: unmoved, reads: [[1, 1, 1, 90]] },
    'read',
    /was read at version 1 with a balance of 90, but that version was written with 100/,
  ],
  'a success that is not in the database': [
    { attempts: { setup, a: [move, 'success', []] }, rows: unmoved },
    'lostSuccess',
    /a was reported as a success, but the database has nothing of/,
  ],
  'a failure that is in the database': [
    { attempts: { setup, a: [move, 'failure', move] }, rows: moved },
    'hiddenSuccess',
    /a was reported as a failure, but the database has/,
  ],
  'half of a success': [
    { attempts: { setup, a: [move, 'success', [move[0]]] }, rows: [row(1, 2, 90), row(2, 1, 110)] },
    'torn',
    /a was going to write/,
  ],
  'half of what a killed worker was writing': [
    { attempts: { setup, a: [move, 'killed', [move[0]]] }, rows: [row(1, 2, 90), row(2, 1, 110)] },
    'torn',
    /a was going to write/,
  ],
  'a success based on another version than was read': [
    { attempts: { setup, a: [move, 'success', [{ ...move[0], read: 0 }, move[1]]] }, rows: moved },
    'torn',
    /a was going to write/,
  ],
  'an order with too many lines': [
    {
      attempts: { setup: opened, a: [[update(101, 1, 6)], 'success'] },
      rows: closed(row(101, 2, 6)),
      stock: 100,
    },
    'lines',
    /Sale 101 has 6 lines at version 2/,
  ],
  'an order that had too many lines when it was read': [
    {
      attempts: { setup: opened, a: [[update(101, 1, 6), update(101, 2, 5)], 'success'] },
      rows: closed(row(101, 3, 5)),
      stock: 100,
      reads: [[101, 1, 2, 6]],
    },
    'lines',
    /Sale 101 has 6 lines at version 2/,
  ],
  'a pair that is off call': [
    {
      attempts: { setup: opened, a: [[update(201, 1, 0)], 'success'], b: [[update(202, 1, 0)], 'success'] },
      rows: closed(row(201, 2, 0), row(202, 2, 0)),
      stock: 100,
    },
    'offCall',
    /Doctor 201 at version 2 and doctor 202 at version 2 are both off call/,
  ],
  'a pair that was off call when it was read': [
    {
      attempts: {
        setup: opened,
        a: [[update(201, 1, 0)], 'success'],
        b: [[update(202, 1, 0)], 'success'],
        c: [[update(202, 2, 1)], 'success'],
      },
      rows: closed(row(201, 2, 0), row(202, 3, 1)),
      stock: 100,
      reads: [
        [201, 1, 2, 0],
        [202, 1, 2, 0],
      ],
    },
    'offCall',
    /are both off call/,
  ],
  'a change past the ORM that is in no version': [
    {
      attempts: { setup: opened, a: [[raw(301, 1, 40, 1), raw(302, 1, 60)], 'success'] },
      rows: closed(row(301, 1, 40), row(302, 2, 60)),
      stock: 100,
    },
    'unseen',
    /Stock 301 .*: a has written it past the ORM, and version 1 is what it was/,
  ],
  'a change past the ORM that a flush has written over': [
    {
      attempts: { setup: opened, a: [[raw(301, 1, 40, 1)], 'success'], b: [[update(301, 1, 45)], 'success'] },
      rows: closed(row(301, 2, 45)),
      stock: 100,
    },
    'lostUpdate',
    /Stock 301 .*: version 1 has 2 writers: a \(raw\), b \(update\)/,
  ],
  'stock that is lost': [
    { attempts: { setup: opened }, rows: closed(), stock: 99 },
    'sum',
    /All of stock together are 100, and should be 99/,
  ],
  'a write that was never intended': [
    { attempts: { setup, a: [[], 'success', move] }, rows: moved },
    'unheard',
    /a has written .* and never said that it would/,
  ],
};

test.each(Object.entries(planted))('finds %s', (_, [plantedHistory, kind, text]) => {
  const { violations } = check(history(plantedHistory));
  expect(violations).toContainEqual({ kind, text: expect.stringMatching(text) });
});

test('counts', () => {
  const verdict = check([
    ...history({
      attempts: {
        setup,
        a: [move, 'success'],
        b: [[update(1, 2, 100), update(2, 2, 100)], 'unknown', [update(1, 2, 100), update(2, 2, 100)]],
        c: [[update(1, 3, 50)], 'killed'],
        d: [[update(1, 3, 60)], 'unknown'],
      },
      rows: [row(1, 3, 100), row(2, 3, 100)],
      reads: [[1, 1, 1, 100]],
    }),
    { type: 'end', attempt: 'e', outcome: 'failure', error: 'ConcurrentUpdate' },
    { type: 'end', attempt: 'f', outcome: 'failure', error: 'ConcurrentUpdate' },
  ]);
  expect(verdict).toEqual({
    violations: [],
    outcomes: { success: 2, failure: 2, unknown: 2, killed: 1 },
    unknownCommitted: 1,
    errors: new Map([['ConcurrentUpdate', 2]]),
    writes: 6,
    writesOf: { account: 6, sale: 0, doctor: 0, stock: 0, raw: 0 },
    reads: 1,
  });
});
