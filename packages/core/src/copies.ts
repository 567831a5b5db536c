/**
 * Two copies of a package in one process: a hoisting accident, a mixed workspace, a bundle. `instanceof` knows the classes
 * of one copy only, so what has to be recognised carries a mark that is the same in all of them.
 */
import { Type } from '@mikro-orm/core';

type Class = abstract new (...args: never[]) => object;

/** Makes `instanceof` of this class true for an object of another copy of it, too. */
export function recogniseCopies(own: Class, name: string): void {
  const mark = Symbol.for(`mikro-ool:${name}`);
  Object.defineProperty(own.prototype, mark, { value: true });
  Object.defineProperty(own, Symbol.hasInstance, {
    // subclasses inherit this, and are not marked
    value(this: Class, value: unknown): boolean {
      return this === own
        ? (value as { [mark]?: boolean } | null | undefined)?.[mark] === true
        : Function.prototype[Symbol.hasInstance].call(this, value);
    },
  });
}

/** @internal Is it this type of MikroORM's, or one that extends it, of whichever copy of MikroORM? */
export function isOfType(type: object | undefined, key: 'bigint' | 'json'): boolean {
  let own = type?.constructor as Parameters<typeof Type.getOrmType>[0] | null | undefined;
  while (own) {
    if (Type.getOrmType(own) === key) {
      return true;
    }
    own = Object.getPrototypeOf(own) as typeof own;
  }
  return false;
}
