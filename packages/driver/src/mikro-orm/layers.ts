/**
 * Layers of methods between MikroORM's objects and their classes, which call what is below them by `super`. Objects that
 * are made for every request must not get methods of their own: closures for each cost more than what they do, and an
 * object that they refer to outlives many collections of garbage.
 */
export type Layer<Methods> = (Base: Class<Methods>) => Class<object>;
export type Class<Methods> = new (...args: never[]) => Methods;

/** The class with these layers over another one, the last one outermost. */
export function layersOver<Target extends object>(Base: Class<Target>, layers: readonly Layer<never>[]): Class<Target> {
  return layers.reduce<Class<object>>((Below, layer) => layer(Below as never), Base) as Class<Target>;
}

/** Makes a function that puts these layers over an object. Its class stays what it was for code that asks for it. */
export function putting(layers: readonly Layer<never>[]): (target: object) => void {
  const made = new Map<object, object>();
  return (target) => {
    const below = Object.getPrototypeOf(target) as object;
    let prototype = made.get(below);
    if (!prototype) {
      const Base = target.constructor as Class<object>;
      prototype = layersOver(Base, layers).prototype as object;
      Object.defineProperty(prototype, 'constructor', { value: Base });
      made.set(below, prototype);
    }
    Object.setPrototypeOf(target, prototype);
  };
}

/** What layers know of an object, kept on the object itself. */
export class StateOn<State extends object> {
  readonly #key = Symbol('mikro-ool');

  give(owner: object, state: State): void {
    (owner as Record<symbol, State>)[this.#key] = state;
  }

  of(owner: object): State {
    return (owner as Record<symbol, State>)[this.#key]!;
  }

  has(owner: object): boolean {
    return (owner as Record<symbol, unknown>)[this.#key] !== undefined;
  }
}
