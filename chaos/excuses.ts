/** What a run may show without being wrong: what nothing was promised against, and what an engine allows itself. */
import { ANOMALIES, type Anomaly } from './anomalies.ts';
import type { Violation } from './checker.ts';
import type { Plan } from './model.ts';

type Kind = Violation | Anomaly;

/** Commits that were acknowledged, and read, are gone where the server that takes over has not got them. */
const LOST_WITH_A_PRIMARY: readonly Kind[] = ['lostSuccess', 'read', 'G1a'];

/**
 * What is locked to be verified is locked on its own node, and the nodes compare nothing but writes (docs/scaling.md). Who
 * has taken a pair off call is not seen in its state: two of one node are a `G2-verified` as well.
 */
const NOT_HELD_BETWEEN_NODES: readonly Kind[] = ['offCall', 'G2-verified between nodes'];

/** Whether commits that were acknowledged may be gone after a fail-over. */
export function isLossy({ cluster }: Pick<Plan, 'cluster'>): boolean {
  return cluster === 'standby-async';
}

/** Why this is no violation, in a few words; `undefined`: it is one. */
export function excuseOf(kind: Kind, plan: Pick<Plan, 'cluster'>): string | undefined {
  if (kind in ANOMALIES && ANOMALIES[kind as Anomaly] === undefined) {
    return 'examples; allowed';
  }
  if (plan.cluster === 'galera' && NOT_HELD_BETWEEN_NODES.includes(kind)) {
    return 'the engine allows it: other nodes do not know what is only verified, which bounds promise 6 and verify()';
  }
  return isLossy(plan) && LOST_WITH_A_PRIMARY.includes(kind)
    ? 'the engine allows it: asynchronous fail-over, which bounds promises 1 and 3'
    : undefined;
}
