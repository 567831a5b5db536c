/**
 * The code of the pages, as files that a compiler and Node take.
 *
 * All `ts` blocks of a page are one program, in the order in which they stand; one that has a name (`ts [article.ts]`) is a
 * file of its own. What a reader need not see, and the program needs, stands in a comment that begins with `<!-- ts`.
 */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

const root = join(import.meta.dirname, '../..');
const BLOCK = /^( *)(?:```(\w*)(?: \[([^\]\n]*)\])?|<!-- (ts))\n(.*?)^ *(?:```|-->)/gms;

interface Block {
  readonly language: string;
  readonly file: string | undefined;
  readonly text: string;
}

export interface Page {
  readonly name: string;
  /** The blocks without a name of their own. */
  readonly program: string;
  /** What the page says that the program prints: its blocks without a language. */
  readonly output: string;
  /** Where its files are: the program is `page.ts` there. */
  readonly directory: string;
}

/** Every page that has code, written into a directory that imports are found from. */
export function writePages(): Page[] {
  const directory = join(root, 'docs/.pages');
  return pages().map(([path, markdown]) => {
    const name = path.startsWith('packages') ? basename(dirname(path)) : basename(path, '.md');
    const page = join(directory, name);
    mkdirSync(page, { recursive: true });
    const blocks = blocksOf(markdown);
    const code = blocks.filter(({ language }) => language === 'ts');
    for (const { file, text } of code.filter((block) => block.file !== undefined)) {
      writeFileSync(join(page, file!), text);
    }
    const program = textOf(code.filter(({ file }) => file === undefined));
    writeFileSync(join(page, 'page.ts'), program === '' ? 'export {};\n' : program);
    return { name, program, output: textOf(blocks.filter(({ language }) => language === '')), directory: page };
  });
}

function textOf(blocks: readonly Block[]): string {
  return blocks.map(({ text }) => text).join('');
}

function pages(): [path: string, markdown: string][] {
  const docs = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  const packages = readdirSync(join(root, 'packages')).map((name) => join('packages', name, 'README.md'));
  return ['README.md', ...docs.map((name) => join('docs', name)), ...packages]
    .map((path): [string, string] => [path, readFileSync(join(root, path), 'utf8')])
    .filter(([, markdown]) => blocksOf(markdown).some(({ language }) => language === 'ts'));
}

function blocksOf(markdown: string): Block[] {
  return [...markdown.matchAll(BLOCK)].map(([, indent, language, file, hidden, text]) => ({
    language: hidden ?? language!,
    file,
    text: text!.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  }));
}
