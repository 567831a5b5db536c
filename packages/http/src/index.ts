export { etag } from './etag.ts';
export { PreconditionError, claimedVersion, ifMatch, ifNoneMatch, notModified } from './preconditions.ts';
export type { HeaderValue, PreconditionReason } from './preconditions.ts';
export { problem } from './problem.ts';
export type { Problem, ProblemBody, ProblemOptions, Reason } from './problem.ts';
export { problemResponses, problemSchemas } from './schemas.ts';
export type { JsonSchema, OpenApiResponse, ProblemStatus } from './schemas.ts';
