/** What all recipes store, and how they read a request; a framework's own validation does the latter as well. */
import { type InferEntity, defineEntity, p } from '@mikro-orm/core';
import { VersionField } from '@mikro-ool/core';

export const ArticleSchema = defineEntity({
  name: 'Article',
  properties: {
    id: p.integer().primary(),
    title: p.string(),
    hits: p.integer().default(0),
    notes: p.string().default('').hidden(),
    version: p.type(VersionField),
  },
});

export type Article = InferEntity<typeof ArticleSchema>;

/** The key in a path; 0, which no article has, when it is none. */
export function idIn(text: string | undefined): number {
  return /^\d{1,9}$/.test(text ?? '') ? Number(text) : 0;
}

/** What a body may change; `undefined` when it is not understood. */
export function changesIn(body: unknown): { title?: string; hits?: number } | undefined {
  const { title, hits } = (body ?? {}) as { title?: unknown; hits?: unknown };
  const isTitle = title === undefined || (typeof title === 'string' && title.length <= 255 && !title.includes('\0'));
  const isHits = hits === undefined || (Number.isInteger(hits) && Math.abs(hits as number) < 2 ** 31);
  return isTitle && isHits
    ? { ...(title !== undefined && { title }), ...(hits !== undefined && { hits: hits as number }) }
    : undefined;
}
