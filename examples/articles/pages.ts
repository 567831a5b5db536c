/**
 * Pages to write articles with: HTML forms that need no JavaScript.
 *
 * A form carries the version that it shows, and the texts that it began with. When somebody else has saved meanwhile,
 * `rebase()` merges what only one of the two has changed, and a page asks for the rest.
 */
import formbody from '@fastify/formbody';
import type { MikroORM } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { claimedVersion } from '@mikro-ool/http';
import { rebase } from '@mikro-ool/resolve';
import type { FastifyInstance, FastifyReply } from 'fastify';
import { type Article, ArticleSchema } from './article.ts';
import * as html from './html.ts';
import { type ById, FIELDS, type Form, decided, form, lines, newArticle, params, removal, seen } from './requests.ts';

export async function addPages(app: FastifyInstance, { orm }: { orm: MikroORM }): Promise<void> {
  await app.register(formbody);

  app.get('/', async (_request, reply) => {
    const articles = await orm.em.fork().find(ArticleSchema, {}, { orderBy: { id: 'asc' }, limit: 100 });
    return show(reply, 200, html.start(articles));
  });

  app.post<{ Body: { title: string; body: string; editor: string } }>(
    '/articles',
    { schema: { body: newArticle } },
    async ({ body: { title, body, editor } }, reply) => {
      const em = orm.em.fork();
      const article = em.create(ArticleSchema, { title, body: lines(body ?? ''), editor, savedAt: new Date() });
      await em.flush();
      return saved(reply, article.id, editor);
    },
  );

  app.get<ById & { Querystring: { saved?: string; by?: string } }>(
    '/articles/:id/edit',
    { schema: { params, querystring: seen } },
    async ({ params: { id }, query: { saved: isSaved, by } }, reply) => {
      const article = await orm.em.fork().findOneOrFail(ArticleSchema, id);
      return show(reply, 200, html.edit(article, by ?? '', isSaved !== undefined));
    },
  );

  app.post<ById & { Body: Form }>(
    '/articles/:id/edit',
    { schema: { params, body: form } },
    async ({ params: { id }, body: sent }, reply) => {
      const version = versionIn(sent.version);
      const mine = decided(sent);
      if (!mine) {
        return show(reply, 400, html.undecided());
      }
      const em = orm.em.fork();
      const base = { title: lines(sent['base.title']), body: lines(sent['base.body']) };
      const article = em.merge(ArticleSchema, { id, ...base, version } as Article);
      const isChanged = FIELDS.some((field) => mine[field] !== base[field]);
      em.assign(article, { ...mine, ...(isChanged && { editor: sent.editor, savedAt: new Date() }) });
      try {
        await em.flush();
      } catch (error) {
        if (!(error instanceof ConcurrentUpdate)) {
          throw error;
        }
        const { clashes, deleted } = await rebase(em, error);
        if (deleted.length > 0) {
          return show(reply, 409, html.gone(mine, sent.editor));
        }
        const theirs = { ...em.getUnitOfWork().getOriginalEntityData(article) } as unknown as Article;
        theirs.savedAt &&= new Date(theirs.savedAt); // it is as the database has it
        const open = new Set<string>(clashes.map(({ property }) => property));
        return show(reply, 409, html.conflict({ id, base, theirs, mine, open, editor: sent.editor }));
      }
      return saved(reply, id, sent.editor);
    },
  );

  app.post<ById & { Body: { version: string } }>(
    '/articles/:id/delete',
    { schema: { params, body: removal } },
    async ({ params: { id }, body }, reply) => {
      const em = orm.em.fork();
      const article = em.getReference(ArticleSchema, id);
      article.version = versionIn(body.version);
      try {
        await em.remove(article).flush();
      } catch (error) {
        const theirs = error instanceof ConcurrentUpdate ? await orm.em.fork().findOne(ArticleSchema, id) : undefined;
        if (theirs) {
          return show(reply, 409, html.deleteAllTheSame(theirs));
        }
        if (theirs === undefined) {
          throw error;
        } // else somebody else has deleted it, which is what was wanted
      }
      return reply.redirect('/', 303);
    },
  );
}

function show(reply: FastifyReply, status: number, page: string): FastifyReply {
  return reply.code(status).type('text/html').send(page);
}

function saved(reply: FastifyReply, id: number, editor: string): FastifyReply {
  return reply.redirect(`/articles/${id}/edit?saved&by=${encodeURIComponent(editor)}`, 303);
}

/** A form has texts only. */
function versionIn(sent: string): number {
  return claimedVersion(sent === '' ? null : Number(sent));
}
