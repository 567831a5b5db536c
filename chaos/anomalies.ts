/**
 * Which anomalies does a history have, by the names that the literature gives them? Pure: records in, findings out.
 *
 * As Elle does, it infers who depends on whom from what was read and written: a writer on the one before it (ww), a reader
 * on the writer of what it has read (wr), and a writer comes after whoever has read the version before (rw). No serial order
 * has a cycle of these; the kinds of its edges name the anomaly.
 *
 * @see Adya, "Weak Consistency"; Kingsbury and Alvaro, "Elle"; Berenson et al., "A Critique of ANSI SQL Isolation Levels" (P4)
 */
import type { HistoryRecord, Write } from './history.ts';
import { nameOf } from './rows.ts';

/** What each breaks; `undefined`: nothing that was promised, because most rows that are only read are not verified. */
export const ANOMALIES = {
  P4: 'promise 1: a version is written over once (lost update)',
  G0: 'promise 4: a flush is all or nothing (writes of two transactions in both orders)',
  G1a: 'the engine: nobody reads what was rolled back',
  G1b: 'the engine: nobody reads what its writer has written over before it committed',
  G1c: 'the engine: what one has read of the other, the other has not read of it',
  'G2-verified': 'verify(): what a write rests on stays as it is until COMMIT (write skew)',
  'G2-verified between nodes': 'the same of transactions on several nodes of a cluster',
  'G-single': undefined,
  'G2-item': undefined,
} as const;

export type Anomaly = keyof typeof ANOMALIES;

export interface Finding {
  readonly kind: Anomaly;
  readonly text: string;
}

type EdgeKind = 'ww' | 'wr' | 'rw';

interface Edge {
  readonly kind: EdgeKind;
  readonly to: string;
  readonly account: number;
}

/** What was written, by whom, one version after the other. */
type Version = Write & { readonly attempt: string };
type ReadRow = { readonly attempt: string; readonly row: readonly [number, number, number, number] };

/** How many rw edges of one knot are tried as the beginning of a cycle: to name an example, not to count. */
const TRIED = 50;

/**
 * @param history the records of the database first, then those of the workers
 * @param nodeOf on which node of a cluster an attempt was made
 */
export function findAnomalies(
  history: Iterable<HistoryRecord>,
  nodeOf: (attempt: string) => number = () => 0,
): Finding[] {
  const versions: Version[] = [];
  const intended: Version[] = [];
  const reads: ReadRow[] = [];
  const rests: ReadRow[] = [];
  for (const record of history) {
    if (record.type === 'journal') {
      versions.push(record);
    } else if (record.type === 'intent') {
      intended.push(...record.writes.map((write) => ({ ...write, attempt: record.attempt })));
    } else if (record.type === 'read' || record.type === 'rests') {
      const rows = record.rows.map((row) => ({ attempt: record.attempt, row }));
      (record.type === 'read' ? reads : rests).push(...rows);
    }
  }
  const committed = new Set(versions.map(({ attempt }) => attempt));
  const ofCommitted = (rows: readonly ReadRow[]) => rows.filter(({ attempt }) => committed.has(attempt));
  const graph = new Graph();
  const lost = addWrites(graph, versions);
  addReads(graph, versions, ofCommitted(reads), lost.steps);
  return [
    ...lost.findings,
    ...dirtyReads(versions, intended, reads, committed),
    ...verifiedInVain(versions, ofCommitted(rests), lost.steps, nodeOf),
    ...graph.cycles(),
  ];
}

/** Cycles of transactions whose reads were all verified; those of one node are another matter than those of several. */
function verifiedInVain(
  versions: readonly Version[],
  rests: readonly ReadRow[],
  lost: ReadonlySet<string>,
  nodeOf: (attempt: string) => number,
): Finding[] {
  const cycles = (isIn: (of: { attempt: string }) => boolean) => {
    const graph = new Graph();
    addWrites(graph, versions.filter(isIn));
    addReads(graph, versions.filter(isIn), rests.filter(isIn), lost);
    return graph.cyclesOfVerified();
  };
  const nodes = new Set(versions.map(({ attempt }) => nodeOf(attempt)));
  const within = [...nodes].flatMap((node) => cycles(({ attempt }) => nodeOf(attempt) === node));
  const between = cycles(() => true).filter((text) => !within.includes(text));
  return [
    ...within.map((text) => ({ kind: 'G2-verified', text }) as const),
    ...between.map((text) => ({ kind: 'G2-verified between nodes', text }) as const),
  ];
}

/** Of a row: which version; null is that it is not there. */
function keyOf(account: number, incarnation: number, version: number | null): string {
  return `${account}/${incarnation}/${version}`;
}

/** Edges from writer to writer, and what more than one has written over; no edges come of these, whose order nobody knows. */
function addWrites(graph: Graph, versions: readonly Version[]): { findings: Finding[]; steps: Set<string> } {
  const writers = new Map(
    versions.map((version) => [keyOf(version.account, version.incarnation, version.written), version]),
  );
  const findings: Finding[] = [];
  const steps = new Set<string>();
  const updates = versions.filter(({ read }) => read !== null);
  for (const [key, rivals] of Map.groupBy(updates, (one) => keyOf(one.account, one.incarnation, one.read))) {
    const [{ account, read, attempt }] = rivals as [Version];
    const names = new Set(rivals.map((rival) => rival.attempt));
    if (names.size > 1) {
      steps.add(key);
      findings.push({
        kind: 'P4',
        text: `${[...names].join(' and ')} have both written over version ${read} of ${nameOf(account)}.`,
      });
    } else if (writers.has(key)) {
      graph.add(writers.get(key)!.attempt, { kind: 'ww', to: attempt, account });
    }
  }
  return { findings, steps };
}

function addReads(
  graph: Graph,
  versions: readonly Version[],
  reads: readonly ReadRow[],
  lost: ReadonlySet<string>,
): void {
  const writers = new Map<string, string>();
  const overwriters = new Map<string, string>();
  for (const { account, incarnation, read, written, attempt } of versions) {
    writers.set(keyOf(account, incarnation, written), attempt);
    overwriters.set(keyOf(account, incarnation, read), attempt);
  }
  for (const { attempt, row } of reads) {
    const [account, incarnation, version] = row;
    const key = keyOf(account, incarnation, version);
    const [writer, overwriter] = [writers.get(key), overwriters.get(key)];
    if (writer !== undefined) {
      graph.add(writer, { kind: 'wr', to: attempt, account });
    }
    if (overwriter !== undefined && !lost.has(key)) {
      graph.add(attempt, { kind: 'rw', to: overwriter, account });
    }
  }
}

/** G1a and G1b: rows that nobody should have seen. */
function dirtyReads(
  versions: readonly Version[],
  intended: readonly Version[],
  reads: readonly ReadRow[],
  committed: ReadonlySet<string>,
): Finding[] {
  const keyOfState = ({ account, incarnation, written, balance }: Version) =>
    `${keyOf(account, incarnation, written)}=${balance}`;
  const present = new Map(versions.map((version) => [keyOfState(version), version]));
  const aborted = new Map(
    intended.filter(({ attempt }) => !committed.has(attempt)).map((version) => [keyOfState(version), version]),
  );
  const overwriters = new Map(versions.map((one) => [keyOf(one.account, one.incarnation, one.read), one.attempt]));
  const findings: Finding[] = [];
  for (const { attempt, row } of reads) {
    const [account, incarnation, version, balance] = row;
    const key = keyOf(account, incarnation, version);
    const writer = present.get(`${key}=${balance}`)?.attempt;
    const rolledBack = aborted.get(`${key}=${balance}`)?.attempt;
    const what = `version ${version} of ${nameOf(account)}`;
    if (writer === undefined && rolledBack !== undefined && rolledBack !== attempt) {
      findings.push({ kind: 'G1a', text: `${attempt} has read ${what}, which ${rolledBack} has not committed.` });
    } else if (writer !== undefined && writer !== attempt && overwriters.get(key) === writer) {
      findings.push({ kind: 'G1b', text: `${attempt} has read ${what}, which ${writer} itself has written over.` });
    }
  }
  return findings;
}

/** Which transaction comes after which. */
class Graph {
  readonly #edges = new Map<string, Edge[]>();

  add(from: string, edge: Edge): void {
    if (from !== edge.to) {
      (this.#edges.get(from) ?? this.#edges.set(from, []).get(from)!).push(edge);
    }
  }

  /** For each knot of transactions an example of each kind of cycle, named by the worst edges that it needs. */
  cycles(): Finding[] {
    const findings: Finding[] = [];
    const find = (kind: Anomaly, kinds: readonly EdgeKind[], first: EdgeKind, rest: readonly EdgeKind[]) => {
      for (const knot of this.#knots(kinds)) {
        const cycle = this.#cycleIn(knot, first, rest);
        if (cycle) {
          findings.push({ kind, text: cycle });
        }
      }
    };
    find('G0', ['ww'], 'ww', ['ww']);
    find('G1c', ['ww', 'wr'], 'wr', ['ww', 'wr']);
    find('G-single', ['ww', 'wr', 'rw'], 'rw', ['ww', 'wr']);
    // … with one rw edge it is the one above
    for (const knot of this.#knots(['ww', 'wr', 'rw'])) {
      const isSingle = this.#cycleIn(knot, 'rw', ['ww', 'wr']) !== undefined;
      const cycle = isSingle ? undefined : this.#cycleIn(knot, 'rw', ['ww', 'wr', 'rw']);
      if (cycle) {
        findings.push({ kind: 'G2-item', text: cycle });
      }
    }
    return findings;
  }

  /** Where all reads are of rows that were held until COMMIT: in the order of the commits nothing leads back. */
  cyclesOfVerified(): string[] {
    const cycles = this.#knots(['ww', 'wr', 'rw']).map((knot) => this.#cycleIn(knot, 'rw', ['ww', 'wr', 'rw']));
    return cycles.filter((text) => text !== undefined);
  }

  #next(from: string, kinds: readonly EdgeKind[]): Edge[] {
    return (this.#edges.get(from) ?? []).filter(({ kind }) => kinds.includes(kind));
  }

  /** An edge of one kind, and a way back of the others, in a sentence. */
  #cycleIn(knot: ReadonlySet<string>, first: EdgeKind, rest: readonly EdgeKind[]): string | undefined {
    const starts = [...knot].flatMap((from) => this.#next(from, [first]).map((edge) => ({ from, edge })));
    for (const { from, edge } of starts.filter(({ edge }) => knot.has(edge.to)).slice(0, TRIED)) {
      const back = this.#way(edge.to, from, knot, rest);
      if (back) {
        return `${from}${[edge, ...back].map(({ kind, account, to }) => ` -${kind}(${account})-> ${to}`).join('')}`;
      }
    }
    return undefined;
  }

  /** The shortest one. */
  #way(from: string, to: string, knot: ReadonlySet<string>, kinds: readonly EdgeKind[]): Edge[] | undefined {
    const ways = new Map<string, Edge[]>([[from, []]]);
    for (const [reached, way] of ways) {
      if (reached === to) {
        return way;
      }
      for (const edge of this.#next(reached, kinds)) {
        if (knot.has(edge.to) && !ways.has(edge.to)) {
          ways.set(edge.to, [...way, edge]);
        }
      }
    }
    return undefined;
  }

  /** Sets of more than one transaction in which each comes after each other (Kosaraju's algorithm). */
  #knots(kinds: readonly EdgeKind[]): Set<string>[] {
    const backward = new Map<string, string[]>();
    for (const from of this.#edges.keys()) {
      for (const { to } of this.#next(from, kinds)) {
        (backward.get(to) ?? backward.set(to, []).get(to)!).push(from);
      }
    }
    const seen = new Set<string>();
    const order = [...this.#edges.keys()].flatMap((start) =>
      visit(start, (node) => this.#next(node, kinds).map(({ to }) => to), seen),
    );
    seen.clear();
    return order
      .toReversed()
      .map((start) => new Set(visit(start, (node) => backward.get(node) ?? [], seen)))
      .filter(({ size }) => size > 1);
  }
}

/** What can be reached from here and was not seen before, each after all that it leads to. Without recursion: it is deep. */
function visit(start: string, next: (node: string) => readonly string[], seen: Set<string>): string[] {
  const done: string[] = [];
  const stack = seen.has(start) ? [] : [{ node: start, left: [...next(start)] }];
  seen.add(start);
  while (stack.length > 0) {
    const { node, left } = stack.at(-1)!;
    const child = left.pop();
    if (child === undefined) {
      done.push(node);
      stack.pop();
    } else if (!seen.has(child)) {
      seen.add(child);
      stack.push({ node: child, left: [...next(child)] });
    }
  }
  return done;
}
