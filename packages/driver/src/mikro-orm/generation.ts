import type { Layer } from './layers.ts';

/** How often a unit of work was cleared: what `em.clear()` has forgotten is not to be brought back. */
const generations = new WeakMap<object, number>();

/** Changes when everything in the unit of work is forgotten. */
export function generationOf(uow: object): number {
  return generations.get(uow) ?? 0;
}

/** Counts `em.clear()`. */
export const countingClears: Layer<{ clear(): void }> = (Base) =>
  class extends Base {
    override clear(): void {
      super.clear();
      generations.set(this, generationOf(this) + 1);
    }
  };
