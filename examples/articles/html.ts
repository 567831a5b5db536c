/** What the pages look like, and what they say, in the words of somebody who has never heard of a version. */
import { htmlEscape } from 'escape-goat';
import type { Article } from './article.ts';
import { FIELDS, type Field, type Texts } from './requests.ts';

const LABELS: Record<Field, string> = { title: 'Title', body: 'Text' };

export function start(articles: readonly Article[]): string {
  const items = articles.map(
    ({ id, title }) => htmlEscape`<li><a href="/articles/${id}/edit">${title || '(no title)'}</a></li>`,
  );
  return page(
    'Articles',
    `<p>Open an article <strong>in two tabs</strong>, change it in both, and save both: nobody's words get lost.</p>
<ul>${items.join('')}</ul>
<h2>Write a new one</h2>
${newArticle({ title: '', body: '' }, '', 'Create')}`,
  );
}

export function edit(article: Article, editor: string, isSaved: boolean): string {
  const { id, version } = article;
  return page(
    'Edit the article',
    `${isSaved ? '<p class="saved" role="status">Saved.</p>' : ''}
<form method="post" action="/articles/${id}/edit">
${inputs(article)}
${hidden({ 'base.title': article.title, 'base.body': article.body, version })}
${yourName(editor)}
<button>Save</button>
</form>
<form method="post" action="/articles/${id}/delete">${hidden({ version })}<button class="quiet">Delete this article</button></form>
<p><a href="/">All articles</a></p>`,
  );
}

/** What a save has met: what both began with, what is saved now, what was about to be, and what both have changed. */
interface Met {
  readonly id: number;
  readonly base: Texts;
  readonly theirs: Article;
  readonly mine: Texts;
  readonly open: ReadonlySet<string>;
  readonly editor: string;
}

export function conflict(met: Met): string {
  const { id, base, theirs, mine, open, editor } = met;
  const who = nameOf(theirs);
  const changed = FIELDS.filter((field) => mine[field] !== base[field] || theirs[field] !== base[field]);
  const asks = changed.some((field) => open.has(field));
  const kept = (field: Field) => (mine[field] === base[field] ? theirs[field] : mine[field]);
  return page(
    `${who} saved this article before you`,
    `<p>${lastSaved(theirs)} <strong>Nothing of yours is saved yet, and nothing is lost.</strong>
${asks ? 'Where you both changed the same, please choose.' : 'You did not change the same, so everything can be kept. Please look at the result.'}</p>
<form method="post" action="/articles/${id}/edit">
${changed.map((field) => (open.has(field) ? choice(field, met) : merged(field, met, kept(field)))).join('\n')}
${hidden({ title: kept('title'), body: kept('body') })}
${hidden({ 'base.title': theirs.title, 'base.body': theirs.body, version: theirs.version, editor })}
<button>Save</button> <a href="/articles/${id}/edit?by=${encodeURIComponent(editor)}">Discard my changes</a>
</form>`,
  );
}

function choice(field: Field, { base, theirs, mine }: Met): string {
  const name = `choice.${field}`;
  const option = (value: string, label: string, text: string) => htmlEscape`<div class="option">
<label><input type="radio" name="${name}" value="${value}" required aria-describedby="${name}.${value}"> ${label}</label>
<blockquote id="${name}.${value}">${text}</blockquote></div>`;
  return `<fieldset>
<legend>${LABELS[field]}: you both changed it</legend>
${hidden({ [`asked.${field}`]: '1' })}
${htmlEscape`<p>Before, it was:</p><blockquote>${base[field]}</blockquote>`}
${option('mine', 'Keep mine', mine[field])}
${option('theirs', `Use ${possessive(theirs)}`, theirs[field])}
<div class="option"><label><input type="radio" name="${name}" value="other" required> Write something else</label>
${input(`other.${field}`, `${LABELS[field]}, new`, mine[field])}</div>
</fieldset>`;
}

function merged(field: Field, { base, theirs, mine }: Met, kept: string): string {
  const isMine = mine[field] !== base[field];
  const isTheirs = theirs[field] !== base[field];
  const whose = isMine && isTheirs ? 'you both made the same change' : isMine ? 'only you changed it' : '';
  const said = whose || `only ${nameOf(theirs)} changed it`;
  return htmlEscape`<section><h2>${LABELS[field]}: ${said}</h2><blockquote>${kept}</blockquote></section>`;
}

export function undecided(): string {
  return page(
    'Something is left to choose',
    '<p>Go back, and choose for each. Nothing was saved, and nothing is lost.</p>',
  );
}

export function gone(mine: Texts, editor: string): string {
  return page(
    'Somebody deleted this article',
    `<p>It was deleted while you were editing. <strong>Nothing of yours is lost:</strong> here it is. You may save it as a new article, or leave it deleted.</p>
${newArticle(mine, editor, 'Save as a new article')}
<p><a href="/">Leave it deleted</a></p>`,
  );
}

export function deleteAllTheSame(theirs: Article): string {
  const { id, version } = theirs;
  return page(
    `${nameOf(theirs)} saved this article before you deleted it`,
    `<p>${lastSaved(theirs)} It was not deleted. This is what it says now:</p>
${htmlEscape`<h2>${theirs.title}</h2><blockquote>${theirs.body}</blockquote>`}
<form method="post" action="/articles/${id}/delete">${hidden({ version })}<button>Delete it all the same</button>
<a href="/articles/${id}/edit">Keep it</a></form>`,
  );
}

/** "Ada", or "Somebody". */
function nameOf({ editor }: Article): string {
  return editor === '' ? 'Somebody' : editor;
}

function possessive({ editor }: Article): string {
  return editor === '' ? 'theirs' : `${editor}'s`;
}

function lastSaved({ editor, savedAt }: Article): string {
  const who = editor === '' ? 'Somebody else' : editor;
  if (!savedAt) {
    return htmlEscape`${who} saved it while you had it open.`;
  }
  const at = savedAt.toISOString();
  return htmlEscape`${who} saved it on <time datetime="${at}">${at.slice(0, 16).replace('T', ' at ')} UTC</time>, while you had it open.`;
}

function newArticle(texts: Texts, editor: string, action: string): string {
  return `<form method="post" action="/articles">${inputs(texts)}${yourName(editor)}<button>${action}</button></form>`;
}

function inputs(texts: Texts): string {
  return FIELDS.map((field) => input(field, LABELS[field], texts[field])).join('\n');
}

function input(name: string, label: string, value: string): string {
  return name.endsWith('title')
    ? htmlEscape`<label>${label} <input name="${name}" value="${value}" maxlength="255"></label>`
    : htmlEscape`<label>${label} <textarea name="${name}" rows="5">\n${value}</textarea></label>`;
}

function yourName(editor: string): string {
  return htmlEscape`<label>Your name, so that others know who saved <input name="editor" value="${editor}" maxlength="60"></label>`;
}

function hidden(values: Record<string, string | number>): string {
  const fields = Object.entries(values);
  return fields.map(([name, value]) => htmlEscape`<input type="hidden" name="${name}" value="${value}">`).join('');
}

function page(heading: string, content: string): string {
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${htmlEscape(heading)}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933 }
  label { display: block; margin: 1rem 0; font-weight: 600 }
  input:not([type=hidden], [type=radio]), textarea { display: block; width: 100%; box-sizing: border-box; font: inherit; font-weight: 400; padding: .5rem; border: 1px solid #616e7c; border-radius: 4px }
  button { font: inherit; padding: .5rem 1rem; border: 0; border-radius: 4px; background: #1d4ed8; color: #fff }
  button.quiet { background: #fff; color: #b91c1c; border: 1px solid #b91c1c; margin-top: 1rem }
  :focus-visible { outline: 3px solid #f59e0b; outline-offset: 2px }
  h2 { font-size: 1.1rem }
  fieldset { border: 1px solid #b7791f; background: #fffbea; border-radius: 4px; margin: 1rem 0; padding: .5rem 1rem }
  legend { font-weight: 600 }
  .option { margin: .75rem 0 }
  .option label { margin: 0 }
  blockquote { margin: .25rem 0 .25rem 1.6rem; padding: .25rem .75rem; border-left: 3px solid #9aa5b1; white-space: pre-wrap; min-height: 1.5em }
  .saved { background: #c6f7e2; padding: .5rem }
</style>
<main>
<h1>${htmlEscape(heading)}</h1>
${content}
</main>
</html>`;
}
