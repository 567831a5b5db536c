/** How often a unit of work was cleared: what `em.clear()` has forgotten is not to be brought back. */
const generations = new WeakMap<object, number>();

/** Changes when everything in the unit of work is forgotten. */
export function generationOf(uow: object): number {
  return generations.get(uow) ?? 0;
}

/** Counts `em.clear()`. */
export function countClears(uow: { clear(): void }): void {
  const { clear } = uow;
  uow.clear = () => {
    clear.call(uow);
    generations.set(uow, generationOf(uow) + 1);
  };
}
