/**
 * Pages to edit articles with: HTML forms that need no JavaScript.
 *
 * The form carries the version that it shows, and the texts that it began with. When somebody else has saved meanwhile,
 * `rebase()` merges what only one of the two has changed, and a page asks for the rest.
 */
import formbody from '@fastify/formbody';
import type { MikroORM } from '@mikro-orm/core';
import { ConcurrentUpdate } from '@mikro-ool/core';
import { claimedVersion } from '@mikro-ool/http';
import { rebase } from '@mikro-ool/resolve';
import { htmlEscape } from 'escape-goat';
import type { FastifyInstance } from 'fastify';
import { type Article, ArticleSchema } from './article.ts';
import { type ById, params, text, title } from './requests.ts';

const TEXTS = ['title', 'body'] as const;
type Text = (typeof TEXTS)[number];
type Texts = Record<Text, string>;

/** What the form sends: the texts, those that it began with, and the version that these had. */
type Form = Texts & { [Key in Text as `base.${Key}`]: string } & { version: string };

const form = {
  type: 'object',
  required: ['title', 'body', 'base.title', 'base.body', 'version'],
  properties: { title, body: text, 'base.title': title, 'base.body': text, version: text },
};
export async function addPages(app: FastifyInstance, { orm }: { orm: MikroORM }): Promise<void> {
  await app.register(formbody);

  app.get('/', async (_request, reply) => {
    const articles = await orm.em.fork().find(ArticleSchema, {}, { orderBy: { id: 'asc' }, limit: 100 });
    const items = articles.map(
      (article) => htmlEscape`<li><a href="/articles/${article.id}/edit">${article.title}</a></li>`,
    );
    return reply.type('text/html').send(page('Articles', `<ul>${items.join('')}</ul>`));
  });

  app.get<ById & { Querystring: { saved?: string } }>(
    '/articles/:id/edit',
    { schema: { params } },
    async ({ params: { id }, query }, reply) => {
      const article = await orm.em.fork().findOneOrFail(ArticleSchema, id);
      const notice = query.saved === undefined ? '' : '<p class="saved">Saved.</p>';
      return reply.type('text/html').send(page('Edit the article', notice + editor(article, article, 'Save')));
    },
  );

  app.post<ById & { Body: Form }>(
    '/articles/:id/edit',
    { schema: { params, body: form } },
    async ({ params: { id }, body: sent }, reply) => {
      const em = orm.em.fork();
      // browsers send line ends of their own
      const [base, mine] = [
        { title: lines(sent['base.title']), body: lines(sent['base.body']) },
        { title: lines(sent.title), body: lines(sent.body) },
      ];
      const article = em.merge(ArticleSchema, {
        id,
        ...base,
        version: claimedVersion(sent.version === '' ? null : Number(sent.version)),
      } as Article);
      em.assign(article, mine);
      try {
        await em.flush();
      } catch (error) {
        if (!(error instanceof ConcurrentUpdate)) {
          throw error;
        }
        const { clashes, deleted } = await rebase(em, error);
        reply.code(409).type('text/html');
        if (deleted.length > 0) {
          return reply.send(page('The article is gone', gone(mine)));
        }
        const theirs = em.getUnitOfWork().getOriginalEntityData(article) as unknown as Texts;
        const open = new Set<string>(clashes.map(({ property }) => property));
        return reply.send(
          page(
            'Somebody else has saved meanwhile',
            comparison(base, theirs, mine, open) + editor(article, theirs, 'Save the merge', open),
          ),
        );
      }
      return reply.redirect(`/articles/${id}/edit?saved`, 303);
    },
  );
}

function lines(sent: string): string {
  return sent.replaceAll('\r\n', '\n');
}

/** The form, filled with `texts`; its base is what is saved. */
function editor(
  texts: Texts & { id: number; version: number },
  base: Texts,
  action: string,
  open = new Set<string>(),
): string {
  const mark = (name: Text) => (open.has(name) ? 'open' : '');
  return htmlEscape`<form method="post" action="/articles/${texts.id}/edit">
  <label class="${mark('title')}">Title <input name="title" value="${texts.title}" maxlength="255"></label>
  <label class="${mark('body')}">Text <textarea name="body" rows="5">\n${texts.body}</textarea></label>
  <input type="hidden" name="base.title" value="${base.title}">
  <input type="hidden" name="base.body" value="${base.body}">
  <input type="hidden" name="version" value="${texts.version}">
  <button>${action}</button> <a href="/articles/${texts.id}/edit">Discard my changes</a>
</form>`;
}

/** Property by property: what both began with, what was saved meanwhile, and what was about to be. */
function comparison(base: Texts, theirs: Texts, mine: Texts, open: Set<string>): string {
  const rows = TEXTS.map((name) => {
    const isMine = mine[name] !== base[name];
    const isTheirs = theirs[name] !== base[name];
    const outcome = open.has(name)
      ? 'Both have changed it. Say below what it shall be.'
      : isMine
        ? 'Yours is kept.'
        : isTheirs
          ? 'Theirs is taken over.'
          : 'Unchanged.';
    return htmlEscape`<tr class="${open.has(name) ? 'open' : ''}"><th>${name === 'title' ? 'Title' : 'Text'}</th><td>${base[name]}</td><td>${theirs[name]}</td><td>${mine[name]}</td><td>${outcome}</td></tr>`;
  });
  return `<p>Nothing of yours was saved yet, and nothing is lost.</p>
<table><thead><tr><th></th><th>Before</th><th>Theirs</th><th>Yours</th><th></th></tr></thead><tbody>${rows.join('')}</tbody></table>`;
}

function gone(mine: Texts): string {
  return htmlEscape`<p>Somebody else has removed it. This is what you were about to save:</p>
<h2>${mine.title}</h2><pre>${mine.body}</pre><p><a href="/">All articles</a></p>`;
}

function page(heading: string, content: string): string {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${htmlEscape(heading)}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933 }
  label { display: block; margin: 1rem 0; font-weight: 600 }
  input:not([type=hidden]), textarea { display: block; width: 100%; box-sizing: border-box; font: inherit; padding: .5rem; border: 1px solid #9aa5b1; border-radius: 4px }
  button { font: inherit; padding: .5rem 1rem; border: 0; border-radius: 4px; background: #2563eb; color: #fff }
  table { border-collapse: collapse; width: 100% }
  th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #cbd2d9; white-space: pre-wrap }
  .open { background: #fff3c4 }
  .saved { background: #c6f7e2; padding: .5rem }
</style>
<h1>${htmlEscape(heading)}</h1>
${content}
</html>`;
}
