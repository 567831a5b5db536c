/** Checked by the compiler only: the name of a clash tells the type of its values. */
import { type EntityManager, type Opt, type Ref, type ScalarReference } from '@mikro-orm/core';
import type { ConcurrentUpdate } from '@mikro-ool/core';
import { rebase, retryOnConflict } from '@mikro-ool/resolve';

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const yes = <T extends true>(): T | void => {};

class Author {
  id!: number;
}
class Article {
  id!: number;
  title!: string;
  at!: Date | null;
  text!: ScalarReference<string>;
  author!: Ref<Author> | null;
  place!: { city: string };
  version!: Opt<number>;
}

export async function clashes(em: EntityManager, article: Article, error: ConcurrentUpdate): Promise<void> {
  for (const clash of (await rebase(em, article)).clashes) {
    clash.takeTheirs();
    yes<Equal<typeof clash.entity, Article>>();
    if (clash.property === 'title') {
      yes<Equal<typeof clash.base, string | undefined>>();
      yes<Equal<typeof clash.theirs, string>>();
    } else if (clash.property === 'at') {
      yes<Equal<typeof clash.mine, Date | null>>();
    } else if (clash.property === 'author') {
      yes<Equal<typeof clash.mine, Ref<Author> | null>>();
    } else if (clash.property === 'text') {
      yes<Equal<typeof clash.mine, string>>();
    } else if (clash.property === 'place.city') {
      yes<Equal<typeof clash.mine, unknown>>();
    }
    // @ts-expect-error there is no such property
    yes<Equal<typeof clash.property, 'titel'>>();
  }
  const { clashes, deleted } = await rebase(em, error);
  yes<Equal<(typeof clashes)[number]['property'], string>>();
  yes<Equal<(typeof clashes)[number]['theirs'], unknown>>();
  yes<Equal<(typeof deleted)[number]['entity'], object>>();
}

export async function results<Em extends EntityManager & { extra: 1 }>(em: Em): Promise<void> {
  const result = await retryOnConflict(em, async (own) => own.extra);
  yes<Equal<typeof result, 1>>();
  // @ts-expect-error no such option
  await retryOnConflict(em, () => {}, { retries: 3 });
}
