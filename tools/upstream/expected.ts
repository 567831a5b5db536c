/**
 * What fails wrapped and passes plain, and is meant to: with the reason. Everything else that does is a bug of ours, or
 * belongs in here after somebody has looked at it.
 */
import type { Run } from './runs.ts';

interface Expectation {
  reason: string;
  /** Of which run; of both unless told. */
  run?: Exclude<Run, 'plain'>;
  /** Matched with "file > name of the test". */
  test?: RegExp;
  /** Matched with what the test says when it fails. */
  error?: RegExp;
}

export const EXPECTED: Expectation[] = [];

export function reasonOf(run: Run, test: string, error: string): string | undefined {
  return EXPECTED.find(
    (one) => (!one.run || one.run === run) && (one.test?.test(test) ?? true) && (one.error?.test(error) ?? true),
  )?.reason;
}
