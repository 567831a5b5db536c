/** Checked by the compiler only: what inference must give, in every style of declaring entities. */
import { type EntityManager, EntitySchema, type InferEntity, type Opt, defineEntity, p } from '@mikro-orm/core';
import { ConcurrentUpdate, VersionField, type VersionOptions } from '@mikro-ool/core';

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const yes = <T extends true>(): T | void => {};

const Article = defineEntity({
  name: 'Article',
  properties: { id: p.integer().primary(), title: p.string(), version: p.type(VersionField) },
});

class Note {
  id!: number;
  text!: string;
  version!: Opt<number>;
}
export const NoteSchema = new EntitySchema<Note>({
  class: Note,
  properties: { id: { type: 'integer', primary: true }, text: { type: 'string' }, version: { type: VersionField } },
});

export function inference(em: EntityManager, article: InferEntity<typeof Article>, note: Note): void {
  // the version is a number for whoever reads or assigns it
  const read: number = article.version;
  article.version = 3;
  note.version = read;

  // em.create() does not ask for it, and takes it
  em.create(Article, { id: 1, title: 'x' });
  em.create(Article, { id: 1, title: 'x', version: 42 });
  em.create(Note, { id: 1, text: 'x' });
  // @ts-expect-error a title is required all the same
  em.create(Article, { id: 1 });
  // @ts-expect-error a version is a number
  em.create(Article, { id: 1, title: 'x', version: '1' });
}

export function conflicts(error: ConcurrentUpdate): void {
  const [first] = error.conflicts;
  yes<Equal<NonNullable<typeof first>['actual'], number | null>>();
  yes<Equal<NonNullable<typeof first>['operation'], 'update' | 'delete' | 'check'>>();
  // @ts-expect-error conflicts are read-only
  error.conflicts.push(first!);
}

/** A version with options is a number like any other, and only options that exist are taken. */
const Told = defineEntity({
  name: 'Told',
  properties: {
    id: p.integer().primary(),
    likes: p.integer(),
    version: p.type(new VersionField({ start: 'random', exclude: ['likes'], guard: true })),
  },
});

export function options(em: EntityManager, told: InferEntity<typeof Told>): void {
  const read: number = told.version;
  em.create(Told, { id: 1, likes: read });
  yes<Equal<VersionOptions['start'], 'random' | undefined>>();
  yes<Equal<VersionOptions['exclude'], readonly string[] | undefined>>();
  yes<Equal<VersionOptions['guard'], boolean | undefined>>();
}

export const fields = [
  new VersionField(),
  new VersionField({}),
  // @ts-expect-error versions start at the default, or at random
  new VersionField({ start: 'anywhere' }),
  // @ts-expect-error names, not one name
  new VersionField({ exclude: 'likes' }),
  // @ts-expect-error yes or no
  new VersionField({ guard: 'trigger' }),
  // @ts-expect-error misspelt
  new VersionField({ excludes: ['likes'] }),
];
