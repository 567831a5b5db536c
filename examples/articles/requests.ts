/** What requests may carry, for the API and for the pages. */

export interface ById {
  Params: { id: number };
}

export const integer = { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 };
export const params = { type: 'object', required: ['id'], properties: { id: integer } };
export const text = { type: 'string', pattern: '^[^\\0]*$', maxLength: 10_000 };
export const title = { ...text, maxLength: 255 };
