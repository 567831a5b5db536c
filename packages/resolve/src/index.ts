export { rebase } from './rebase.ts';
export type { Clash, Deleted, PropertyClash, Rebased, Removed } from './rebase.ts';
export { retryOnConflict } from './retry.ts';
export type { RetryMessage, RetryOptions } from './retry.ts';
