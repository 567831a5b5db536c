/** From which version on a transaction has written a row without a gap: nobody else has changed it in between. */
interface Written {
  readonly from: number;
  to: number;
}

const written = new WeakMap<object, Written>();

/** A flush has moved the version of the entity's row. */
export function wrote(entity: object, from: number, to: number): void {
  const known = written.get(entity);
  if (known?.to === from) {
    known.to = to;
  } else {
    written.set(entity, { from, to });
  }
}

/** The version that the row had before all writes that have led to this one. */
export function writtenFrom(entity: object, version: unknown): number | undefined {
  const known = written.get(entity);
  return known?.to === version ? known?.from : undefined;
}
