/** What requests may carry, for the API and for the pages. */

export interface ById {
  Params: { id: number };
}

export const integer = { type: 'integer', minimum: 1, maximum: 2 ** 31 - 1 };
export const params = { type: 'object', required: ['id'], properties: { id: integer } };
export const text = { type: 'string', pattern: '^[^\\0]*$', maxLength: 10_000 };
export const title = { ...text, maxLength: 255 };
export const name = { ...text, maxLength: 60 };

/** What people write. */
export const FIELDS = ['title', 'body'] as const;
export type Field = (typeof FIELDS)[number];
export type Texts = Record<Field, string>;

/** What was decided about a field that two have changed. */
type Choice = 'mine' | 'theirs' | 'other';

/** A form: the texts, those that it began with, the version that these had; and, after a conflict, what was decided. */
export type Form = Texts & { version: string; editor: string } & { [Key in Field as `base.${Key}`]: string } & {
  [Key in Field as `asked.${Key}`]?: string;
} & { [Key in Field as `choice.${Key}`]?: Choice } & { [Key in Field as `other.${Key}`]?: string };

const choice = { type: 'string', enum: ['mine', 'theirs', 'other'] };
const editor = { ...name, default: '' };

export const form = {
  type: 'object',
  required: ['title', 'body', 'base.title', 'base.body', 'version'],
  properties: {
    ...{ title, body: text, 'base.title': title, 'base.body': text, 'other.title': title, 'other.body': text },
    ...{ 'choice.title': choice, 'choice.body': choice, version: text, editor },
  },
};
export const newArticle = { type: 'object', required: ['title'], properties: { title, body: text, editor } };
export const removal = { type: 'object', required: ['version'], properties: { version: text } };
export const seen = { type: 'object', properties: { saved: text, by: name } };

/** Browsers send line ends of their own. */
export function lines(sent: string): string {
  return sent.replaceAll('\r\n', '\n');
}

/** The texts of a form, with what was decided; `undefined` while something is not. */
export function decided(sent: Form): Texts | undefined {
  const values = FIELDS.map((field) => {
    const picked = sent[`choice.${field}`];
    if (sent[`asked.${field}`] !== undefined && picked === undefined) {
      return undefined;
    }
    return { mine: sent[field], theirs: sent[`base.${field}`], other: sent[`other.${field}`] }[picked ?? 'mine'];
  });
  const [newTitle, body] = values;
  return newTitle === undefined || body === undefined ? undefined : { title: lines(newTitle), body: lines(body) };
}
