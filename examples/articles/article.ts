/** What the service stores. The last property is all that an entity needs to be locked. */
import { type InferEntity, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

export const ArticleSchema = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    body: p.text().default(''),
    hits: p.integer().default(0),
    /** Who has saved it, by the name that was given, and when; for the people in front of the pages. */
    editor: p.string().default('').hidden(),
    savedAt: p.datetime().nullable().hidden(),
    version: p.type(VersionField),
  },
});

export type Article = InferEntity<typeof ArticleSchema>;
