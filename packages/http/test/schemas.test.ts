/** The schemas refuse what is no answer, and OpenAPI takes the responses; that real answers pass is in the contract. */
import { problemResponses, problemSchemas } from '@mikro-ool/http';
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { expect, test } from 'vitest';

test('OpenAPI 3.1 takes the responses, and they are needed to be as they are', async () => {
  const document = (responses: object) => ({
    openapi: '3.1.0',
    info: { title: 'Articles', version: '1' },
    paths: { '/articles/{id}': { put: { responses } } },
  });
  const validate = async (responses: object) => (await new Validator().validate(document(responses))).valid;
  expect(await validate(problemResponses)).toBe(true);
  expect(await validate({ 412: { content: problemResponses[412].content } })).toBe(false);
});

test('what lacks a member, has another status, or a conflict that says too little is no answer', () => {
  const isValid = new Ajv2020().compile(problemSchemas[409]);
  const conflict = { entityName: 'Article', primaryKey: 1, operation: 'update', expected: 1, actual: 2 };
  const body = { title: 'Conflict', status: 409, reason: 'changed', detail: 'x', conflicts: [conflict] };
  expect(isValid(body)).toBe(true);
  expect(isValid({ ...body, conflicts: [{ ...conflict, expected: null, actual: null }] })).toBe(true);
  for (const wrong of [
    { ...body, detail: undefined },
    { ...body, reason: 'bored' },
    { ...body, status: 412 },
    { ...body, title: 'Oops' },
    { ...body, conflicts: [] },
    { ...body, conflicts: [{ ...conflict, actual: '2' }] },
    { ...body, conflicts: [{ ...conflict, actual: undefined }] },
  ]) {
    expect(isValid(JSON.parse(JSON.stringify(wrong)))).toBe(false);
  }
});
