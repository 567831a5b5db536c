/** The entities of that config, in a file of their own, where the command line can find them. */
import { defineEntity, p } from '@mikro-orm/core';

export const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.integer().version() },
});
