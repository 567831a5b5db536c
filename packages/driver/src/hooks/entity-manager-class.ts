/**
 * Which EntityManagers are hooked: the one that a driver creates, and all its forks. Forks are made by
 * `new em.constructor()`, for every request and transaction; what belongs to one is hooked when it is used first.
 *
 * They are of a class below their own, but `em.constructor` stays what it was: a container of dependencies takes it for
 * its token.
 */
import type { EntityFactory, EntityManager, FlushMode, UnitOfWork } from '@mikro-orm/core';
import type { Flush } from '../flush/flush.ts';
import type { TransactionLog } from '../memory/transaction-log.ts';
import { giveState, hasState, newState, stateOf } from '../mikro-orm/flush-state.ts';
import { countingClears } from '../mikro-orm/generation.ts';
import { type Class, type Layer, layersOver, putting } from '../mikro-orm/layers.ts';
import { forked } from '../mikro-orm/outside.ts';
import { noticingTouches } from '../mikro-orm/touches.ts';
import { persisting } from './change-set-persister.ts';
import { reading, readingPolymorphic, settling, settlingMerges } from './entity-factory.ts';
import { beginning, locking, refreshing, transacting } from './entity-manager.ts';
import { keepingItems, keepingStacks, keepingValues } from './in-flight.ts';
import { caching } from './result-cache.ts';
import { type UnitOfWorkMethods, flushing, ordering, queueing, writing } from './unit-of-work.ts';
import { upserting } from './upserts.ts';

const overPersister = putting([persisting]);
const overFactory = putting([reading, readingPolymorphic]);
/** The persister is asked for by `em.insert()` too, without a flush. */
const askingForPersister: Layer<UnitOfWorkMethods> = (Base) =>
  class extends Base {
    override getChangeSetPersister(): ReturnType<UnitOfWorkMethods['getChangeSetPersister']> {
      const persister = super.getChangeSetPersister();
      if (!hasState(persister)) {
        giveState(persister, stateOf(this));
        overPersister(persister);
      }
      return persister;
    }
  };
const overUnitOfWork = putting([
  ...[countingClears, queueing, keepingStacks, askingForPersister, noticingTouches, flushing],
  ...[writing, keepingValues, keepingItems, ordering, settling, locking],
]);

/** While an EntityManager is being forked, its constructor is that of the fork, … */
let isForking = false;
/** … which cannot be hooked, and need not be, from then on until MikroORM has told it its flush mode. */
let isSettingUp = false;
/** `em.getEntityFactory()` answers with the factory of whichever EntityManager is in context; this one is asked for its own. */
let asked: EntityManager | undefined;

/** Makes the flushes of an EntityManager. */
const BEGIN = Symbol('mikro-ool begin');
type Begin = (em: EntityManager) => Flush;
/** What belongs to an EntityManager is hooked. */
const HOOKED = Symbol('mikro-ool hooked');

/**
 * Hooks an EntityManager that a driver has created. Returns it.
 *
 * @param begin makes a flush of an EntityManager
 */
export function hookManager<Manager extends EntityManager>(em: Manager, log: TransactionLog, begin: Begin): Manager {
  const Manager = em.constructor as Class<EntityManager>;
  const Hooked = layersOver(Manager, [
    hooking,
    settlingMerges,
    refreshing,
    transacting(log),
    beginning,
    caching,
    upserting,
  ]);
  const constructor = (): Class<EntityManager> => {
    isSettingUp = isForking;
    return isForking ? Hooked : Manager;
  };
  Object.defineProperty(Hooked.prototype, 'constructor', { get: constructor, configurable: true });
  Object.defineProperty(Hooked.prototype, BEGIN, { value: begin });
  return Object.setPrototypeOf(em, Hooked.prototype);
}

/** Hooks what belongs to an EntityManager, if it is not yet. */
function hookFirst(manager: EntityManager): void {
  const em = manager as EntityManager & { [BEGIN]?: Begin; [HOOKED]?: boolean };
  const begin = em[BEGIN];
  if (em[HOOKED] || !begin || isSettingUp) {
    return;
  }
  em[HOOKED] = true;
  const uow = em.getUnitOfWork(false);
  const factory = ownFactory(em);
  const state = newState(em, factory, () => begin(em));
  giveState(uow, state);
  overUnitOfWork(uow);
  giveState(factory, state);
  overFactory(factory);
}

function ownFactory(em: EntityManager): EntityFactory {
  asked = em;
  try {
    return em.getEntityFactory();
  } finally {
    asked = undefined;
  }
}

/** Hooks an EntityManager as soon as anything that is hooked can be reached by it. */
const hooking: Layer<EntityManager> = (Base) =>
  class extends Base {
    override fork(options: { clear?: boolean; disableContextResolution?: boolean } = {}): never {
      const outer = isForking;
      isForking = true;
      let fork: EntityManager;
      try {
        fork = super.fork(options) as never;
      } finally {
        isForking = outer;
        isSettingUp = false;
      }
      if (options.clear === false) {
        const source: EntityManager = options.disableContextResolution ? this : this.getContext(false);
        forked(
          fork.getUnitOfWork(false),
          source.getUnitOfWork(false),
          source.isInTransaction() && !fork.isInTransaction(),
        );
      }
      return fork as never;
    }

    override setFlushMode(flushMode?: FlushMode): void {
      try {
        super.setFlushMode(flushMode);
      } finally {
        isSettingUp = false;
      }
    }

    override getContext(validate?: boolean): never {
      const em = asked ?? super.getContext(validate);
      hookFirst(em as EntityManager);
      return em as never;
    }

    override getUnitOfWork(useContext = true): UnitOfWork {
      if (!useContext) {
        hookFirst(this);
      }
      return super.getUnitOfWork(useContext);
    }
  };
