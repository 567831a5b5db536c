/**
 * Which EntityManagers are hooked: the one that a driver creates, and all its forks, each when it is used first. Forks
 * are made by `new em.constructor()`, for every request and transaction; most of what hooking costs is left to those that
 * do something.
 *
 * They are of a class below their own, but `em.constructor` stays what it was: a container of dependencies takes it for
 * its token.
 */
import type { EntityManager, FlushMode, UnitOfWork } from '@mikro-orm/core';

type Hook = (em: EntityManager) => void;
type ManagerClass = new (...args: unknown[]) => EntityManager;

/**
 * Methods that are hooked on the instance. In `em.refresh(await em.findOneOrFail(…))` the first is looked up before the
 * second has hooked anything, so they call what is there by the time that they run.
 */
const HOOKED_METHODS = ['refresh', 'transactional', 'upsert', 'upsertMany', 'merge'] as const;
type Methods = Record<(typeof HOOKED_METHODS)[number], (...args: unknown[]) => unknown>;

/** How an EntityManager is hooked, until it is. */
const HOOK = Symbol('mikro-ool hook');

/** While an EntityManager is being forked, its constructor is that of the fork, … */
let isForking = false;
/** … which cannot be hooked, and need not be, from then on until MikroORM has told it its flush mode. */
let isSettingUp = false;

/** Hooks an EntityManager that a driver has created. Returns it. */
export function hookManager<Manager extends EntityManager>(em: Manager, hook: Hook): Manager {
  return Object.setPrototypeOf(em, hookedClass(em.constructor as ManagerClass, hook).prototype);
}

/** Hooks it, if it is not yet. Returns whether it was not. */
function hookFirst(em: object): boolean {
  const hook = (em as { [HOOK]?: Hook })[HOOK];
  if (!hook || isSettingUp) {
    return false;
  }
  Object.defineProperty(em, HOOK, { value: undefined });
  hook(em as EntityManager);
  return true;
}

/** A class whose instances are hooked as soon as anything that is hooked can be reached by them. */
function hookedClass(Manager: ManagerClass, hook: Hook): ManagerClass {
  class Hooked extends Manager {
    override fork(options?: object): never {
      const outer = isForking;
      isForking = true;
      try {
        return super.fork(options) as never;
      } finally {
        isForking = outer;
        isSettingUp = false;
      }
    }

    override setFlushMode(flushMode?: FlushMode): void {
      try {
        super.setFlushMode(flushMode);
      } finally {
        isSettingUp = false;
      }
    }

    override getContext(validate?: boolean): never {
      const em = super.getContext(validate);
      hookFirst(em);
      return em as never;
    }

    override getUnitOfWork(useContext = true): UnitOfWork {
      if (!useContext) {
        hookFirst(this);
      }
      return super.getUnitOfWork(useContext);
    }
  }
  const own = Manager.prototype as unknown as Methods;
  const methods = HOOKED_METHODS.map((name): [string, PropertyDescriptor] => {
    function hooked(this: Methods, ...args: unknown[]): unknown {
      hookFirst(this);
      const method = Object.hasOwn(this, name) ? this[name] : own[name];
      return method.apply(this, args);
    }
    return [name, { value: hooked, writable: true, configurable: true }];
  });
  /** The hooks find the methods of the user's class, which they replace by methods of the instance. */
  const hookOwn = (em: EntityManager): void => {
    HOOKED_METHODS.forEach((name) => ((em as unknown as Methods)[name] = own[name]));
    hook(em);
  };
  const constructor = (): ManagerClass => {
    isSettingUp = isForking;
    return isForking ? Hooked : Manager;
  };
  Object.defineProperties(Hooked.prototype, {
    constructor: { get: constructor, configurable: true },
    ...Object.fromEntries(methods),
    [HOOK]: { value: hookOwn },
  });
  return Hooked;
}
