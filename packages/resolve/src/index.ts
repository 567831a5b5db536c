export { flushEach } from './each.ts';
export type { FlushedEach } from './each.ts';
export { MergeConflict, mergeOnConflict } from './merge.ts';
export type { MergeOptions } from './merge.ts';
export { rebase } from './rebase.ts';
export type { Clash, Deleted, PropertyClash, Rebased, Removed } from './rebased.ts';
export { retryOnConflict } from './retry.ts';
export type { RetryMessage, RetryOptions } from './retry.ts';
