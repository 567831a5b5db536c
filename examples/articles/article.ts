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
    version: p.type(VersionField),
  },
});

export type Article = InferEntity<typeof ArticleSchema>;
