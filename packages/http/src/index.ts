export { etag } from './etag.ts';
export { PreconditionError, claimedVersion, ifMatch, ifNoneMatch, notModified } from './preconditions.ts';
export type { HeaderValue } from './preconditions.ts';
export { problem } from './problem.ts';
export type { Problem, ProblemBody } from './problem.ts';
