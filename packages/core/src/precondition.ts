/** The version that a client has named: its request is meant for that state of the row, and for no later one. */

/** By entity. An assigned version that equals the loaded one leaves no trace on the entity itself. */
const named = new WeakMap<object, number>();

/** @internal A client wants its change on top of this version only. */
export function setPrecondition(entity: object, version: number): void {
  named.set(entity, version);
}

/** @internal Has a client named this version of the entity? When it was written, it has another one. */
export function hasPrecondition(entity: object, version: number | null): boolean {
  return version !== null && named.get(entity) === version;
}
