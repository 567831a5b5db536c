/**
 * What `problem()` answers, for those who describe an API: JSON Schemas of the bodies, and responses for OpenAPI.
 *
 *   { responses: { 200: …, 412: problemResponses[412], 428: problemResponses[428] } }
 */

/** As much of JSON Schema (2020-12, which is that of OpenAPI 3.1) as is used here. */
export interface JsonSchema {
  type?: string | string[];
  description?: string;
  enum?: (string | number)[];
  required?: string[];
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  minItems?: number;
  minimum?: number;
}

/** A Response Object of OpenAPI 3.1. */
export interface OpenApiResponse {
  description: string;
  headers?: Record<string, { description: string; schema: JsonSchema }>;
  content: { 'application/problem+json': { schema: JsonSchema } };
}

/** The statuses of `problem()`. */
export type ProblemStatus = 207 | 400 | 409 | 412 | 428;

const version: JsonSchema = { type: ['integer', 'null'], minimum: 0 };

const conflicts: JsonSchema = {
  type: 'array',
  minItems: 1,
  items: {
    type: 'object',
    required: ['entityName', 'primaryKey', 'operation', 'expected', 'actual'],
    properties: {
      entityName: { type: 'string' },
      primaryKey: { description: 'The value of a simple key, an object by property of a composite one.' },
      operation: { type: 'string', enum: ['update', 'delete', 'check'] },
      expected: { ...version, description: 'The version that the change is based on; null: none.' },
      actual: { ...version, description: 'The version in the database; null: the row is gone.' },
    },
  },
};

function schemaOf(status: ProblemStatus, title: string, reasons: string[], isRace: boolean): JsonSchema {
  return {
    type: 'object',
    required: ['title', 'status', 'reason', 'detail', ...(status === 207 ? ['conflicts'] : [])],
    properties: {
      title: { type: 'string', enum: [title] },
      status: { type: 'integer', enum: [status] },
      reason: { type: 'string', enum: reasons },
      detail: { type: 'string' },
      ...(isRace && { conflicts }),
    },
  };
}

/** The JSON Schema of the body of each status. */
export const problemSchemas: Record<ProblemStatus, JsonSchema> = {
  207: schemaOf(207, 'Multi-Status', ['partial'], true),
  400: schemaOf(400, 'Bad Request', ['malformed'], false),
  409: schemaOf(409, 'Conflict', ['busy', 'changed', 'removed', 'stale'], true),
  412: schemaOf(412, 'Precondition Failed', ['changed', 'exists', 'removed', 'stale'], true),
  428: schemaOf(428, 'Precondition Required', ['ambiguous', 'exists', 'missing'], false),
};

const DESCRIPTIONS: Record<ProblemStatus, string> = {
  207: 'Some rows were saved; others were changed or removed by somebody else, and were not.',
  400: 'The precondition or the version cannot be understood. Nothing was written.',
  409: 'Somebody else was faster. Nothing was written. Read again, and decide again.',
  412: 'It is not in the state that the precondition names. Nothing was written. Read again, and decide again.',
  428: 'The request does not say which state it is based on. Nothing was written. Send If-Match.',
};

const headers: OpenApiResponse['headers'] = {
  ETag: { description: 'The tag that the row has now, where there is one.', schema: { type: 'string' } },
};

function responseOf(status: ProblemStatus): OpenApiResponse {
  return {
    description: DESCRIPTIONS[status],
    ...(status === 412 && { headers }),
    content: { 'application/problem+json': { schema: problemSchemas[status] } },
  };
}

/** The OpenAPI 3.1 response of each status. */
export const problemResponses: Record<ProblemStatus, OpenApiResponse> = {
  207: responseOf(207),
  400: responseOf(400),
  409: responseOf(409),
  412: responseOf(412),
  428: responseOf(428),
};
