/**
 * Does a history hold together? Pure: records in, sentences out.
 *
 * The journal is the database's own word on who has written which version: its lines were written in the same
 * transactions as the rows, and no constraint keeps two writers of one version out of it. A lost update is two writers
 * of one version; every other accident breaks a chain, the sum, or what a worker was told.
 */
import type { HistoryRecord, Outcome, Seen, Write } from './history.ts';
import { LINES, type RowKind, kindOf, nameOf, pairs } from './rows.ts';

/** What can be wrong. */
export const VIOLATIONS = {
  sum: 'the sum of all balances, or of all stock, is wrong',
  lostUpdate: 'a version was written over by more than one writer',
  chain: 'the versions of a row are no unbroken chain',
  count: 'the version of a row is not its number of committed writes',
  balance: 'a row is not what its last writer left behind',
  read: 'a version was read that nobody had committed like this',
  lostSuccess: 'a success was reported that is not in the database',
  hiddenSuccess: 'a failure was reported for what is in the database',
  torn: 'a part of a transaction is in the database, and a part is not',
  diverged: 'another node has something else',
  lines: `an order has more than ${LINES} lines`,
  offCall: 'nobody of a pair is on call',
  unseen: 'a change past the ORM has left the version as it was',
  unheard: 'something is in the database that no worker was going to write',
} as const;

export type Violation = keyof typeof VIOLATIONS;

export interface Verdict {
  readonly violations: readonly { readonly kind: Violation; readonly text: string }[];
  /** How often an attempt ended how, by outcome; those without an end were killed. */
  readonly outcomes: Readonly<Record<Outcome | 'killed', number>>;
  /** Attempts whose outcome nobody was told, and which are in the database. */
  readonly unknownCommitted: number;
  readonly errors: ReadonlyMap<string, number>;
  /** Lines of the journal, … */
  readonly writes: number;
  /** … and of what. */
  readonly writesOf: Readonly<Record<RowKind | 'raw', number>>;
  readonly reads: number;
}

interface Attempt {
  writes: readonly Write[];
  outcome?: Outcome;
  readonly journal: Write[];
}

/** @param history the records of the database first, then those of the workers */
export function check(history: Iterable<HistoryRecord>): Verdict {
  const violations: { kind: Violation; text: string }[] = [];
  const report = (kind: Violation, text: string) => violations.push({ kind, text });
  const rows = new Map<number, Extract<HistoryRecord, { type: 'row' }>>();
  const attempts = new Map<string, Attempt>();
  const incarnations = new Map<string, { write: Write; attempt: string }[]>();
  const committed = new Map<string, Write>();
  const errors = new Map<string, number>();
  const totals = new Map<RowKind, number>();
  const writesOf = { account: 0, sale: 0, doctor: 0, stock: 0, raw: 0 };
  let writes = 0;
  let reads = 0;
  const attemptOf = (id: string) => attempts.get(id) ?? attempts.set(id, { writes: [], journal: [] }).get(id)!;
  const badReads = new Set<string>();
  const broken = new Map<string, Violation>();
  const nodes: Extract<HistoryRecord, { type: 'elsewhere' }>[] = [];

  for (const record of history) {
    switch (record.type) {
      case 'total':
        totals.set(record.of, record.total);
        break;
      case 'row':
        rows.set(record.account, record);
        break;
      case 'journal': {
        const { type: _, attempt, ...write } = record;
        writes++;
        writesOf[write.kind === 'raw' ? 'raw' : kindOf(write.account)]++;
        attemptOf(attempt).journal.push(write);
        const key = `${write.account}/${write.incarnation}`;
        (incarnations.get(key) ?? incarnations.set(key, []).get(key)!).push({ write, attempt });
        if (write.written !== null) {
          committed.set(`${key}/${write.written}`, write);
        }
        break;
      }
      case 'read':
        checkState(record.rows, broken);
        for (const [account, incarnation, version, balance] of record.rows) {
          reads++;
          const write = committed.get(`${account}/${incarnation}/${version}`);
          if (write?.balance !== balance) {
            badReads.add(
              `${titleOf(account)} (incarnation ${incarnation}) was read at version ${version} with a balance of ${balance}, ` +
                (write
                  ? `but that version was written with ${write.balance}.`
                  : 'but nobody has committed that version.'),
            );
          }
        }
        break;
      case 'elsewhere':
        nodes.push(record);
        break;
      case 'intent':
        attemptOf(record.attempt).writes = record.writes;
        break;
      case 'end':
        attemptOf(record.attempt).outcome = record.outcome;
        if (record.error) {
          errors.set(record.error, (errors.get(record.error) ?? 0) + 1);
        }
    }
  }

  badReads.forEach((text) => report('read', text));
  checkState(
    [...rows.values()].map(({ account, incarnation, version, balance }) => [account, incarnation, version, balance]),
    broken,
  );
  broken.forEach((kind, text) => report(kind, text));
  for (const [kind, total] of totals) {
    const ofKind = [...rows.values()].filter(({ account }) => kindOf(account) === kind);
    const sum = ofKind.reduce((balance, row) => balance + row.balance, 0);
    if (sum !== total) {
      report('sum', `All of ${kind} together are ${sum}, and should be ${total}.`);
    }
  }
  nodes.forEach((node) => checkNode(node, [...rows.values()], writes, report));
  const counts = checkAttempts(attempts, report);
  checkChains(incarnations, rows, report);
  return { violations, ...counts, errors, writes, writesOf, reads };
}

type Report = (kind: Violation, text: string) => void;

function titleOf(row: number): string {
  const name = nameOf(row);
  return name[0]!.toUpperCase() + name.slice(1);
}

/** What must hold between rows, of those that were seen at once. */
function checkState(rows: readonly Seen[], broken: Map<string, Violation>): void {
  for (const [row, , version, lines] of rows) {
    if (kindOf(row) === 'sale' && lines > LINES) {
      broken.set(`${titleOf(row)} has ${lines} lines at version ${version}.`, 'lines');
    }
  }
  const off = new Map(rows.filter((row) => kindOf(row[0]) === 'doctor' && row[3] === 0).map((row) => [row[0], row[2]]));
  for (const [one, other] of pairs()) {
    if (off.has(one) && off.has(other)) {
      const text = `${titleOf(one)} at version ${off.get(one)} and ${nameOf(other)} at version ${off.get(other)} are both off call.`;
      broken.set(text, 'offCall');
    }
  }
}

function checkNode(
  { node, rows, lines }: Extract<HistoryRecord, { type: 'elsewhere' }>,
  first: readonly Extract<HistoryRecord, { type: 'row' }>[],
  writes: number,
  report: Report,
): void {
  const tell = ([account, incarnation, version, balance]: Seen) =>
    `${nameOf(account)} (incarnation ${incarnation}) at version ${version} with ${balance}`;
  const here = first.map(({ account, incarnation, version, balance }) =>
    tell([account, incarnation, version, balance]),
  );
  const there = rows.map(tell);
  const onlyHere = here.filter((row) => !there.includes(row));
  const onlyThere = there.filter((row) => !here.includes(row));
  if (onlyHere.length + onlyThere.length > 0) {
    const list = (names: string[]) => names.join(', ') || 'nothing';
    report('diverged', `Only the first node has ${list(onlyHere)}; only node ${node} has ${list(onlyThere)}.`);
  }
  if (lines !== writes) {
    report('diverged', `Node ${node} has ${lines} lines in its journal, and the first one ${writes}.`);
  }
}

function checkAttempts(
  attempts: ReadonlyMap<string, Attempt>,
  report: Report,
): Pick<Verdict, 'outcomes' | 'unknownCommitted'> {
  const outcomes = { success: 0, failure: 0, unknown: 0, killed: 0 };
  let unknownCommitted = 0;
  for (const [id, { writes, journal, outcome }] of attempts) {
    outcomes[outcome ?? 'killed']++;
    const intended = writes.map(describe).toSorted();
    const found = journal.map(describe).toSorted();
    const missing = intended.filter((write) => !found.includes(write));
    const foreign = found.filter((write) => !intended.includes(write));
    const isWhole = missing.length + foreign.length === 0 && intended.length === found.length;
    if (found.length > 0 && writes.length === 0) {
      report('unheard', `${id} has written ${found.join(', ')}, and never said that it would.`);
    } else if (found.length > 0 && outcome === 'failure') {
      report('hiddenSuccess', `${id} was reported as a failure, but the database has ${found.join(', ')}.`);
    } else if (outcome === 'success' && found.length === 0 && intended.length > 0) {
      report('lostSuccess', `${id} was reported as a success, but the database has nothing of ${intended.join(', ')}.`);
    } else if (found.length > 0 && !isWhole) {
      report('torn', `${id} was going to write ${intended.join(', ')}, but the database has ${found.join(', ')}.`);
    } else if (found.length > 0 && outcome !== 'success') {
      unknownCommitted++;
    }
  }
  return { outcomes, unknownCommitted };
}

function describe({ account, incarnation, kind, read, written, balance }: Write): string {
  const left = kind === 'raw' ? '' : ` to ${written}`;
  return `${kind} of ${nameOf(account)}.${incarnation} from version ${read}${left}, balance ${balance}`;
}

function checkChains(
  incarnations: ReadonlyMap<string, readonly { write: Write; attempt: string }[]>,
  rows: ReadonlyMap<number, Extract<HistoryRecord, { type: 'row' }>>,
  report: Report,
): void {
  const last = new Map<number, number>();
  for (const entries of incarnations.values()) {
    const { account, incarnation } = entries[0]!.write;
    last.set(account, Math.max(incarnation, last.get(account) ?? 0));
  }
  for (const account of rows.keys()) {
    if (!last.has(account)) {
      report('chain', `${titleOf(account)} exists, but the journal does not know it.`);
    }
  }
  for (const [account, latest] of last) {
    for (let incarnation = 1; incarnation <= latest; incarnation++) {
      const entries = incarnations.get(`${account}/${incarnation}`) ?? [];
      const row = rows.get(account);
      checkChain(account, incarnation, entries, row?.incarnation === incarnation ? row : undefined, report);
    }
    if ((rows.get(account)?.incarnation ?? latest) !== latest) {
      report(
        'chain',
        `${titleOf(account)} is in incarnation ${rows.get(account)!.incarnation}, the journal in ${latest}.`,
      );
    }
  }
}

/** From the creation of a row, link by link, to its deletion or to what is in the table. */
function checkChain(
  account: number,
  incarnation: number,
  entries: readonly { write: Write; attempt: string }[],
  row: Extract<HistoryRecord, { type: 'row' }> | undefined,
  report: Report,
): void {
  const name = `${titleOf(account)} (incarnation ${incarnation})`;
  const links = Map.groupBy(entries, ({ write }) => write.read);
  for (const [read, writers] of links) {
    if (writers.length > 1) {
      const names = writers.map(({ write, attempt }) => `${attempt} (${write.kind})`).join(', ');
      report(
        'lostUpdate',
        `${name}: ${read === null ? 'it' : `version ${read}`} has ${writers.length} writers: ${names}.`,
      );
    }
  }
  for (const { write, attempt } of entries) {
    if (write.kind === 'raw' && write.written === write.read) {
      report('unseen', `${name}: ${attempt} has written it past the ORM, and version ${write.read} is what it was.`);
    }
  }
  const created = links.get(null)?.[0];
  if (!created) {
    report('chain', `${name} was written, but never created.`);
    return;
  }
  let { write } = created;
  let reached = links.get(null)!.length;
  while (write.written !== null) {
    const next = links.get(write.written);
    if (!next) {
      break;
    }
    const following = next[0]!.write;
    if (following.written !== null && following.written !== write.written + 1) {
      report('chain', `${name}: a writer that had read version ${write.written} wrote ${following.written}.`);
      if (following.written <= write.written) {
        return;
      }
    }
    reached += next.length;
    write = next.find((entry) => entry.write.kind === 'delete')?.write ?? following;
  }
  if (reached < entries.length) {
    report(
      'chain',
      `${name}: its chain ends at version ${write.written}, and ${entries.length - reached} writes are not in it.`,
    );
  }
  if (write.kind === 'delete') {
    if (row) {
      report('chain', `${name} was deleted at version ${write.read}, but is there with version ${row.version}.`);
    }
    return;
  }
  if (!row) {
    report('chain', `${name} ends at version ${write.written} without a delete, but is gone.`);
    return;
  }
  const commits = created.write.written! - 1 + entries.filter((entry) => entry.write.kind !== 'delete').length;
  if (row.version !== commits) {
    report('count', `${name} has version ${row.version}, but ${commits} writes were committed.`);
  }
  if (row.version === write.written && row.balance !== write.balance) {
    report('balance', `${name} holds ${row.balance}, but its last writer left ${write.balance}.`);
  } else if (row.version !== write.written) {
    report('chain', `${name} has version ${row.version}, but its chain ends at ${write.written}.`);
  }
}
